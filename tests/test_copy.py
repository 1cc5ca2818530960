"""`flask db copy`: a database is carried over to another kind, all or nothing (issue D, 4)."""
import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import count
from types import SimpleNamespace
from urllib.parse import quote

import psycopg
import pytest

import postgres_server
from app import create_app
from conftest import session, statuses, wait_task
from inside import COPIED_AT_A_TIME, Commands, close_database
from server import PROJECT, wait_until

ANY_TARGET = pytest.mark.parametrize("target", ["sqlite", "postgresql"], indirect=True)
numbers = count()
EVENT = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "built", "data": {"€": None}}


@pytest.fixture
def new(tmp_path, request):
    """The URL of a new database of a kind: new("sqlite")."""
    def new(kind):
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/new{next(numbers)}.db"
        server = request.getfixturevalue("postgres_server")
        if server is None:
            pytest.skip(postgres_server.MISSING)
        return server.url(server.new())
    return new


@pytest.fixture
def target(request, database_url, new):
    """The URL of an empty database to copy to: of the other kind than the source, unless named."""
    other = "postgresql" if database_url.startswith("sqlite") else "sqlite"
    return new(getattr(request, "param", other))


@pytest.fixture
def serve(clock):
    """The service on another database: its client and its commands."""
    def serve(url):
        close_database()
        app = create_app({"DATABASE_URL": url}, clock)
        return SimpleNamespace(client=app.test_client(), flask=Commands(app))
    yield serve
    close_database()


@pytest.fixture
def copied(flask, environ, target, serve):
    """Copy the database; the service on the copy."""
    def copied():
        close_database()
        result = flask("db", "copy", environ["DATABASE_URL"], target)
        assert result.exit_code == 0, result.output
        return serve(target)
    return copied


def counts(url):
    """How many workflows, runs and tasks are stored; None without the tables."""
    with closing(session(url)) as connection:
        try:
            return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                    for table in ("workflow", "workflow_run", "task_run")]
        except (sqlite3.OperationalError, psycopg.errors.UndefinedTable):
            return None


def is_empty(url):
    return counts(url) in (None, [0, 0, 0])


def is_refused(result):
    """Whether a command said why not in one line, and exit code 1."""
    return (result.exit_code, len(result.stderr.splitlines())) == (1, 1)


@pytest.fixture
def lives(define, start, callback, client, clock, flask):
    """Runs in every state that there is; by what they are."""
    define("release", wait_task("tests", timeout=60), wait_task("approval", tests="success"),
           wait_task("rollback", tests="failure"), displayName="Release – für alle",
           params=[{"name": "environment", "defaultValue": "staging"}], timeout=1440)
    define("record")
    runs = {"resolved": start("release", {"text": "\u0000'\"\\ € \U0001f600"}),
            "failed": start("release"), "timed out": start("release")}
    callback(runs["resolved"], "tests", json={"by": ["anna", 1.5, None]})
    callback(runs["resolved"], "approval", "failed")
    callback(runs["failed"], "tests", "failed", {})
    clock.advance(minutes=30)
    runs["overdue in half an hour"] = start("release")
    runs["cancelled"] = start("release", {"big": "x" * 100_000})
    flask("workflowrun", "cancel", runs["cancelled"]["id"])
    runs["early"] = start("release")
    callback(runs["early"], "approval", json={"early": True})
    clock.advance(minutes=31)
    flask("workflowrun", "expire")
    runs["delivered"] = start("release", {"n": 1}, Idempotency_Key='"key"')
    runs["event"] = client.post("/api/v2/event?workflow=release", json=EVENT).json
    runs["record"] = start("record")
    runs["waiting"] = start("release")
    return runs


def stored(flask):
    return (flask.json("workflowrun", "list", "--json", "--limit", "100"),
            flask.json("workflow", "list", "--json"))


@pytest.mark.both
@ANY_TARGET
def test_the_copy_answers_the_same_for_every_run(lives, flask, copied, clock):
    before = stored(flask)
    assert len(before[0]) == len(lives) == 10
    assert {run["status"] for run in before[0]} == {"running", "succeeded", "failed", "cancelled"}
    assert stored(copied().flask) == before


@pytest.mark.both
def test_more_rows_than_are_copied_at_a_time_are_all_copied(define, start, flask, copied):
    define("release", *map(wait_task, ["tests", "approval", "rollback"]))
    for number in range(COPIED_AT_A_TIME + 1):
        start("release", {"number": number})
    before = flask.json("workflowrun", "list", "--json", "--limit", "1000")
    assert len(before) == COPIED_AT_A_TIME + 1
    assert copied().flask.json("workflowrun", "list", "--json", "--limit", "1000") == before


def impatient(url):
    """The URL with a server that ends what takes longer than some milliseconds."""
    if url.startswith("sqlite"):
        return url
    return url + "&options=" + quote("-c statement_timeout=20 "
                                     "-c idle_in_transaction_session_timeout=20")


@pytest.mark.both
def test_a_copy_may_take_longer_than_a_request(lives, flask, environ, new, serve):
    target = new("postgresql")
    serve(target)
    make_inserts_call(target, "task_run", "PERFORM pg_sleep(0.05)")
    before = counts(environ["DATABASE_URL"])
    result = flask("db", "copy", impatient(environ["DATABASE_URL"]), impatient(target))
    assert result.exit_code == 0, result.output
    assert counts(target) == before


@pytest.mark.both
def test_every_number_of_the_copy_is_printed(lives, flask, environ, target):
    result = flask("db", "copy", environ["DATABASE_URL"], target)
    assert (result.exit_code, len(result.output.splitlines())) == (0, 1), result.output
    for what in ("2 rows of workflow", "10 rows of workflow_run", "27 rows of task_run"):
        assert what in result.output
    assert counts(target) == [2, 10, 27]


@pytest.mark.both
def test_a_repeated_delivery_is_recognised_on_the_copy(lives, copied):
    client = copied().client
    for payload, status in (({"n": 1}, 200), ({"n": 2}, 422)):
        answer = client.post("/api/v2/webhook?workflow=release", json=payload,
                             headers={"Idempotency-Key": '"key"'})
        assert answer.status_code == status
        assert status != 200 or answer.json["id"] == lives["delivered"]["id"]
    again = client.post("/api/v2/event?workflow=release", json=EVENT)
    assert again.json["id"] == lives["event"]["id"]


def test_an_early_callback_is_remembered_on_the_copy(lives, copied):
    copy, id = copied(), lives["waiting"]["id"]
    query = {"workflowrun": id, "topic": "approval"}
    assert copy.client.post("/api/v2/callback", query_string=query, json={}).status_code == 200
    query["topic"] = "tests"
    assert copy.client.post("/api/v2/callback", query_string=query, json={}).status_code == 200
    run = copy.flask.json("workflowrun", "show", id)
    assert (run["status"], set(statuses(run).values())) == ("succeeded", {"succeeded", "skipped"})


@pytest.mark.both
def test_a_callback_that_came_early_before_the_copy_ends_its_task_after_it(
        define, start, callback, copied):
    define("release", wait_task("tests"), wait_task("approval", tests="success"))
    run = start("release")
    callback(run, "approval", "failed", {"early": True})
    copy = copied()
    copy.client.get("/api/v2/callback", query_string={"workflowrun": run["id"], "topic": "tests"})
    run = copy.flask.json("workflowrun", "show", run["id"])
    assert (run["status"], run["tasks"][1]["status"]) == ("failed", "failed")
    assert run["tasks"][1]["results"] == [{"name": "data", "value": {"early": True}}]


def test_an_overdue_run_times_out_on_the_copy(lives, copied, clock):
    clock.advance(minutes=30)
    copy = copied()
    copy.flask("workflowrun", "expire")
    run = copy.flask.json("workflowrun", "show", lives["overdue in half an hour"]["id"])
    assert statuses(run)["tests"] == "timedout"


@pytest.mark.both
def test_what_is_new_on_the_copy_stands_after_what_was_copied(lives, copied):
    copy = copied()
    applied = copy.flask("workflow", "apply", "-", input='{"name": "new", "tasks": []}')
    assert applied.exit_code == 0, applied.output
    ids = [copy.client.post(f"/api/v2/webhook?workflow={name}", json={}).json["id"]
           for name in ("new", "release")]
    runs = copy.flask.json("workflowrun", "list", "--json", "--limit", "100")
    assert [run["id"] for run in runs[:3]] == [*ids[::-1], lives["waiting"]["id"]]
    assert len(runs) == len(lives) + 2


@pytest.mark.both
def test_an_empty_database_can_be_copied(flask, environ, target):
    result = flask("db", "copy", environ["DATABASE_URL"], target)
    assert (result.exit_code, len(result.output.splitlines())) == (0, 1), result.output
    assert is_empty(target)


def test_the_source_stays_as_it_was(lives, flask, environ, target):
    before = stored(flask)
    assert flask("db", "copy", environ["DATABASE_URL"], target).exit_code == 0
    assert stored(flask) == before


# Refused

@pytest.mark.both
@pytest.mark.parametrize("definition", [
    {"name": "only-a-workflow", "tasks": []}, {"name": "release", "tasks": []}],
    ids=["other", "same name"])
def test_a_target_that_is_not_empty_is_refused_and_stays(
        lives, flask, environ, target, serve, definition):
    serve(target).flask("workflow", "apply", "-", input=json.dumps(definition))
    before = counts(target)
    assert before == [1, 0, 0]
    result = flask("db", "copy", environ["DATABASE_URL"], target)
    assert is_refused(result), result.output
    assert "empty" in result.stderr
    assert counts(target) == before
    assert counts(environ["DATABASE_URL"]) == [2, 10, 27]


def test_a_database_of_a_server_is_not_taken_for_a_file_of_its_name(
        flask, new, tmp_path, monkeypatch):
    url = new("postgresql")
    (tmp_path / url.removeprefix("postgresql:///").partition("?")[0]).mkdir()
    monkeypatch.chdir(tmp_path)
    assert flask("db", "copy", url, url).exit_code == 0  # an empty one, as between two servers


@pytest.mark.both
def test_a_database_is_not_copied_to_itself(lives, flask, environ):
    result = flask("db", "copy", environ["DATABASE_URL"], environ["DATABASE_URL"])
    assert is_refused(result), result.output
    assert counts(environ["DATABASE_URL"]) == [2, 10, 27]


def make_inserts_call(url, table, statement):
    """Another program's trigger runs the statement for each row of a table in PostgreSQL."""
    with closing(session(url)) as connection:
        connection.execute("CREATE FUNCTION called() RETURNS trigger LANGUAGE plpgsql AS "
                           f"$$ BEGIN {statement}; RETURN NULL; END $$")
        connection.execute(f"CREATE TRIGGER called AFTER INSERT ON {table} FOR EACH ROW "
                           "EXECUTE FUNCTION called()")


def make_inserts_fail(url, table):
    """Another program's trigger refuses rows of the table, the second of them at the earliest."""
    with closing(session(url)) as connection:
        if url.startswith("sqlite"):
            connection.execute(f"CREATE TRIGGER refuse AFTER INSERT ON {table} WHEN new.rowid > 1 "
                               "BEGIN SELECT RAISE(ABORT, 'refused'); END")
        else:
            make_inserts_call(url, table, "RAISE EXCEPTION 'refused'")


@pytest.mark.both
@pytest.mark.parametrize("table", ["workflow", "workflow_run", "task_run"])
def test_a_failure_in_the_middle_leaves_the_target_empty(
        lives, flask, environ, target, serve, table):
    serve(target)  # which makes the tables
    make_inserts_fail(target, table)
    result = flask("db", "copy", environ["DATABASE_URL"], target)
    assert is_refused(result), (result.output, result.exception)
    assert counts(target) == [0, 0, 0]


def test_what_the_target_cannot_hold_is_refused_in_a_line(lives, flask, environ, new):
    """SQLite does not count the characters of a text; PostgreSQL does."""
    target = new("postgresql")
    with closing(session(environ["DATABASE_URL"])) as connection:
        connection.execute("UPDATE task_run SET topic = ? WHERE position = 2", ["x" * 300])
    result = flask("db", "copy", environ["DATABASE_URL"], target)
    assert is_refused(result), (result.output, result.exception)
    assert is_empty(target)


WRONG = {
    "unknown scheme": ("oracle://user:s3cret@host/runs", "scheme"),
    "no scheme": ("signalbox.db", "scheme"),
    "unreachable server": ("postgresql://user:s3cret@/name?host=/nowhere", "/nowhere"),
    "unreachable port": ("postgresql://user:s3cret@127.0.0.1:9/name", "refused"),
    "no folder": ("sqlite:////proc/nowhere/signalbox.db", "/proc/nowhere"),
    "no number": ("postgresql://user:s3cret@127.0.0.1:s3cret/name", "ort"),
}


@pytest.mark.parametrize("as_source", [True, False], ids=["source", "target"])
@pytest.mark.parametrize("url, said", WRONG.values(), ids=WRONG)
def test_a_url_that_leads_nowhere_is_refused_in_a_line(flask, environ, new, url, said, as_source):
    target = new("sqlite")
    urls = [url, target] if as_source else [environ["DATABASE_URL"], url]
    result = flask("db", "copy", *urls)
    assert is_refused(result), (result.output, result.exception)
    assert said in result.stderr and "s3cret" not in result.output
    assert is_empty(target)


def test_a_missing_source_is_refused_and_not_made(flask, tmp_path, target):
    result = flask("db", "copy", f"sqlite:///{tmp_path}/missing.db", target)
    assert is_refused(result), result.output
    assert "missing.db" in result.stderr
    assert not (tmp_path / "missing.db").exists()


@pytest.mark.both
def test_a_database_of_another_application_is_refused(lives, flask, environ, target):
    with closing(session(target)) as connection:
        connection.execute("CREATE TABLE workflow_run (precious integer)")
        result = flask("db", "copy", environ["DATABASE_URL"], target)
        assert is_refused(result), result.output
        assert connection.execute("SELECT count(precious) FROM workflow_run").fetchone() == (0,)


# A real process

def copying(source, target, errors, folder):
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": f"sqlite:///{folder}/unused.db"}
    return subprocess.Popen([sys.executable, "-m", "flask", "db", "copy", source, target],
                            cwd=PROJECT, env=environ, stdout=subprocess.PIPE, stderr=errors,
                            text=True)


@pytest.mark.server
@pytest.mark.parametrize("end", ["killed", "refused"])
def test_a_copy_that_is_stopped_in_the_middle_leaves_the_target_empty(
        lives, environ, new, serve, tmp_path, end):
    target = new("postgresql")
    serve(target)
    with closing(session(target)) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE task_run IN SHARE MODE")  # the others are written before
        process = copying(environ["DATABASE_URL"], target, subprocess.PIPE, tmp_path)
        try:
            wait_until(lambda: process.poll() is not None or holder.execute(
                "SELECT 1 FROM pg_locks WHERE relation = 'task_run'::regclass AND NOT granted"
                ).fetchone(), "the copy waits for the table")
            if end == "killed":
                process.kill()
            errors = process.communicate(timeout=15)[1]
        finally:
            process.kill()
            process.wait(5)
        holder.execute("ROLLBACK")
        if end == "refused":
            assert (process.returncode, len(errors.splitlines())) == (1, 1), errors
        assert counts(target) == [0, 0, 0]


@pytest.mark.server
def test_a_person_sees_how_far_it_is(lives, environ, target, tmp_path):
    master, terminal = pty.openpty()
    process = copying(environ["DATABASE_URL"], target, terminal, tmp_path)
    try:
        out = process.communicate(timeout=20)[0]
    finally:
        process.kill()
        process.wait(5)
        os.close(terminal)
    seen = os.read(master, 10_000).decode()
    os.close(master)
    assert (process.returncode, out.count("\n")) == (0, 1), seen
    assert "workflow_run: 10 rows" in seen and "task_run: 27 rows" in seen
