"""Insert many runs directly: `python bench/fill.py DATABASE COUNT [waiting|ended]`; prints nothing.

The runs are of the workflow `bench`; the id of run i is `%032x` of i, so that a load client knows it.
"""
import sqlite3
import sys
import time

PAYLOAD = '{"data": {"text": "%s"}}' % ("x" * 1000)


def fill(path, count, state, first=None, payload=PAYLOAD):
    """Insert `count` runs, their numbers from `first` on; ended ones ended one second apart."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous=OFF")
    first = first or (db.execute("SELECT max(number) FROM workflow_run").fetchone()[0] or 0) + 1
    now = int(time.time() * 1000)
    status, task = ("running", "waiting") if state == "waiting" else ("succeeded", "succeeded")
    numbers = range(first, first + count)
    ended = [now - (first + count - n) * 1000 if state == "ended" else None for n in numbers]
    db.executemany(
        'INSERT INTO workflow_run (number, id, workflow_ref, workflow_version, "trigger", routed,'
        " status, params, start_time, end_time) VALUES (?, ?, 'bench', 1, 'webhook', 0, ?, ?, ?, ?)",
        ((n, f"{n:032x}", status, payload, (end or now) - 1, end)
         for n, end in zip(numbers, ended)))
    db.executemany(
        "INSERT INTO task_run (workflow_run_id, position, id, name, topic, status, dependencies,"
        " start_time, end_time) VALUES (?, 0, ?, 'done', 'done', ?, '[]', ?, ?)",
        ((n, f"{n:032x}", task, (end or now) - 1, end) for n, end in zip(numbers, ended)))
    db.commit()
    db.close()
    return first


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "ended")
