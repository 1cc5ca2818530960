"""Settings and the database at the start of the service (contract 6)."""
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from flask import request, request_started
from inside import Commands, Unusable, close_database

from app import create_app

PROJECT = Path(__file__).parents[1]
HOOK = {"path": "/api/v2/webhook", "query_string": {"workflow": "release"},
        "content_type": "application/json"}


@pytest.fixture
def create(environ, clock):
    """Make an application: create(MAX_CONTENT_LENGTH="10")."""
    yield lambda **settings: create_app({**environ, **settings}, clock)
    close_database()


@pytest.fixture
def file(tmp_path):
    """The database file that the settings name."""
    return tmp_path / "signalbox.db"


def command(*args, **settings):
    """Run `flask …` in the project's folder, in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "flask", *args], cwd=PROJECT, text=True,
                            env={"PATH": os.environ["PATH"], **settings},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(process):
    """Exit code, standard output and the lines of standard error."""
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr.splitlines()


def write_other_application(file):
    with sqlite3.connect(file) as other:
        other.execute("PRAGMA application_id = 252006673")
        other.execute("CREATE TABLE workflow (id INTEGER PRIMARY KEY, title TEXT)")
    other.close()


def write_unmarked_tables(file):
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)")
    other.close()


def write_newer_version(file):
    create_app({"DATABASE_URL": f"sqlite:///{file}"})
    close_database()
    with sqlite3.connect(file) as ours:
        version, = ours.execute("PRAGMA user_version").fetchone()
        ours.execute(f"PRAGMA user_version = {version + 1}")
    ours.close()


def write_random_bytes(file):
    file.write_bytes(os.urandom(8192))


def write_text(file):
    file.write_text("these are my notes, please keep them\n")


def write_table_like_ours(file):
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE workflow (id INTEGER, name TEXT)")
        other.execute("PRAGMA user_version = 1")
    other.close()


def write_half_of_ours(file):
    ours = our_bytes(file)
    file.write_bytes(ours[:len(ours) // 2 // 4096 * 4096])


def write_less_than_a_page_of_ours(file):
    file.write_bytes(our_bytes(file)[:1000])


def our_bytes(file):
    """What a file of this service with some runs holds; it is away again."""
    app = create_app({"DATABASE_URL": f"sqlite:///{file}"})
    Commands(app)("workflow", "apply", "-", input='{"name": "release", "tasks": []}')
    for number in range(30):
        app.test_client().post(**HOOK, data=b'{"text": "%s"}' % (b"x" * 1000))
    close_database()
    ours = file.read_bytes()
    for path in file.parent.glob("signalbox.db*"):
        path.unlink()
    return ours


FOREIGN = [write_newer_version, write_random_bytes, write_text, write_other_application,
           write_unmarked_tables, write_table_like_ours, write_half_of_ours,
           write_less_than_a_page_of_ours]


def called(write):
    return write.__name__[6:].replace("_", " ")


WRONG = pytest.mark.parametrize("name, value", [
    *[("MAX_CONTENT_LENGTH", value) for value in ("many", "0", "-1", "1.5", "1MB", "0x10")],
    *[("TRUSTED_PROXIES", value) for value in ("yes", "-1", "0.5", "1,2")],
    *[("DATABASE_URL", value) for value in (
        "oracle://db/signalbox", "signalbox.db", "/var/lib/signalbox.db", "sqlite://",
        "sqlite:///:memory:", "sqlite://[::1/x", "sqlite:///signalbox.db?colour=red")],
    ("NOTIFY_SECRET", "whsec_"), ("NOTIFY_SECRET", "a,whsec_="), ("SECRET_KEY", "whsec_"),
    ("ACCESS_TOKENS", " , "), ("ACCESS_TOKENS", ","), ("PORT", "http"), ("PORT", "-1"),
    ("PORT", "65536"),
    *[(name, value) for name in ("WEB_CONCURRENCY", "THREADS") for value in ("0", "two", "1.5")],
])


def test_defaults_apply_when_nothing_is_set(clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = create_app({}, clock)
    Commands(app)("workflow", "apply", "-", input='{"name": "release", "tasks": []}')
    one_megabyte = b'{"a": "' + b"x" * (1_048_576 - 9) + b'"}'
    assert app.test_client().post(**HOOK, data=one_megabyte).status_code == 200
    assert app.test_client().post(**HOOK, data=one_megabyte + b" ").status_code == 413
    close_database()
    assert (tmp_path / "instance" / "signalbox.db").is_file()


def test_the_databases_folder_is_made_when_missing(create, tmp_path):
    file = tmp_path / "a" / "b c" / "signalbox.db"
    flask = Commands(create(DATABASE_URL=f"sqlite:///{file}"))
    assert flask("workflow", "apply", "-", input='{"name": "release", "tasks": []}').exit_code == 0
    assert file.is_file()


def test_a_second_start_finds_what_the_first_one_stored(create):
    Commands(create())("workflow", "apply", "-", input='{"name": "release", "tasks": []}')
    close_database()
    assert [known["name"] for known in Commands(create()).json("workflow", "list", "--json")] == [
        "release"]


@WRONG
def test_a_wrong_setting_is_refused_by_its_name(create, tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unusable, match=name):
        create(**{name: value})
    assert list(tmp_path.glob("**/*.db")) == []


@pytest.mark.parametrize("name", [
    "MAX_CONTENT_LENGTH", "TRUSTED_PROXIES", "ACCESS_TOKENS", "SECRET_KEY", "CONFIRM_LINKS", "HOST",
    "PORT", "WEB_CONCURRENCY", "THREADS", "PUBLIC_URL"])
def test_an_empty_setting_counts_as_unset(create, name):
    unset = create().config["SETTINGS"][name]
    assert create(**{name: ""}).config["SETTINGS"][name] == unset


def test_an_empty_database_url_counts_as_unset(clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_app({"DATABASE_URL": ""}, clock)
    close_database()
    assert (tmp_path / "instance" / "signalbox.db").is_file()


NEARLY = {"ACCESS_TOKENS": ["ACCESS_TOKEN", "ACCESSTOKENS", "access_tokens", "ACCES_TOKENS",
                            "ACCESS-TOKENS", "ACCESS_TOKNES", "Access_Token"],
          "SECRET_KEY": ["SECRETKEY", "SECRET_KEYS", "secret_key", "SECERT_KEY", "SECRET-KEY",
                         "SECRETS_KEY"]}


@pytest.mark.parametrize("right, wrong", [(right, wrong) for right, words in NEARLY.items()
                                          for wrong in words])
def test_a_variable_that_is_nearly_a_guards_ends_the_start(create, right, wrong):
    with pytest.raises(Unusable, match=f"^{wrong}: .*{right}$") as refusal:
        create(**{wrong: "hunter2"})
    assert "hunter2" not in str(refusal.value)
    found = create(**{wrong: "hunter2", right: "a"}).config["SETTINGS"][right]
    assert found == [(None, "a") if right == "ACCESS_TOKENS" else "a"]
    assert create(**{wrong: ""})


@pytest.mark.parametrize("name", ["GITHUB_TOKEN", "AWS_SECRET_KEY_ID", "TOKENS", "SECRET",
                                  "AWS_SECRET_ACCESS_KEY", "NOTIFY_SECRET", "SSH_KEY"])
def test_another_variable_is_let_be(create, name):
    assert create(**{name: "hunter2"})


def test_all_wrong_settings_are_named_together(create):
    with pytest.raises(Unusable, match="(?s)MAX_CONTENT_LENGTH.*TRUSTED_PROXIES"):
        create(MAX_CONTENT_LENGTH="many", TRUSTED_PROXIES="many")


@pytest.mark.parametrize("name, value", [("MAX_CONTENT_LENGTH", "many"), ("TRUSTED_PROXIES", "-1"),
                                         ("DATABASE_URL", "oracle://me:hunter2@db/signalbox"),
                                         ("ACCESS_TOKENS", ",")])
def test_a_command_with_a_wrong_setting_ends_with_one_line(environ, name, value):
    code, stdout, stderr = outcome(command("workflow", "list", **{**environ, name: value}))
    assert (code, stdout, len(stderr)) == (1, "", 1)
    assert name in stderr[0] and "hunter2" not in stderr[0]


@pytest.mark.parametrize("body, status", [(b'{"a": "1"}', 200), (b'{"a": "12"}', 413)],
                         ids=["10 bytes", "11 bytes"])
def test_the_largest_body_is_a_setting(create, body, status):
    app = create(MAX_CONTENT_LENGTH="10")
    flask, client = Commands(app), app.test_client()
    flask("workflow", "apply", "-", input='{"name": "release", "tasks": []}')
    assert client.post(**HOOK, data=body).status_code == status
    assert len(flask.json("workflowrun", "list", "--json")) == (status == 200)


@pytest.mark.parametrize("proxies, expected", [
    ("0", ("127.0.0.1", "http", "localhost")), ("1", ("198.51.100.2", "https", "b.example")),
    ("2", ("203.0.113.1", "http", "a.example"))])
def test_forwarded_headers_count_as_far_as_proxies_are_trusted(create, proxies, expected):
    app, seen = create(TRUSTED_PROXIES=proxies), []

    def look(sender, **kwargs):
        seen.append((request.remote_addr, request.scheme, request.host))

    headers = {"X-Forwarded-For": "203.0.113.1, 198.51.100.2", "X-Forwarded-Proto": "http, https",
               "X-Forwarded-Host": "a.example, b.example"}
    with request_started.connected_to(look, app):
        app.test_client().get("/", headers=headers)
    assert seen == [expected]


@pytest.mark.parametrize("write", FOREIGN, ids=called)
def test_a_file_that_is_not_ours_is_refused_and_left_as_it_is(create, file, write):
    write(file)
    before = file.read_bytes()
    with pytest.raises(Unusable, match="signalbox.db"):
        create()
    assert file.read_bytes() == before


@pytest.mark.parametrize("write", FOREIGN[:2], ids=called)
def test_a_command_on_a_file_that_is_not_ours_ends_with_one_line(environ, file, write):
    write(file)
    before = file.read_bytes()
    code, stdout, stderr = outcome(command("workflow", "list", **environ))
    assert (code, stdout, len(stderr)) == (1, "", 1)
    assert str(file) in stderr[0] and file.read_bytes() == before


@pytest.mark.parametrize("place", ["notes.txt/signalbox.db", "folder"],
                         ids=["below a file", "a folder"])
def test_a_command_on_a_place_for_no_database_ends_with_one_line(tmp_path, place):
    (tmp_path / "notes.txt").write_text("keep me")
    (tmp_path / "folder").mkdir()
    url = f"sqlite:///{tmp_path}/{place}"
    code, stdout, stderr = outcome(command("workflow", "list", DATABASE_URL=url))
    assert (code, stdout, len(stderr)) == (1, "", 1)
    assert place in stderr[0] and (tmp_path / "notes.txt").read_text() == "keep me"
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_empty_file_becomes_the_database(create, file):
    file.touch()
    assert Commands(create()).json("workflow", "list", "--json") == []


@pytest.mark.parametrize("attempt", range(2))
def test_processes_that_start_at_once_on_a_new_file_all_work(environ, tmp_path, attempt):
    definition = tmp_path / "release.json"
    definition.write_text('{"name": "release", "tasks": []}')
    started = [command("workflow", "apply", str(definition), **environ) for _ in range(4)]
    results = [outcome(process) for process in started]
    assert [code for code, stdout, stderr in results] == [0, 0, 0, 0], results
    assert sorted(stdout.split()[0] for code, stdout, stderr in results) == [
        "created", "unchanged", "unchanged", "unchanged"]


def hold(file):
    """A connection that has the whole file to itself, as another program might."""
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    return other


@pytest.mark.parametrize("known", [True, False], ids=["known database", "new file"])
def test_a_busy_database_does_not_stop_the_start(create, environ, file, known):
    if known:
        Commands(create())("workflow", "apply", "-", input='{"name": "release", "tasks": []}')
        close_database()
    other = hold(file)
    app = create()
    busy = app.test_client().post(**HOOK, data=b"{}")
    assert (busy.status_code, "Retry-After" in busy.headers) == (503, True)
    other.execute("COMMIT")
    other.close()
    answer = app.test_client().post(**HOOK, data=b"{}")
    assert answer.status_code == (200 if known else 404)
    assert len(Commands(app).json("workflowrun", "list", "--json")) == known


def test_a_command_works_once_a_busy_database_is_free_again(create, environ, file):
    other = hold(file)
    flask = Commands(create())
    refused = flask("workflow", "list")
    assert refused.exit_code == 1 and len(refused.stderr.splitlines()) == 1
    other.execute("COMMIT")
    other.close()
    assert flask.json("workflow", "list", "--json") == []
