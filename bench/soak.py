"""The long checks: `make soak`. One line each, exit code 1 when one fails; half an hour.

Flat as it grows, at ease while it purges, small in memory, quick to start, thirty kills that lose
nothing, and a year of a small installation. As in run.py, what is compared is measured in
alternation, and medians count. Arguments name the checks to make, if not all:
`make soak CHECKS="grow purge memory start kills year"`.
"""
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from fill import fill, now
from run import drive, require_wrk, serve
from server import PROJECT
from year import year

FEW, MANY = 1_000, 1_000_000
ROUNDS, SECONDS = 31, 1  # many short ones: what else runs on the machine comes in bursts
PURGES = 5
DAY = 86_400_000
KILLS = 30


class Checks:
    """Prints a line for each and remembers whether one failed."""
    failed = False

    def at_most(self, bound, what, figure, unit):
        self.tell(figure <= bound, f"{what}: {figure:.2f} {unit} (at most {bound})")

    def dearer(self, bound, what, costs):
        """Compare pairs of costs, each measured at about the same time."""
        ratios = [many / few for few, many in costs]
        self.at_most(bound, f"{what} with {MANY:,} runs", median(ratios),
                     f"of its cost with {FEW:,}, in {len(costs)} rounds "
                     f"{min(ratios):.2f} to {max(ratios):.2f}")

    def tell(self, is_met, line):
        self.failed = self.failed or not is_met
        print("ok    " if is_met else "FAILED", line, flush=True)


def grow(folder, checks):
    """What starting, resolving and the commands cost with a million runs and with a thousand."""
    with filled(folder / "few", FEW) as few, filled(folder / "many", MANY) as many:
        for scenario in ("start", "resolve"):
            costs = [(cost_of_load(few, scenario), cost_of_load(many, scenario))
                     for number in range(ROUNDS)]
            checks.dearer(1.1, scenario, costs)
        for command in ("list", "show", "expire"):
            costs = [(cost_of_command(few, command), cost_of_command(many, command))
                     for number in range(ROUNDS)]
            checks.dearer(1.5, f"workflowrun {command}", costs)


def filled(folder, count):
    server = serve(folder)
    fill(server.database, count, now())
    return server


def cost_of_load(server, scenario):
    """Seconds a request; the runs that this made are taken away again, so that few stay few."""
    newest = scalar(server, "SELECT max(number) FROM workflow_run")
    measured = without_errors(drive(server, scenario, SECONDS))
    with sqlite3.connect(server.database, timeout=30) as db:
        db.execute("DELETE FROM task_run WHERE workflow_run_id > ?", (newest,))
        db.execute("DELETE FROM workflow_run WHERE number > ?", (newest,))
    db.close()
    return 1 / measured.rate


def without_errors(measured):
    if measured.errors:
        sys.exit(f"{measured.errors} of {measured.requests} requests failed")
    return measured


def cost_of_command(server, command):
    """Seconds that the whole command takes."""
    middle = "SELECT id FROM workflow_run WHERE number = (SELECT max(number) / 2 FROM workflow_run)"
    arguments = [scalar(server, middle)] if command == "show" else []
    began = time.monotonic()
    done = server.flask("workflowrun", command, *arguments)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def scalar(server, sql):
    db = sqlite3.connect(server.database)
    value, = db.execute(sql).fetchone()
    db.close()
    return value


def purge(folder, checks):
    """How the service fares while half of a million runs are purged, in as many parts as rounds."""
    with serve(folder / "purge") as server:
        part, ages = MANY // 2 // PURGES, range(30 + PURGES * 10, 30, -10)
        for days in ages:
            fill(server.database, part, now() - days * DAY)
        fill(server.database, MANY // 2, now())
        newest = scalar(server, "SELECT max(number) FROM workflow_run")
        ratios, errors, outputs = [], 0, []
        for days in ages:
            before = modest_load(server)
            output, meanwhile = purge_under_load(server, f"{days}d")
            ratios.append(median(measured.p99 for measured in meanwhile) / before.p99)
            errors += sum(measured.errors for measured in meanwhile)
            outputs.append(output)
        left = scalar(server, f"SELECT count(*) FROM workflow_run WHERE number <= {newest}")
    checks.at_most(3, "p99 while runs are purged", median(ratios),
                   f"times the p99 before, in {PURGES} rounds "
                   f"{min(ratios):.2f} to {max(ratios):.2f}")
    checks.tell(not errors, f"requests that failed meanwhile: {errors}")
    is_right = left == MANY // 2 and all(f"purged {part} runs" in output for output in outputs)
    checks.tell(is_right, f"of {MANY:,} runs {left:,} are left; purge said {outputs}")


def purge_under_load(server, age):
    """What the command printed, and the Rounds measured while it ran."""
    command = [sys.executable, "-m", "flask", "workflowrun", "purge", "--older-than", age]
    purging = subprocess.Popen(command, cwd=PROJECT, env=server.environ, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        meanwhile, deadline = [], time.monotonic() + 300
        while purging.poll() is None and time.monotonic() < deadline:
            meanwhile.append(modest_load(server))
    finally:
        purging.kill()
        output, log = purging.communicate()
    return output.strip(), meanwhile


def modest_load(server):
    """Starting runs over eight connections that rest between requests."""
    return drive(server, "start", 4, pause=80)


def memory(folder, checks):
    """What a worker's memory is after many requests."""
    with serve(folder / "memory", WEB_CONCURRENCY="1") as server:
        early = resident_after(server, 1_000)
        late = resident_after(server, 50_000)
    checks.at_most(1.1, "a worker's memory after 50,000 requests", late / early,
                   "of that after 1,000")
    checks.at_most(60, "a worker's memory after 50,000 requests", late, "MB")


def resident_after(server, count):
    """The worker's resident memory in MB after so many requests more, half of them of each kind."""
    worker, = server.workers()
    for scenario in ("start", "resolve"):
        done = 0
        while done < count / 2:
            done += drive(server, scenario, 1 if count < 10_000 else 5).requests
    for line in Path(f"/proc/{worker}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def start(folder, checks):
    """How long it takes from nothing to the first answer."""
    server = serve(folder / "start")
    seconds = []
    for number in range(5):
        began = time.monotonic()
        with server:
            seconds.append(time.monotonic() - began)
    checks.at_most(1, "start-up to the first answer", median(seconds), "s")


def kills(folder, checks):
    """The tests' kills under load, more often."""
    command = [sys.executable, "-m", "pytest", "tests/test_durability.py", "-k", "kill"]
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, "SOAK_KILLS": str(KILLS)},
                          capture_output=True, text=True, timeout=600)
    checks.tell(done.returncode == 0, f"{KILLS} kills under load lose and double nothing"
                + (f"\n{done.stdout}" if done.returncode else ""))


ALL = [grow, purge, memory, start, kills, year]


def main(names):
    require_wrk()
    checks = Checks()
    for check in [check for check in ALL if not names or check.__name__ in names]:
        with tempfile.TemporaryDirectory() as folder:  # two gigabytes at most
            check(Path(folder), checks)
    sys.exit(checks.failed)


if __name__ == "__main__":
    main(sys.argv[1:])
