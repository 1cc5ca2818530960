"""Measure the service against bench/limit.py: `make bench`. Needs wrk; loads loopback only.

Both run under gunicorn with the shipped settings and are driven in alternating rounds; a ratio is
the median of the rounds' ratios. Prints a table and writes it to bench/RESULTS.md. ROUNDS, if it is
set, says how many rounds.
"""
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fill import fill
from server import GUNICORN, PROJECT, Server

BENCH = Path(__file__).resolve().parent
LIMIT = [*GUNICORN[:-1], "limit:app"]
ROUNDS, SECONDS, CONNECTIONS = int(os.environ.get("ROUNDS", "5")), 3, 8
SCENARIOS = {"start": "start", "resolve": "resolve", "event": "start"}  # and what the limit does
WAITING = 4000  # runs for each second of resolving; far more than are resolved


class Round(NamedTuple):
    """What wrk measured; rate is a second, p50 and p99 in milliseconds."""
    rate: float
    p50: float
    p99: float
    errors: int
    requests: int


def serve(folder, command=GUNICORN, **settings):
    """A server with a database of its own that knows the workflow `bench`; not started yet."""
    folder.mkdir()
    server = Server(folder, command, PYTHONPATH=str(BENCH), **settings)
    applied = server.flask("workflow", "apply", BENCH / "workflow.json")
    if applied.returncode:
        raise SystemExit(applied.stderr)
    return server


def drive(server, scenario, seconds=SECONDS, pause=None):
    """Load the server with wrk for some seconds; a Round."""
    first = time.time_ns()
    if scenario == "resolve":
        first = fill(server.database, WAITING * seconds)
    environ = {**os.environ, "SCENARIO": scenario, "FIRST": str(first)}
    if pause:
        environ["PAUSE"] = str(pause)
    command = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", BENCH / "load.lua",
               f"http://127.0.0.1:{server.port}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True,
                          timeout=seconds + 30)
    result = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if not result:
        raise SystemExit(f"wrk failed: {done.stdout}{done.stderr}")
    requests, microseconds, p50, p99, errors = map(int, result.groups())
    return Round(requests / microseconds * 1e6, p50 / 1000, p99 / 1000, errors, requests)


def measure(folder):
    """{scenario: [(the service's round, the limit's)]}"""
    with serve(folder / "service") as service, serve(folder / "limit", LIMIT) as limit:
        for server, scenario in ((service, "start"), (limit, "start")):
            drive(server, scenario, 1)  # connections and statements are there after that
        return {scenario: [(drive(service, scenario), drive(limit, of_limit))
                           for number in range(ROUNDS)]
                for scenario, of_limit in SCENARIOS.items()}


def table(figures):
    yield "| scenario | | requests/s | p50 ms | p99 ms | errors | ratio to the limit | p99 ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for scenario, rounds in figures.items():
        ratio = median(service.rate / limit.rate for service, limit in rounds)
        tail = median(service.p99 / limit.p99 for service, limit in rounds)
        for name, own, ratios in (("Signalbox", 0, f"**{ratio:.2f}** | {tail:.2f}"),
                                  ("limit", 1, "| ")):
            rates, p50s, p99s, errors, requests = zip(*[pair[own] for pair in rounds])
            yield (f"| {scenario} | {name} | {median(rates):.0f} | {median(p50s):.1f} | "
                   f"{median(p99s):.1f} | {sum(errors)} | {ratios} |")


def circumstances():
    """Date, commit and versions, in two lines."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, text=True,
                            capture_output=True).stdout.strip()
    packages = ("flask", "gunicorn", "marshmallow", "peewee")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    yield (f"{date.today()}, commit {commit or 'unknown'}, {platform.system()} "
           f"{platform.machine()}, {os.cpu_count()} cores;")
    yield f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}."


def require_wrk():
    if not shutil.which("wrk"):
        sys.exit("wrk is missing; install it (Debian: apt install wrk)")


def main():
    require_wrk()
    with tempfile.TemporaryDirectory() as folder:
        lines = list(table(measure(Path(folder))))
    lines = [
        "# Measured with `make bench`", "", *circumstances(),
        f"{ROUNDS} alternating rounds of {SECONDS} s, {CONNECTIONS} connections, two workers each; "
        "a figure is the median of the rounds,", "a ratio the median of the rounds' ratios.", "",
        *lines]
    print("\n".join(lines))
    (BENCH / "RESULTS.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
