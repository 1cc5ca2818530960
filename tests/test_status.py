"""`flask status`: whether the service is well, for a person and for a monitor (issue D, 7)."""
import json
import sqlite3
from contextlib import closing

import psycopg
import pytest

from app import create_app
from conftest import wait_task
from inside import SCHEMA_VERSION, Commands, close_database
from server import wait_until

DAY = 24 * 60


def facts(flask, exit_code=0):
    result = flask("status", "--json")
    assert result.exit_code == exit_code, (result.output, result.exception)
    return json.loads(result.stdout)


def table(flask):
    """The printed rows by their first column."""
    result = flask("status")
    assert result.exit_code == 0, (result.output, result.exception)
    head, *rows = result.stdout.splitlines()
    assert head.isupper()
    return {row.partition("  ")[0]: row.partition("  ")[2].strip() for row in rows}


@pytest.mark.both
def test_a_new_service_is_well(flask):
    found = facts(flask)
    assert found["database"] == "ok"
    assert found["bytes"] > 0
    assert found["schema"] == SCHEMA_VERSION
    assert 0 < found["milliseconds to write"] < 5000
    assert (found["runs"], found["overdue"], found["oldest"]) == ({}, 0, None)
    assert set(found["waiting"].values()) == {0}


@pytest.mark.both
def test_runs_are_counted_by_status(flask, define, start, callback):
    define("release", wait_task("tests"))
    define("record")
    for number in range(3):
        callback(start("release"), "tests", "failed")
    start("record"), start("release"), start("release")
    assert facts(flask)["runs"] == {"failed": 3, "succeeded": 1, "running": 2}
    assert table(flask)["runs"].count("failed 3") == 1


@pytest.mark.both
def test_waiting_tasks_are_counted_by_age(flask, define, start, callback, clock):
    define("release", wait_task("one"), wait_task("two"), wait_task("later", one="success"))
    for minutes in (7 * DAY, DAY, 60, 1):
        start("release")
        clock.advance(minutes=minutes)
    run = start("release")
    waiting = facts(flask)["waiting"]
    assert list(waiting.values()) == [4, 2, 2, 2]  # the youngest first
    callback(run, "one")  # another task starts to wait now
    callback(run, "two")
    assert list(facts(flask)["waiting"].values()) == [3, 2, 2, 2]


def test_a_task_that_waits_since_just_now_in_an_old_run_is_young(
        flask, define, start, callback, clock):
    define("release", wait_task("one"), wait_task("two", one="success"))
    run = start("release")
    clock.advance(minutes=8 * DAY)
    callback(run, "one")
    assert list(facts(flask)["waiting"].values()) == [1, 0, 0, 0]


@pytest.mark.both
def test_the_oldest_waiting_run_is_named(flask, define, start, callback, clock):
    define("release", wait_task("tests"))
    ended, oldest = start("release"), start("release")
    clock.advance(minutes=3 * DAY)
    start("release")
    callback(ended, "tests")
    assert facts(flask)["oldest"]["id"] == oldest["id"]
    assert "3 days" in table(flask)["oldest"] and oldest["id"] in table(flask)["oldest"]


@pytest.mark.both
def test_what_is_overdue_is_counted_and_left_as_it_is(flask, define, start, clock):
    define("release", wait_task("tests", timeout=60))
    start("release")
    clock.advance(minutes=59)
    start("release")
    assert facts(flask)["overdue"] == 0
    clock.advance(minutes=1)
    for look in range(2):
        assert facts(flask)["overdue"] == 1
        assert facts(flask)["runs"] == {"running": 2}


@pytest.mark.both
def test_the_probe_leaves_nothing_behind(flask, define, start):
    define("release", wait_task("tests"))
    start("release")
    before = flask.json("workflow", "list", "--json"), flask.json("workflowrun", "list", "--json")
    for number in range(3):
        facts(flask)
    assert (flask.json("workflow", "list", "--json"),
            flask.json("workflowrun", "list", "--json")) == before


# Not well

def check_it_says_so(flask):
    """Exit code 1, as JSON and as a table, and the reason in a line."""
    assert facts(flask, exit_code=1)["database"] != "ok"
    result = flask("status")
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
    assert len(result.stdout.splitlines()) <= 4, result.stdout
    return result.output


def test_a_file_that_another_program_holds_is_exit_code_1(flask, database_url):
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        check_it_says_so(flask)
    wait_until(lambda: flask("status").exit_code == 0, "it is well again", 3)


def test_a_file_that_became_damaged_is_exit_code_1(flask, database_url, clock):
    close_database()
    with open(database_url.removeprefix("sqlite:///"), "r+b") as file:
        file.write(b"damaged " * 1000)
    check_it_says_so(flask)


@pytest.mark.both
def test_a_database_that_cannot_be_written_is_exit_code_1(flask, database_url, postgres_server):
    close_database()
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as other:
            other.execute("CREATE TRIGGER refuse BEFORE INSERT ON workflow "
                          "BEGIN SELECT RAISE(ABORT, 'refused'); END")
        check_it_says_so(flask)
        return
    with psycopg.connect(database_url, autocommit=True) as session:
        session.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        try:
            check_it_says_so(flask)
        finally:
            session.execute("SET default_transaction_read_only = off")
            session.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
    close_database()
    assert facts(flask)["database"] == "ok"


@pytest.mark.parametrize("url", [
    "postgresql://user:s3cret@/name?host=/nowhere", "postgresql://user:s3cret@127.0.0.1:9/name"],
    ids=["socket", "port"])
def test_a_server_that_is_away_is_exit_code_1_and_the_password_stays_secret(clock, url):
    try:
        said = check_it_says_so(Commands(create_app({"DATABASE_URL": url}, clock)))
    finally:
        close_database()
    assert "s3cret" not in said
