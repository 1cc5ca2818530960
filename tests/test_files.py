"""The database's file, what stands beside it, and backups: whose they are, and what if they are
replaced, missing or something else (issue G; contract 5, 6)."""
import json
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app import create_app
from conftest import session, wait_task
from inside import Commands, Unusable, close_database, database
from server import PROJECT, Load, Server, at_once, integrity

BESIDE = ("", "-wal", "-shm")
NOBODY = 65534


@pytest.fixture
def mask():
    """New files may be read by everybody, as is usual."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "signalbox.db"


def opened(file):
    create_app({"DATABASE_URL": f"sqlite:///{file}"})
    database.execute_sql("SELECT 1")


def modes(file):
    return {oct(stat.S_IMODE(path.stat().st_mode)) for path in file.parent.iterdir()}


def is_one_line(result, exit_code=1):
    return (result.exit_code == exit_code and len(result.stderr.splitlines()) == 1
            and isinstance(result.exception, SystemExit))


@pytest.mark.parametrize("kind", ["text", "another application's"])
def test_a_file_that_is_not_ours_keeps_its_mode(tmp_path, kind):
    file = tmp_path / "other"
    if kind == "text":
        file.write_text("minutes of the board meeting " * 100)
    else:
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE invoice (id INTEGER)")
    file.chmod(0o644)
    with pytest.raises(Unusable):
        create_app({"DATABASE_URL": f"sqlite:///{file}"})
    close_database()
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_new_database_is_for_its_owner_alone(file, mask):
    opened(file)
    assert {path.name for path in file.parent.iterdir()} == {
        f"signalbox.db{end}" for end in BESIDE}
    assert modes(file) == {"0o600"}
    database.close()


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o640, 0o660, 0o755, 0o606], ids=oct)
def test_an_existing_database_is_narrowed(file, mask, mode):
    opened(file)
    for path in file.parent.iterdir():
        path.chmod(mode)
    opened(file)
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in file.parent.iterdir()} == {0}
    database.close()


def a_link(path, other):
    other.write_bytes(b"")
    path.symlink_to(other)


def a_link_to_nothing(path, other):
    path.symlink_to(other)


def a_pipe(path, other):
    os.mkfifo(path)


def a_folder(path, other):
    path.mkdir()


def a_socket(path, other):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def a_device(path, other):
    path.symlink_to("/dev/zero")


PLANTED = [a_link, a_link_to_nothing, a_pipe, a_folder, a_socket, a_device]


@pytest.mark.parametrize("end", BESIDE, ids=lambda end: end or "itself")
@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, plant, end):
    file, other = tmp_path / "signalbox.db", tmp_path / "other"
    plant(Path(f"{file}{end}"), other)
    with pytest.raises(Unusable, match=f"{file}{end} is no regular file"):
        opened(file)
    assert not other.exists() or other.read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that belong to others")
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"], ids=lambda end: end or "itself")
def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch, end):
    path = Path(f"{tmp_path / 'signalbox.db'}{end}")
    path.write_bytes(b"")
    os.chown(path, NOBODY, NOBODY)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "lstat", lambda name, real=os.lstat: real(name) if str(
        name) == str(path) else (_ for _ in ()).throw(FileNotFoundError()))
    with pytest.raises(Unusable, match=f"{path} belongs to another user"):
        opened(tmp_path / "signalbox.db")


# Backups

def test_a_backup_is_for_its_owner_alone_and_whole(define, start, flask, tmp_path, mask):
    run = start(define("release", wait_task("tests")))
    copy = tmp_path / "backups" / "b.db"
    copy.parent.mkdir()
    assert flask("db", "backup", copy).exit_code == 0
    assert modes(copy) == {"0o600"} and [*copy.parent.iterdir()] == [copy]
    again = Commands(create_app({"DATABASE_URL": f"sqlite:///{copy}"}))
    assert again.json("workflowrun", "list", "--json")[0]["id"] == run["id"]
    database.close()


@pytest.mark.parametrize("plant", [*PLANTED, lambda path, other: path.write_text("precious")],
                         ids=[*(plant.__name__ for plant in PLANTED), "a file"])
def test_a_backup_never_goes_where_something_is(flask, tmp_path, plant):
    copy, other = tmp_path / "b.db", tmp_path / "other"
    plant(copy, other)
    before = sorted(tmp_path.iterdir())
    result = flask("db", "backup", copy)
    assert is_one_line(result) and "exists already" in result.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert not other.exists() or other.read_bytes() == b""


@pytest.mark.parametrize("name", ["", ".", "/", "no/such/folder/b.db", "/proc/b.db", "x" * 300,
                                  "b\udcff.db", "/dev/full", "/dev/null/b.db"])
def test_a_backup_that_cannot_be_made_is_one_line_and_leaves_nothing(flask, tmp_path, monkeypatch,
                                                                     name):
    monkeypatch.chdir(tmp_path)
    flask("workflow", "list")
    before = sorted(tmp_path.iterdir())
    assert is_one_line(flask("db", "backup", name))
    assert sorted(tmp_path.iterdir()) == before


def test_a_backup_that_finds_no_room_leaves_nothing(flask, define, tmp_path, small_disk):
    define("release", wait_task("tests"), displayName="x" * 200)
    (small_disk / "filler").write_bytes(bytes(2_070_000))
    result = flask("db", "backup", small_disk / "b.db")
    assert is_one_line(result) and "the disk is full" in result.stderr
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_copy_that_finds_no_room_leaves_nothing(flask, define, start, environ, small_disk):
    define("release", wait_task("tests"))
    for number in range(10):
        start("release", {"text": "x" * 200_000})
    result = flask("db", "copy", environ["DATABASE_URL"], f"sqlite:///{small_disk}/new.db")
    assert is_one_line(result) and "the disk is full" in result.stderr
    assert [*small_disk.iterdir()] == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


# What commands refuse in one line

@pytest.mark.parametrize("target", [
    "{folder}/signalbox.db", "{folder}/signalbox.db?timeout=5", "/{folder}/signalbox.db",
    "{folder}/../{folder.name}/signalbox.db", "{folder}/./signalbox.db"])
@pytest.mark.parametrize("workflows", [["release"], []], ids=["full", "empty"])
def test_a_database_is_not_copied_onto_itself(flask, define, environ, tmp_path, target, workflows):
    for name in workflows:
        define(name)
    other = f"sqlite:///{target.format(folder=tmp_path)}"
    result = flask("db", "copy", environ["DATABASE_URL"], other)
    assert is_one_line(result) and "are the same file" in result.stderr
    assert [known["name"] for known in flask.json("workflow", "list", "--json")] == workflows


@pytest.mark.parametrize("command", [
    ["db", "copy", "sqlite:////nowhere/no.db", "{url}"], ["db", "copy", "", ""],
    ["db", "copy", "mysql://x/y", "{url}"], ["db", "copy", "{url}", "sqlite:///{folder}"],
    ["workflow", "apply", "/dev/null"], ["workflow", "apply", "{folder}"],
    ["workflow", "apply", "/no/such/file"], ["workflow", "apply", "/proc/self/mem"],
    ["workflow", "apply", "/dev/zero"], ["workflow", "check", "{folder}"],
    ["workflow", "show", "\udcff"], ["workflowrun", "show", "\udcff"],
    ["workflow", "try", "release", "--payload", "{folder}"],
    ["workflow", "try", "release", "--payload", "/dev/null"],
    ["workflowrun", "link", "x", "--topic", "t", "--expires", "0s"],
    ["workflowrun", "link", "x", "--topic", "t", "--expires", "0d"],
], ids=" ".join)
def test_odd_input_is_refused_in_one_line(flask, define, tmp_path, environ, monkeypatch, command):
    monkeypatch.setattr("terminal.LARGEST", 10_000)
    define("release")
    result = flask(*[word.format(url=environ["DATABASE_URL"], folder=tmp_path)
                     for word in command])
    lines = [line for line in result.stderr.splitlines() if not line.startswith("/dev/null: ")]
    assert result.exit_code == 1 and len(lines) == 1, (result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit)


# Replaced under the running service

def by_moving(backup, file):
    os.replace(backup, file)


def by_moving_without_its_log(backup, file):
    for end in ("-wal", "-shm"):
        os.unlink(f"{file}{end}")
    os.replace(backup, file)


def by_copying(backup, file):
    for end in ("-wal", "-shm"):
        os.unlink(f"{file}{end}")
    shutil.copyfile(backup, file)  # the file stays the same one


def by_removing_and_copying(backup, file):
    for end in ("", "-wal", "-shm"):
        os.unlink(f"{file}{end}")
    shutil.copyfile(backup, file)


def by_removing(backup, file):
    os.unlink(file)


@pytest.mark.server
@pytest.mark.parametrize("replace", [by_moving, by_moving_without_its_log, by_copying,
                                     by_removing_and_copying, by_removing])
def test_a_service_whose_database_was_replaced_refuses_until_it_is_restarted(tmp_path, replace):
    backup = tmp_path / "backup.db"
    with Server(tmp_path) as server:
        server.define("release", wait_task("tests"))
        old = [server.run("release", {"text": "x" * 2000})["id"] for number in range(30)]
        assert server.flask("db", "backup", backup).returncode == 0
        kept = backup.read_bytes()
        is_replaced = []

        def step(name):
            was = bool(is_replaced)
            return was, server.webhook("release", {"name": name, "text": "x" * 2000}).status

        with Load(step) as load:
            load.more(50)
            replace(backup, server.database)
            is_replaced.append(True)
            load.more(50)
        assert load.errors == []
        assert {status for was, status in load.done if was} == {503}
        assert ("is not in its place now" if replace is by_removing else
                "was replaced under the running service; stop it, restore the backup"
                ) in server.log
    for end in BESIDE:
        Path(f"{server.database}{end}").unlink(missing_ok=True)
    server.database.write_bytes(kept)
    with Server(tmp_path) as server:
        assert {run["id"] for run in server.stored()} == {*old}
        assert server.run("release")["status"] == "running"
        assert integrity(server.database) == [("ok",)]


@pytest.mark.server
def test_a_service_that_was_replaced_leaves_the_restored_file_alone_when_it_ends(tmp_path):
    backup = tmp_path / "backup.db"
    with Server(tmp_path) as server:
        server.define("release", wait_task("tests"))
        old = [server.run("release", {"text": "x" * 2000})["id"] for number in range(10)]
        assert server.flask("db", "backup", backup).returncode == 0
        at_once(16, lambda client: [server.run("release", {"text": "x" * 2000})
                                    for number in range(5)])
        by_copying(backup, server.database)  # nobody asks for anything before it is stopped
    assert server.database.read_bytes() == backup.read_bytes()
    with Server(tmp_path) as server:
        assert {run["id"] for run in server.stored()} == {*old}


@pytest.mark.server
def test_a_file_that_is_put_back_in_its_place_is_used_again(tmp_path):
    with Server(tmp_path) as server:
        server.define("release")
        server.run("release")
        server.database.rename(tmp_path / "away.db")
        # Of sixteen at once some are on threads that have not opened the file yet.
        assert at_once(16, lambda client: server.webhook("release", {}).status) == [503] * 16
        assert not server.database.exists()
        (tmp_path / "away.db").rename(server.database)
        assert at_once(16, lambda client: server.webhook("release", {}).status) == [200] * 16


# Two applications in one process

@pytest.mark.parametrize("first", [True, False])
def test_two_applications_in_one_process_keep_to_their_own_databases(tmp_path, clock, first):
    apps = {name: create_app({"DATABASE_URL": f"sqlite:///{tmp_path}/{name}.db"}, clock)
            for name in ("one", "two")}
    for name, app in apps.items():
        definition = json.dumps({"name": name, "tasks": []})
        assert Commands(app)("workflow", "apply", "-", input=definition).exit_code == 0
    for name in ("one", "two", "two", "one") if first else ("two", "one", "one", "two"):
        client = apps[name].test_client()
        other = "two" if name == "one" else "one"
        assert client.post(f"/api/v2/webhook?workflow={name}", json={}).status_code == 200
        assert client.post(f"/api/v2/webhook?workflow={other}", json={}).status_code == 404
    for name, app in apps.items():
        runs = Commands(app).json("workflowrun", "list", "--json")
        assert [run["workflowRef"] for run in runs] == [name] * 2
        database.close()
        with closing(session(f"sqlite:///{tmp_path}/{name}.db")) as connection:
            assert connection.execute("SELECT count(*) FROM workflow_run").fetchone() == (2,)


@pytest.mark.both
def test_one_application_on_each_kind_of_database_in_turn(app, define, start, tmp_path, clock):
    other = create_app({"DATABASE_URL": f"sqlite:///{tmp_path}/other.db"}, clock)
    define("release", wait_task("tests"))
    run = start("release")
    assert other.test_client().post("/api/v2/webhook?workflow=release", json={}).status_code == 404
    database.close()
    query = f"/api/v2/callback?workflowrun={run['id']}&topic=tests"
    assert app.test_client().post(query, json={}).status_code == 200
    assert Commands(app).json("workflowrun", "show", run["id"])["status"] == "succeeded"


# What status looked at

def test_status_says_that_it_does_not_see_the_process_that_answers(tmp_path, flask):
    for text in (flask("status").stdout, flask("status", "--json").stdout):
        assert f"{tmp_path}/signalbox.db" in text
        assert "the process that answers requests is not seen from here" in text
    (tmp_path / "broken.db").write_text("no database " * 100)
    broken = subprocess.run([sys.executable, "-m", "flask", "status"], cwd=PROJECT,
                            capture_output=True, text=True, env={
        "PATH": os.environ["PATH"], "DATABASE_URL": f"sqlite:///{tmp_path}/broken.db"})
    assert broken.returncode == 1 and "is not seen from here" in broken.stdout
