"""Work that grows with what came in stays within bounds (issue G, "Work that grows")."""
import json
import shutil
import sqlite3
import time
from types import SimpleNamespace

import pytest
from peewee import SqliteDatabase

from app import create_app
from conftest import file_of, sql, statuses, wait_task
from inside import database

MEGABYTE = {"text": "x" * 1_000_000}


def chain(count):
    """Tasks of which each depends on the next one, the root being the last."""
    return [wait_task(f"t{n}", **({f"t{n + 1}": "success"} if n + 1 < count else {}))
            for n in range(count)]


def star(count):
    return [wait_task("root"), *(wait_task(f"t{n}", root="success") for n in range(count - 1))]


def funnel(count):
    return [wait_task("last", **{f"t{n}": "always" for n in range(count - 2)}),
            *(wait_task(f"t{n}", root="success") for n in range(count - 2)), wait_task("root")]


def ladder(count):
    return [wait_task(f"t{n}", **{f"t{m}": "success" for m in range(n + 1, min(n + 4, count))})
            for n in range(count)]


@pytest.mark.parametrize("shape, root", [
    (chain, "t499"), (star, "root"), (funnel, "root"), (ladder, "t499")])
@pytest.mark.parametrize("status", ["failed", "succeeded"])
def test_the_end_of_one_of_500_tasks_ends_the_others_at_once(define, start, callback, show, shape,
                                                             root, status):
    run = start(define("release", *shape(500)))
    began = time.process_time()
    assert callback(run, root, status, json={}).status_code == 200
    seconds = time.process_time() - began
    shown = show(run)
    expected = {"chain": 498, "star": 499, "funnel": 498, "ladder": 499}[shape.__name__]
    if status == "failed":
        assert shown["status"] == "failed" or shape is funnel
        assert list(statuses(shown).values()).count("skipped") >= expected - (shape is funnel)
    assert seconds < 0.5


def test_500_tasks_that_time_out_at_once_end_at_once(define, start, clock, flask, show):
    run = start(define("release", *(wait_task(f"t{n}", timeout=1) for n in range(500))))
    clock.advance(minutes=1)
    began = time.process_time()
    assert flask("workflowrun", "expire").exit_code == 0
    assert time.process_time() - began < 1
    assert show(run)["status"] == "failed"


# One callback's result is stored once

def stored(environ):
    return sql(environ["DATABASE_URL"], "SELECT sum(length(callback_results)) FROM task_run")[0][0]


def waiting():
    return [wait_task(f"t{n}", "shared") for n in range(200)]


def early():
    return [wait_task("first"), *(wait_task(f"t{n}", "shared", first="success")
                                  for n in range(200))]


def mixed():
    return [wait_task("first"), *(wait_task(f"t{n}", "shared", **({"first": "always"} if n % 2
                                                                  else {})) for n in range(200))]


@pytest.mark.both
@pytest.mark.parametrize("tasks", [waiting, early, mixed])
def test_one_callback_is_stored_once_and_is_every_tasks_result(
        define, start, callback, flask, environ, tasks):
    run = start(define("release", *tasks()))
    large = {"text": "x" * 100_000}
    assert callback(run, "shared", json=large).status_code == 200
    assert callback(run, "shared", json={"text": "again"}).status_code == 200
    if tasks is not waiting:
        callback(run, "first", json={"first": True})
    database.close()
    assert 100_000 < stored(environ) < 101_000
    shown = flask.json("workflowrun", "show", run["id"])
    results = [task["results"] for task in shown["tasks"] if task["name"] != "first"]
    assert results == [[{"name": "data", "value": large}]] * 200
    assert shown["status"] == "succeeded"


@pytest.mark.parametrize("payload, count", [(MEGABYTE, 3), ({"text": "x"}, 200)],
                         ids=["large", "small"])
def test_an_answer_holds_results_up_to_four_megabytes(define, start, callback, payload, count):
    run = start(define("release", *waiting()), Idempotency_Key='"a"')
    callback(run, "shared", json=payload)
    again = start("release", Idempotency_Key='"a"')
    full = [task for task in again["tasks"] if task["results"]]
    assert len(full) == count and again["id"] == run["id"]
    assert full == again["tasks"][:count] and not any("resultsOmitted" in task for task in full)
    assert all(task["resultsOmitted"] is True for task in again["tasks"][count:])
    assert len(json.dumps(again)) < 5_000_000


def test_answers_of_different_sizes_are_left_out_in_order(define, start, callback):
    run = start(define("release", *(wait_task(f"t{n}") for n in range(6))), Idempotency_Key='"a"')
    for n, size in enumerate([1_000_000, 1_000_000, 10, 1_000_000, 1_000_000, 10]):
        callback(run, f"t{n}", json={"text": "x" * size})
    again = start("release", Idempotency_Key='"a"')
    assert [task.get("resultsOmitted", False) for task in again["tasks"]] == [
        False, False, False, False, True, True]


def test_a_file_of_many_large_callbacks_grows_by_their_size(define, start, callback, environ,
                                                            tmp_path):
    define("release", *waiting())
    for number in range(3):
        callback(start("release"), "shared", json=MEGABYTE)
    database.close()
    size = sum(path.stat().st_size for path in tmp_path.glob("signalbox.db*"))
    assert size < 8_000_000 and file_of(environ["DATABASE_URL"]).startswith(str(tmp_path))


# What keeps the database away is told as what it is

@pytest.mark.parametrize("code, room, says", [
    ("SQLITE_FULL", True, "the disk is full"), ("SQLITE_IOERR_WRITE", True, "cannot be written"),
    ("SQLITE_IOERR_FSYNC", True, "the disk cannot be written"),
    ("SQLITE_IOERR_SHMSIZE", False, "the disk is full"),
    ("SQLITE_IOERR_FSYNC", False, "the disk is full"),
    ("SQLITE_BUSY", True, "another program holds the database"),
    ("SQLITE_CORRUPT", True, "is damaged; restore a backup"),
    ("SQLITE_CANTOPEN", True, "cannot be opened"), ("SQLITE_READONLY", True, "is not writable"),
])
def test_the_log_says_what_keeps_the_database_away(define, client, monkeypatch, caplog, code, room,
                                                   says):
    define("release")
    kind = sqlite3.DatabaseError if "CORRUPT" in code else sqlite3.OperationalError

    def execute(*args):
        error = kind("disk I/O error")
        error.sqlite_errorcode = getattr(sqlite3, code)
        raise error

    monkeypatch.setattr("storage.sqlite.BUSY_SECONDS", 0.01)
    monkeypatch.setattr(SqliteDatabase, "connection", lambda self: SimpleNamespace(execute=execute))
    monkeypatch.setattr(shutil, "disk_usage",
                        lambda path: SimpleNamespace(free=10**9 if room else 4096))
    answer = client.post("/api/v2/webhook?workflow=release", json={})
    assert answer.status_code == 503 and answer.headers["Retry-After"]
    [line] = [record.getMessage() for record in caplog.records if "unavailable" in record.message]
    assert says in line


def test_the_log_says_that_postgresql_is_away(clock, caplog):
    app = create_app({"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"}, clock)
    try:
        for look in range(2):
            answer = app.test_client().post("/api/v2/webhook?workflow=release", json={})
            assert answer.status_code == 503
    finally:
        database.close()
    lines = [record.getMessage() for record in caplog.records if "unavailable" in record.message]
    assert len(lines) == 2 and all("PostgreSQL is away" in line for line in lines)
