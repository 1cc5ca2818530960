"""A year of a small installation in a few minutes, with a moved clock: part of `make soak`.

200 runs a day of workflows/release.json: approved, rolled back, rejected, cancelled, forgotten, and
sent again by a sender who heard no answer; `expire` each hour, `purge --older-than 30d` each night.
Beside the service a few lines of bookkeeping know what must be there.
"""
import contextlib
import io
import json
import os
from collections import Counter
from pathlib import Path

from flask.cli import ScriptInfo

from app import create_app
from conftest import Clock
from server import PROJECT

RUNS_A_DAY, DAYS, KEPT_DAYS = 200, 365, 30
SETTLED = 60  # days after which size and memory must not grow any more
STEP = 1440 // RUNS_A_DAY  # minutes
TIMEOUT = 1440  # minutes, of the run in workflows/release.json
DAY = 86_400_000

#: What happens to a run, by its number's last digit: callbacks (topic, status), then its status.
STORIES = 5 * [([("tests", "succeeded"), ("approval", "succeeded")], "succeeded")] + [
    ([("tests", "failed"), ("rollback", "succeeded")], "succeeded"),
    ([("tests", "succeeded"), ("approval", "failed")], "failed"),
    ([("approval", "succeeded"), ("tests", "succeeded")], "succeeded"),  # the first comes early
    ([("tests", "succeeded")], "cancelled"),
    ([], "timedout")]


class Installation:
    """The service, its senders and its timers; and what is expected of it."""

    def __init__(self, folder):
        self.clock = Clock()
        self.database = folder / "year.db"
        self.app = create_app({"DATABASE_URL": f"sqlite:///{self.database}"}, self.clock)
        self.client, self.output = self.app.test_client(), io.StringIO()
        self.said("workflow", "apply", PROJECT / "workflows" / "release.json")
        self.ended, self.forgotten = {}, {}  # status and time by id; time of the start by id
        self.purged = self.started = 0

    def said(self, *command):
        """What a command prints. click remembers each stream that it has written to: one serves."""
        self.output.seek(0)
        self.output.truncate()
        with contextlib.redirect_stdout(self.output):
            try:
                self.app.cli.main([*map(str, command)], "flask", standalone_mode=False,
                                  obj=ScriptInfo(create_app=lambda: self.app))
            except SystemExit as end:
                assert not end.code, self.output.getvalue()
        return self.output.getvalue()

    def post(self, path, payload, **headers):
        answer = self.client.post(f"/api/v2/{path}", json=payload, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer

    def live(self, day):
        for number in range(day * RUNS_A_DAY, (day + 1) * RUNS_A_DAY):
            self.run(number)
            self.clock.advance(minutes=STEP)
            if number % 8 == 7:
                self.expire()
        self.purge()

    def run(self, number):
        callbacks, status = STORIES[number % len(STORIES)]
        times = 2 if number % 7 == 0 else 1  # how often a sender repeats himself
        id, = {self.post("webhook?workflow=release", {"version": number},
                         **{"Idempotency-Key": f"run-{number}"}).json["id"] for _ in range(times)}
        self.started += 1
        for topic, outcome in callbacks:
            for _ in range(times):
                self.post(f"callback?workflowrun={id}&topic={topic}&status={outcome}", {})
        if status == "cancelled":
            self.said("workflowrun", "cancel", id)
        if status == "timedout":
            self.forgotten[id] = self.clock()
        else:
            self.ended[id] = status, self.clock()

    def expire(self):
        self.said("workflowrun", "expire")
        for id, start in list(self.forgotten.items()):
            if start + TIMEOUT * 60_000 <= self.clock():
                del self.forgotten[id]
                self.ended[id] = "timedout", self.clock()

    def purge(self):
        old = [id for id, (_, end) in self.ended.items() if end < self.clock() - KEPT_DAYS * DAY]
        for id in old:
            del self.ended[id]
        assert self.said("workflowrun", "purge", "--older-than", f"{KEPT_DAYS}d") == (
            f"purged {len(old)} runs\n")
        self.purged += len(old)

    def expected(self):
        """How many runs of each status there must be."""
        return Counter([status for status, _ in self.ended.values()]
                       + len(self.forgotten) * ["running"])

    def size(self):
        return sum(file.stat().st_size for file in self.database.parent.iterdir())


def resident():
    """This process's memory in bytes (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def year(folder, checks):
    """Counts exact, file and memory bounded, over a year."""
    installation = Installation(folder)
    wrong = []
    for day in range(DAYS):
        installation.live(day)
        found = json.loads(installation.said("status", "--json"))["runs"]
        if found != installation.expected():
            wrong.append(f"day {day}: {found} instead of {dict(installation.expected())}")
        if day == SETTLED:
            size, memory = installation.size(), resident()
    grown = resident() / memory  # before all runs are listed at once
    stored = {run["id"]: run["status"] for run in json.loads(
        installation.said("workflowrun", "list", "--json", "--limit", "1000000"))}
    expected = {**{id: status for id, (status, _) in installation.ended.items()},
                **dict.fromkeys(installation.forgotten, "running")}
    checks.tell(not wrong and stored == expected and installation.purged + len(stored)
                == installation.started, f"a year: {installation.started:,} runs, "
                f"{installation.purged:,} purged, {len(stored):,} left as they ended {wrong[:3]}")
    checks.at_most(1.1, "the database's size after a year", installation.size() / size,
                   f"of that after {SETTLED} days ({installation.size() / 1e6:.1f} MB)")
    checks.at_most(1.1, "memory after a year", grown,
                   f"of that after {SETTLED} days ({memory / 1e6:.0f} MB)")
