"""The yardstick: the work of a webhook and a callback written by hand, on the service's own tables.

No ORM, no validation, no repeats, no conditions: the same rows and the same durability, no more.
"""
import json
import os
import secrets
import sqlite3
import threading
import time
from contextlib import contextmanager

from flask import Flask, Response, request

PATH = os.environ["DATABASE_URL"].removeprefix("sqlite:///")
INSERT_RUN = """INSERT INTO workflow_run (id, workflow_ref, workflow_version, "trigger", routed,
    status, params, start_time) VALUES (?, ?, ?, 'webhook', 0, 'running', ?, ?)"""
INSERT_TASK = """INSERT INTO task_run (workflow_run_id, position, id, name, topic, status,
    dependencies, start_time) VALUES (?, 0, ?, 'done', 'done', 'waiting', '[]', ?)"""
END_TASK = """UPDATE task_run SET status = 'succeeded', end_time = ?, callback_status = 'succeeded',
    callback_results = ? WHERE workflow_run_id = ? AND topic = ? AND status = 'waiting'"""
END_RUN = "UPDATE workflow_run SET status = 'succeeded', end_time = ? WHERE number = ?"

local, turn = threading.local(), threading.Lock()
app = Flask(__name__)


def connection():
    """This thread's connection, which stays open."""
    if not hasattr(local, "connection"):
        local.connection = sqlite3.connect(PATH, isolation_level=None, timeout=0)
        local.connection.execute("PRAGMA synchronous = FULL")
        local.connection.execute("PRAGMA foreign_keys = 1")
    return local.connection


@contextmanager
def writing():
    """A write transaction; its turn is asked for again and again, as the service does it."""
    with turn, connection() as db:  # commits, or rolls back
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError:
                time.sleep(0.00005)
        yield db


def now():
    return time.time_ns() // 1_000_000


@app.post("/api/v2/webhook")
def webhook():
    name, payload, at = request.args["workflow"], request.get_json(), now()
    version, = connection().execute(
        "SELECT version FROM workflow WHERE name = ?", (name,)).fetchone()
    run_id, task_id = secrets.token_hex(16), secrets.token_hex(16)
    params = json.dumps({"data": payload})
    with writing() as db:
        number = db.execute(INSERT_RUN, (run_id, name, version, params, at)).lastrowid
        db.execute(INSERT_TASK, (number, task_id, at))
    return {"id": run_id, "workflowRef": name, "status": "running", "startTime": at,
            "params": [{"name": "data", "value": payload}],
            "tasks": [{"id": task_id, "name": "done", "status": "waiting", "startTime": at}]}


@app.post("/api/v2/callback")
def callback():
    run_id, topic, at = request.args["workflowrun"], request.args["topic"], now()
    results = json.dumps([{"name": "data", "value": request.get_json()}])
    with writing() as db:
        number, = db.execute("SELECT number FROM workflow_run WHERE id = ?", (run_id,)).fetchone()
        db.execute(END_TASK, (at, results, number, topic))
        db.execute(END_RUN, (at, number))
    return Response()
