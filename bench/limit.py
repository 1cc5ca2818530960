"""The yardstick: the work of a webhook and a callback written by hand, on the service's own tables.

No ORM, no validation, no repeats, no conditions: one task, one row each, the same durability.
"""
import fcntl
import json
import os
import secrets
import sqlite3
import threading
import time

from flask import Flask, Response, request

PATH = os.environ["DATABASE_URL"].removeprefix("sqlite:///")
local = threading.local()
app = Flask(__name__)


def connection():
    if not hasattr(local, "connection"):
        local.connection = sqlite3.connect(PATH, isolation_level=None)
        local.connection.execute("PRAGMA synchronous=FULL")
        local.connection.execute("PRAGMA foreign_keys=1")
    return local.connection


class Writing:
    """A write transaction, queued on the same file as the service's."""

    def __enter__(self):
        self.queue = os.open(f"{PATH}-queue", os.O_RDWR)
        fcntl.flock(self.queue, fcntl.LOCK_EX)
        connection().execute("BEGIN IMMEDIATE")

    def __exit__(self, *error):
        connection().execute("COMMIT")
        os.close(self.queue)


@app.post("/api/v2/webhook")
def webhook():
    name, now = request.args["workflow"], int(time.time() * 1000)
    version, = connection().execute(
        "SELECT version FROM workflow WHERE name = ?", (name,)).fetchone()
    payload = request.get_json()
    run_id, task_id, params = secrets.token_hex(16), secrets.token_hex(16), {"data": payload}
    text = json.dumps(params)
    with Writing():
        number = connection().execute(
            'INSERT INTO workflow_run (id, workflow_ref, workflow_version, "trigger", routed, status,'
            " params, start_time) VALUES (?, ?, ?, 'webhook', 0, 'running', ?, ?)",
            (run_id, name, version, text, now)).lastrowid
        connection().execute(
            "INSERT INTO task_run (workflow_run_id, position, id, name, topic, status, dependencies,"
            " start_time) VALUES (?, 0, ?, 'done', 'done', 'waiting', '[]', ?)",
            (number, task_id, now))
    return {"id": run_id, "workflowRef": name, "status": "running", "startTime": now,
            "params": [{"name": "data", "value": payload}],
            "tasks": [{"id": task_id, "name": "done", "status": "waiting", "startTime": now}]}


@app.post("/api/v2/callback")
def callback():
    run_id, topic, now = request.args["workflowrun"], request.args["topic"], int(time.time() * 1000)
    results = json.dumps([{"name": "data", "value": request.get_json()}])
    with Writing():
        number, = connection().execute(
            "SELECT number FROM workflow_run WHERE id = ?", (run_id,)).fetchone()
        connection().execute(
            "UPDATE task_run SET status = 'succeeded', end_time = ?, callback_status = 'succeeded',"
            " callback_results = ? WHERE workflow_run_id = ? AND topic = ? AND status = 'waiting'",
            (now, results, number, topic))
        connection().execute(
            "UPDATE workflow_run SET status = 'succeeded', end_time = ? WHERE number = ?",
            (now, number))
    return Response()
