"""Measure the service against bench/limit.py: `make bench`. Needs wrk; loads loopback only.

Both run under gunicorn with the shipped settings, and are driven in alternating rounds; a ratio is
the median of the rounds' ratios. Prints a table and writes it to bench/RESULTS.md.
"""
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from fill import fill

BENCH = Path(__file__).resolve().parent
ROUNDS, SECONDS, CONNECTIONS = int(os.environ.get("ROUNDS", 5)), 3, 8
SCENARIOS = {"start": "start", "resolve": "resolve", "event": "start"}  # and what the limit does


class Server:
    """gunicorn with one of the two applications, on a free port and a database of its own."""

    def __init__(self, application, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.path = f"{folder}/{application.partition(':')[0]}.db"
        environ = {**os.environ, "DATABASE_URL": f"sqlite:///{self.path}", "PORT": str(self.port),
                   "PYTHONPATH": f"{BENCH}", "HOST": "127.0.0.1"}
        flask = [sys.executable, "-m", "flask", "workflow", "apply", f"{BENCH}/workflow.json"]
        subprocess.run(flask, cwd=BENCH.parent, env=environ, check=True, capture_output=True)
        self.log = open(f"{self.path}.log", "w")
        self.process = subprocess.Popen([sys.executable, "-m", "gunicorn", application],
                                        cwd=BENCH.parent, env=environ, stderr=self.log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"{application} does not answer; see {self.log.name}")

    def drive(self, scenario):
        """One round: (requests a second, p50 and p99 in milliseconds, errors)."""
        first = fill(self.path, 12_000, "waiting") if scenario == "resolve" else time.time_ns()
        environ = {**os.environ, "SCENARIO": scenario, "FIRST": str(first)}
        command = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", f"{BENCH}/load.lua",
                   f"http://127.0.0.1:{self.port}"]
        output = subprocess.run(command, env=environ, capture_output=True, text=True).stdout
        requests, duration, p50, p99, errors = map(
            int, re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output).groups())
        return requests / duration * 1e6, p50 / 1000, p99 / 1000, errors

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def measure(folder):
    """{scenario: ([a round's figures of the service], [of the limit])}"""
    servers = [Server("wsgi:app", folder), Server("limit:app", folder)]
    try:
        figures = {}
        for scenario, of_limit in SCENARIOS.items():
            rounds = [(servers[0].drive(scenario), servers[1].drive(of_limit))
                      for _ in range(ROUNDS)]
            figures[scenario] = list(zip(*rounds))
        return figures
    finally:
        for server in servers:
            server.stop()


def table(figures):
    yield "| scenario | | requests/s | p50 ms | p99 ms | errors | ratio to the limit | p99 ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for scenario, (service, limit) in figures.items():
        for name, rounds in (("Signalbox", service), ("limit", limit)):
            rate, p50, p99 = (statistics.median(column) for column in list(zip(*rounds))[:3])
            ratios = " | "
            if name == "Signalbox":
                ratio = statistics.median(s[0] / o[0] for s, o in zip(service, limit))
                tail = statistics.median(s[2] / o[2] for s, o in zip(service, limit))
                ratios = f"**{ratio:.2f}** | {tail:.2f}"
            yield (f"| {scenario} | {name} | {rate:.0f} | {p50:.1f} | {p99:.1f} | "
                   f"{sum(r[3] for r in rounds)} | {ratios} |")


def main():
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing (Debian: apt install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        lines = list(table(measure(folder)))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=BENCH, text=True,
                            capture_output=True).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}"
                         for name in ("flask", "gunicorn", "marshmallow", "peewee"))
    print("\n".join(lines))
    (BENCH / "RESULTS.md").write_text("\n".join([
        "# Measured with `make bench`", "",
        f"{date.today()}, commit {commit or 'unknown'}, Python {sys.version.split()[0]}, {versions}; "
        f"{os.cpu_count()} cores, {ROUNDS} alternating rounds of {SECONDS} s, "
        f"{CONNECTIONS} connections. Figures are medians of the rounds.", "", *lines, ""]))


if __name__ == "__main__":
    main()
