"""Measure the service against bench/limit.py, and on PostgreSQL: `make bench`. Needs wrk.

The yardstick is that work written by hand where gunicorn serves it fastest: two plain synchronous
workers, no access log. The service runs as deploy/ has it (THREADS=1) and as `make run` has it, log
and all; beside it stands the work by hand under the settings of `make run`. All are on loopback
only, without nginx, and are driven in alternating rounds; a ratio is the median of the rounds'
ratios. Prints tables and appends them to bench/RESULTS.md. ROUNDS and ROUND_SECONDS, if they are
set, say how many rounds and how long.
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
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import psycopg

import postgres_server
from fill import PAYLOAD, fill, now
from server import GUNICORN, PROJECT, Server

BENCH = Path(__file__).resolve().parent
LIMIT = [*GUNICORN[:-1], "limit:app"]
YARDSTICK, DEPLOYED, AS_RUN, BY_HAND = (
    "yardstick", "as deployed", "as `make run`", "by hand, as `make run`")
ROUNDS, SECONDS = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("ROUND_SECONDS", "3"))
CONNECTIONS, CROWDS = 8, (16, 64)
SCENARIOS = ("start", "resolve", "event")
WAITING = 4000  # runs for each second of resolving; far more than are resolved
FILL = """
    INSERT INTO workflow_run (number, id, workflow_ref, workflow_version, trigger, routed, status,
                              params, start_time)
        SELECT n, lpad(to_hex(n), 32, '0'), 'bench', 1, 'webhook', false, 'running', %s, %s
        FROM generate_series(%s::integer, %s) AS n"""
FILL_TASKS = """
    INSERT INTO task_run (workflow_run_id, position, id, name, topic, status, dependencies,
                          start_time)
        SELECT number, 0, id, 'done', 'done', 'waiting', '[]', start_time
        FROM workflow_run WHERE number >= %s"""


class Round(NamedTuple):
    """What wrk measured; rate is a second, p50, p99 and longest in milliseconds."""
    rate: float
    p50: float
    p99: float
    longest: float
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


def serve_yardstick(folder):
    """The work by hand under gunicorn's own settings, but for the workers: where it is fastest."""
    server = serve(folder)
    server.command = [*GUNICORN[:-1], "--workers", "2", "--bind", f"127.0.0.1:{server.port}",
                      "limit:app"]
    server.cwd = BENCH  # where no gunicorn.conf.py is
    return server


def drive(server, scenario, seconds=SECONDS, pause=None, connections=CONNECTIONS):
    """Load the server with wrk for some seconds; a Round."""
    return drive_all([server], scenario, seconds, pause, connections)


def drive_all(servers, scenario, seconds=SECONDS, pause=None, connections=CONNECTIONS):
    """The same for one server, or two on one database that share the connections.

    Of two, the requests of both count, the mean of their p50 and the larger p99 and longest.
    """
    first = time.time_ns()
    if scenario == "resolve":
        first = fill_any(servers[0], WAITING * seconds)
    running = [wrk(server, scenario, first + number, seconds, pause, connections, len(servers))
               for number, server in enumerate(servers)]
    rounds = [result(process, seconds) for process in running]
    rates, p50s, p99s, longest, errors, requests = zip(*rounds)
    return Round(sum(rates), mean(p50s), max(p99s), max(longest), sum(errors), sum(requests))


def wrk(server, scenario, first, seconds, pause, connections, of):
    """Start wrk; of two at once each has one thread, so that they never send the same number."""
    environ = {**os.environ, "SCENARIO": scenario, "FIRST": str(first)}
    if pause:
        environ["PAUSE"] = str(pause)
    command = ["wrk", f"-t{2 // of}", f"-c{connections // of}", f"-d{seconds}s", "-s",
               BENCH / "load.lua", f"http://127.0.0.1:{server.port}"]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def result(process, seconds):
    """The Round of one wrk that was started."""
    said = process.communicate(timeout=seconds + 30)[0]
    found = re.search("RESULT" + r" (\d+)" * 6, said)
    if not found:
        raise SystemExit(f"wrk failed: {said}")
    requests, microseconds, p50, p99, longest, errors = map(int, found.groups())
    return Round(requests / microseconds * 1e6, p50 / 1000, p99 / 1000, longest / 1000, errors,
                 requests)


def fill_any(server, count):
    """Insert waiting runs into the server's database, of either kind; the first one's number."""
    url = server.environ["DATABASE_URL"]
    if url.startswith("sqlite"):
        return fill(server.database, count)
    with psycopg.connect(url) as session:
        [[first]] = session.execute("SELECT nextval('workflow_run_number_seq')").fetchall()
        session.execute(FILL, [PAYLOAD, now(), first, first + count])
        session.execute(FILL_TASKS, [first])
        session.execute("SELECT setval('workflow_run_number_seq', %s)", [first + count])
    return first


def measure(folder):
    """{scenario: {whom: [a Round for each]}}, on PostgreSQL too where its programs are; and
    {(scenario, connections): a Round} of the service as deployed."""
    with ExitStack() as stack:
        def started(name, *args, **settings):
            return stack.enter_context(serve(folder / name, *args, **settings))

        deployed = started("deployed", THREADS="1")
        rivals = {YARDSTICK: [stack.enter_context(serve_yardstick(folder / "yardstick"))],
                  DEPLOYED: [deployed], AS_RUN: [started("as-run")],
                  BY_HAND: [started("by-hand", LIMIT)]}
        postgres = stack.enter_context(postgres_server.running(durable=True))
        if postgres:
            url = postgres.url(postgres.new())
            one, two = [started(name, DATABASE_URL=url) for name in ("one", "two")]
            rivals |= {"one on PostgreSQL": [one], "two on PostgreSQL": [one, two]}
        else:
            print(f"not measured on PostgreSQL: {postgres_server.MISSING}", file=sys.stderr)
        for servers in rivals.values():
            drive_all(servers, "start", 1)  # connections and statements are there after that
        figures = {scenario: {name: [] for name in rivals} for scenario in SCENARIOS}
        for scenario in SCENARIOS:
            for number in range(ROUNDS):
                for name, servers in sorted(rivals.items(), reverse=number % 2):
                    by_hand = name in (YARDSTICK, BY_HAND)  # it knows no events
                    figures[scenario][name].append(drive_all(
                        servers, "start" if by_hand and scenario == "event" else scenario))
        crowds = {(scenario, connections): drive(deployed, scenario, connections=connections)
                  for scenario in SCENARIOS for connections in CROWDS}
        return figures, crowds


def table(figures, names, yardstick):
    """Lines of a table of these contestants, measured by another, whose own lines end it."""
    yield ("| scenario | | requests/s | p50 ms | p99 ms | errors | "
           f"ratio to {yardstick} | p99 ratio |")
    yield "|---|---|---|---|---|---|---|---|"
    for scenario, rounds in figures.items():
        for name in (*names, yardstick):
            pairs = list(zip(rounds[name], rounds[yardstick]))
            ratio = median(own.rate / other.rate for own, other in pairs)
            tail = median(own.p99 / other.p99 for own, other in pairs)
            rates, p50s, p99s, longest, errors, requests = zip(*rounds[name])
            ratios = "| " if name == yardstick else f"**{ratio:.2f}** | {tail:.2f}"
            yield (f"| {scenario} | {name} | {median(rates):.0f} | {median(p50s):.1f} | "
                   f"{median(p99s):.1f} | {sum(errors)} | {ratios} |")


def circumstances():
    """Commit and versions, in two lines."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, text=True,
                            capture_output=True).stdout.strip()
    packages = ("flask", "gunicorn", "marshmallow", "peewee")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    yield (f"Commit {commit or 'unknown'}, {platform.system()} "
           f"{platform.machine()}, {os.cpu_count()} cores;")
    yield f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}."


def require_wrk():
    if not shutil.which("wrk"):
        sys.exit("wrk is missing; install it (Debian: apt install wrk)")


def main():
    require_wrk()
    with tempfile.TemporaryDirectory() as folder:
        figures, crowds = measure(Path(folder))
    lines = [
        "", f"## {datetime.now():%Y-%m-%d %H:%M}", "", *circumstances(),
        f"{ROUNDS} alternating rounds of {SECONDS} s, {CONNECTIONS} connections, two workers each.",
        "", *table(figures, [DEPLOYED, AS_RUN, BY_HAND], YARDSTICK), "",
        "The service as `make run` has it, by the same work by hand under the same settings:", "",
        *table(figures, [AS_RUN], BY_HAND), "",
        f"As deployed, with more connections, {SECONDS} s each:", "",
        "| scenario | connections | requests/s | p99 ms | longest ms | errors |",
        "|---|---|---|---|---|---|",
        *(f"| {scenario} | {connections} | {found.rate:.0f} | {found.p99:.1f} | "
          f"{found.longest:.1f} | {found.errors} |"
          for (scenario, connections), found in crowds.items())]
    on_postgres = [name for name in figures["start"] if "PostgreSQL" in name]
    if on_postgres:
        lines += ["", "The same on PostgreSQL, in the same rounds: one service, and two on one "
                  "database that share the connections", "(their requests together, the mean of "
                  "their p50, the larger p99). The server runs on the same machine.", "",
                  *table(figures, on_postgres, AS_RUN)]
    print("\n".join(lines))
    with (BENCH / "RESULTS.md").open("a") as results:
        results.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
