"""Insert many runs directly: `python bench/fill.py DATABASE COUNT [waiting|ended]`.

They are of the workflow in bench/workflow.json, with a payload of 1 KB and one task each. Ended
runs have ids and delivery keys as in life, so that the indexes are as scattered; the id of the
waiting run number i is `%032x` of i, so that a load client can compute it.
"""
import secrets
import sqlite3
import sys
import time

from runs.life import new_id

BATCH = 10_000  # ended runs in a transaction: a larger one leaves a WAL as large as itself
SECOND = 1000
PAYLOAD = '{"data": {"text": "%s"}}' % ("x" * 1000)
RUN = """INSERT INTO workflow_run (number, id, workflow_ref, workflow_version, "trigger", routed,
    delivery_key, status, params, start_time, end_time)
    VALUES (?, ?, 'bench', 1, 'webhook', 0, ?, ?, ?, ?, ?)"""
TASK = """INSERT INTO task_run (workflow_run_id, position, id, name, topic, status, dependencies,
    start_time, end_time, callback_status, callback_results)
    VALUES (?, 0, ?, 'done', 'done', ?, '[]', ?, ?, ?, ?)"""


def now():
    return time.time_ns() // 1_000_000


def waiting(number):
    run = number, f"{number:032x}", None, "running", PAYLOAD, now(), None
    return run, (number, secrets.token_hex(16), "waiting", run[5], None, None, None)


def ended(number, at):
    status = "failed" if number % 10 == 0 else "succeeded"
    run = number, new_id(at - SECOND), secrets.token_hex(32), status, PAYLOAD, at - SECOND, at
    return run, (number, secrets.token_hex(16), status, at - SECOND, at, status, "[]")


def fill(path, count, until=None):
    """Insert runs. With `until` (milliseconds since 1970) they have ended, a second apart, the last
    one then; without it they wait, and the first one's number is returned, which the others follow.
    """
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -1000000")  # a gigabyte: the scattered pages of the indexes
    batch = BATCH if until else count
    for done in range(0, count, batch):
        with db:
            db.execute("BEGIN IMMEDIATE")  # before the number is read: the service may be running
            newest, = db.execute("SELECT max(number) FROM workflow_run").fetchone()
            first = (newest or 0) + 1
            numbers = range(first, first + min(batch, count - done))
            if until:
                youngest = first + count - done - 1
                rows = [ended(n, until - (youngest - n) * SECOND) for n in numbers]
            else:
                rows = [waiting(n) for n in numbers]
            db.executemany(RUN, [run for run, task in rows])
            db.executemany(TASK, [task for run, task in rows])
    db.close()
    return first


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), None if "waiting" in sys.argv else now())
