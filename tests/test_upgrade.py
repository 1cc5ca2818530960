"""A file of an earlier version is brought up to date when opened: wholly or not (issue B, 11).

tests/data/schema-1.sql holds the tables and some runs as the first version's own code made them;
schema-2.sql and schema-3.sql the same runs as the later versions left them.
"""
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from app import create_app
from conftest import statuses
from inside import SCHEMA_VERSION
from server import PROJECT, kill, wait_until

DATA = Path(__file__).parent / "data"
DONE, HANDLED, NEW, HALF, EARLY, STOPPED, BY_EVENT = (  # its runs, in their order
    "641cc4446174d234a865c2fa5e940b0a", "430d5f551b581a7060db4b1405613a7e",
    "fc7a15830b72534ae763ddf417a7119c", "b4f8fd5bd84fc327254ce09cea887a78",
    "6811fcb496f9cf7a1395459705b39901", "35e164a161e04683280d2913903b756f",
    "a61dd532021903f4962065025ab01ad5")


@pytest.fixture(params=range(1, SCHEMA_VERSION))
def version(request):
    return request.param


@pytest.fixture(autouse=True)
def file(tmp_path, version):
    """The database as this version left it, in the place where the service looks for it."""
    file = tmp_path / "signalbox.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.executescript((DATA / f"schema-{version}.sql").read_text())
    connection.close()
    return file


def contents(file):
    """The schema's version, and all that is stored, as SQL."""
    connection = sqlite3.connect(file)
    try:
        version, = connection.execute("PRAGMA user_version").fetchone()
        return version, list(connection.iterdump())
    finally:
        connection.close()


def schema(file):
    """The columns of each table, and each index."""
    connection = sqlite3.connect(file)
    try:
        names = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        return {name: sql if type == "index" else
                sorted(connection.execute(f"PRAGMA table_info({name})").fetchall())
                for type, name, sql in names}
    finally:
        connection.close()


def test_an_old_file_gets_the_present_schema(app, file, tmp_path, environ):
    assert contents(file)[0] == SCHEMA_VERSION
    create_app({"DATABASE_URL": f"sqlite:///{tmp_path}/fresh.db"})
    assert schema(file) == schema(tmp_path / "fresh.db")


def test_every_run_of_an_old_file_is_there_as_it_was(flask):
    runs = {run["id"]: run for run in flask.json("workflowrun", "list", "--json")}
    assert [*runs] == [BY_EVENT, STOPPED, EARLY, HALF, NEW, HANDLED, DONE]
    assert {id: run["status"] for id, run in runs.items() if run["status"] != "running"} == {
        DONE: "succeeded", HANDLED: "succeeded", STOPPED: "cancelled"}
    assert statuses(runs[HALF]) == {
        "tests": "succeeded", "approval": "waiting", "rollback": "skipped"}
    assert runs[DONE]["params"] == [{"name": "data", "value": {"version": "1.0"}},
                                    {"name": "environment", "value": "staging"}]
    assert [task["results"] for task in runs[DONE]["tasks"]] == [
        [{"name": "data", "value": {"passed": 12}}],
        [{"name": "data", "value": {"by": "Ünal"}}], []]


def test_the_runs_of_an_old_file_go_on(callback, flask):
    for id, topics in {NEW: ["tests", "approval"], HALF: ["approval"], EARLY: ["tests"],
                       BY_EVENT: ["approval", "tests"]}.items():
        for topic in topics:
            assert callback({"id": id}, topic, json={}).status_code == 200
        run = flask.json("workflowrun", "show", id)
        assert (run["status"], run["tasks"][1]["status"]) == ("succeeded", "succeeded")
    assert callback({"id": HANDLED}, "tests", "succeeded").status_code == 409


def test_a_delivery_that_an_old_file_knows_is_recognised(client, start):
    again = start("release", {"version": "1.3"}, Idempotency_Key='"key-1.3"')
    assert again["id"] == HALF
    event = {"specversion": "1.0", "id": "e-1", "source": "/ci", "type": "built"}
    answer = client.post("/api/v2/event?workflow=release", json=event)
    assert answer.json["id"] == BY_EVENT


# What the service does first with a file, killed at the moment that is the first argument.
KILLED = """
import os, signal, sqlite3, sys
import peewee

def end_at_the_moment(action, name, value, database, trigger):
    moment = {sqlite3.SQLITE_CREATE_INDEX: "an index is made",
              sqlite3.SQLITE_PRAGMA: value and f"{name} is set",
              sqlite3.SQLITE_TRANSACTION: name == "COMMIT" and "it is committed"}.get(action)
    if moment == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return sqlite3.SQLITE_OK

def connect(*args, **options):
    connection = sqlite3_connect(*args, **options)
    connection.set_authorizer(end_at_the_moment)
    return connection

sqlite3_connect, peewee.sqlite3.connect = peewee.sqlite3.connect, connect
import wsgi
"""


@pytest.mark.server
@pytest.mark.parametrize("moment", ["an index is made", "user_version is set", "it is committed"])
def test_a_crash_in_the_middle_leaves_an_old_file_as_it_was(file, environ, moment):
    before = contents(file)
    command = [sys.executable, "-c", KILLED, moment]
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, **environ}, timeout=20)
    assert done.returncode == -signal.SIGKILL
    assert contents(file) == before  # which is where the first step begins
    command = [sys.executable, "-c", KILLED, "never"]
    subprocess.run(command, cwd=PROJECT, env={**os.environ, **environ}, timeout=20, check=True)
    assert contents(file)[0] == SCHEMA_VERSION


def has_open(process, path):
    """Whether the process has opened the file."""
    try:
        return path in [os.readlink(entry.path) for entry in os.scandir(f"/proc/{process.pid}/fd")]
    except FileNotFoundError:  # a file that was closed meanwhile
        return False


@pytest.mark.server
def test_two_processes_that_upgrade_at_once_both_work(file, environ, version):
    command = [sys.executable, "-m", "flask", "workflowrun", "list", "--json"]
    held = sqlite3.connect(file, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    both = [subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **environ}, text=True,
                             stdout=subprocess.PIPE) for number in range(2)]
    try:
        wait_until(lambda: all(has_open(process, str(file)) for process in both),
                   "both wait for their turn")
        assert contents(file)[0] == version
        held.execute("ROLLBACK")
        held.close()
        outputs = [process.communicate(timeout=20)[0] for process in both]
    finally:
        kill(*[process.pid for process in both if process.poll() is None])
    assert [process.returncode for process in both] == [0, 0]
    assert [len(json.loads(output)) for output in outputs] == [7, 7]
    assert contents(file)[0] == SCHEMA_VERSION
