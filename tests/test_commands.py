"""What the commands print, store and exit with (contract 5)."""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest

from conftest import sql, statuses, wait_task
from inside import close_database
from server import PROJECT, wait_until

COMMANDS = [["workflow", name] for name in ("apply", "list", "show", "delete")] + [
    ["workflowrun", name] for name in ("list", "show", "wait", "cancel", "expire", "purge")]


@pytest.fixture
def listed(flask):
    """The ids that `workflowrun list` prints as JSON: listed("--status", "failed")."""
    def listed(*options):
        return [run["id"] for run in flask.json("workflowrun", "list", "--json", *options)]
    return listed


@pytest.fixture
def ended(define, start, callback):
    """Start a run and end it: ended("succeeded"); headers may name a delivery."""
    def ended(status="succeeded", workflow="release", **headers):
        run = start(define(workflow, wait_task("tests")), **headers)
        callback(run, "tests", status)
        return run
    return ended


def rows(result):
    """A table's rows as lists of cells, its head first."""
    assert result.exit_code == 0, result.output
    return [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()]


def is_one_line(result):
    """Whether the command said why it did not do it, in one line on standard error."""
    return (isinstance(result.exception, SystemExit) and result.stdout == ""
            and len(result.stderr.splitlines()) == 1)


@pytest.mark.parametrize("command", [["workflow"], ["workflowrun"], *COMMANDS], ids=" ".join)
def test_help_says_what_each_command_does(flask, command):
    result = flask(*command, "--help")
    usage, blank, sentence, *options = result.stdout.splitlines()
    assert result.exit_code == 0 and usage.startswith("Usage: ")
    assert re.fullmatch(r"  [A-Z].{10,}[.,:;\w()]", sentence)


@pytest.mark.parametrize("command", [
    ["workflow", "apply"], ["workflow", "show"], ["workflow", "delete"], ["workflow", "rename"],
    ["workflow", "list", "--yaml"], ["workflow", "show", "a", "b"],
    ["workflowrun", "show"], ["workflowrun", "wait"], ["workflowrun", "cancel"],
    ["workflowrun", "wait", "x", "--timeout", "soon"],
    ["workflowrun", "wait", "x", "--timeout", "-1"],
    ["workflowrun", "wait", "x", "--timeout", "nan"],
    ["workflowrun", "list", "--limit", "0"], ["workflowrun", "list", "--limit", "-1"],
    ["workflowrun", "list", "--limit", "many"], ["workflowrun", "list", "--status", "waiting"],
    ["workflowrun", "list", "--status", "skipped"], ["workflowrun", "purge"],
    *[["workflowrun", "purge", "--older-than", duration] for duration in
      ("30", "d", "", "30 d", "-1d", "1.5h", "1w", "30D", "1d2h", "٣d", "1d\n")],
], ids=lambda command: " ".join(map(str, command)))
def test_wrong_usage_exits_with_2(flask, ended, listed, clock, command):
    run = ended()
    clock.advance(minutes=10**7)
    result = flask(*command)
    assert result.exit_code == 2 and "Usage: " in result.stderr and result.stdout == ""
    assert listed() == [run["id"]]


@pytest.mark.parametrize("command", [
    ["workflowrun", "purge", "--older-than", "36501d"],
    ["workflowrun", "expire", "--ahead", "9999999d"], ["workflowrun", "list", "--since", "876001h"],
    ["workflowrun", "link", "{id}", "--topic", "a", "--expires", "99999999d"]],
    ids=lambda command: command[-1])
def test_a_duration_has_at_most_a_hundred_years(flask, ended, command):
    run = ended()
    result = flask(*(word.format(id=run["id"]) for word in command))
    assert (result.exit_code, result.stdout) == (1, "") and result.stderr.count("\n") == 1
    assert f"{command[-2]}: {command[-1]} is not between" in result.stderr


@pytest.mark.parametrize("command", [
    ["status"], ["deliver"], ["status", "--json"], ["workflow", "list"], ["workflowrun", "list"],
    ["db", "backup", "x"]], ids=" ".join)
def test_what_is_typed_in_vain_is_repeated_as_any_terminal_can_show_it(flask, command):
    result = flask(*command, "\u202e\x07\x1b[31mx")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "\\u202e\\u0007\\u001b[31mx" in result.stderr
    assert result.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", [["deliver", "--once"], ["status"], ["workflow", "list"]])
def test_a_refusal_fits_every_terminals_encoding(tmp_path, command):
    (tmp_path / "ü.db").write_text("no database " * 100)
    done = subprocess.run([sys.executable, "-m", "flask", *command], cwd=PROJECT, text=True,
                          capture_output=True, env={
        "PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii",
        "DATABASE_URL": f"sqlite:///{tmp_path}/ü.db"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "\\u00fc.db" in done.stdout + done.stderr


def test_a_command_that_is_stopped_puts_away_what_it_began(tmp_path):
    command = subprocess.Popen([sys.executable, "-m", "flask", "workflow", "check", "-"],
                               cwd=PROJECT, stdin=subprocess.PIPE, env={
        "PATH": os.environ["PATH"], "DATABASE_URL": f"sqlite:///{tmp_path}/x.db"})
    wait_until(lambda: signal.SIGTERM.value in handled(command.pid), "the service is loaded")
    command.terminate()
    assert command.wait(10) == 143


def handled(pid):
    """The numbers of the signals that a process has handlers for (proc(5))."""
    line = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return {number for number in range(1, 65) if int(line, 16) >> (number - 1) & 1}


@pytest.mark.parametrize("command, says", [
    (["workflow", "show", "relase"], ["relase", "flask workflow list"]),
    (["workflow", "delete", "relase"], ["relase", "flask workflow list"]),
    (["workflow", "delete", "release"], ["release", "--force"]),
    (["workflowrun", "show", "5f0c"], ["5f0c", "flask workflowrun list"]),
    (["workflowrun", "cancel", "5f0c"], ["5f0c", "flask workflowrun list"]),
], ids=lambda value: " ".join(value[:3]))
def test_a_refusal_is_one_line_that_says_what_to_do_next(
        define, start, flask, listed, command, says):
    run = start(define("release", wait_task("tests")))
    result = flask(*command)
    assert result.exit_code == 1 and is_one_line(result)
    assert [part for part in says if part not in result.stderr] == []
    assert listed("--status", "running") == [run["id"]]


@pytest.mark.both
def test_workflows_are_listed_by_name(define, flask):
    define("nightly", wait_task("unit"), wait_task("lint"))
    define("release", displayName="Release approval")
    define("release", displayName="Release")
    head, *found = rows(flask("workflow", "list"))
    assert head[:2] == ["NAME", "VERSION"]
    assert [row[:3] for row in found] == [["nightly", "1", "2"], ["release", "2", "0"]]
    assert "Release" in found[1]


def test_workflows_are_listed_as_json_as_show_prints_them(define, flask):
    names = [define(name, wait_task("unit", timeout=5), timeout=60) for name in ("a", "b")]
    shown = [flask.json("workflow", "show", name) for name in names]
    assert flask.json("workflow", "list", "--json") == shown
    assert [definition["name"] for definition in shown] == names
    assert shown[0]["tasks"] == [{**wait_task("unit", timeout=5), "dependencies": []}]


@pytest.mark.both
def test_nothing_listed_says_how_to_begin(flask):
    assert "flask workflow apply" in flask("workflow", "list").stdout
    assert flask.json("workflow", "list", "--json") == []
    assert flask("workflowrun", "list").exit_code == 0
    assert flask.json("workflowrun", "list", "--json") == []


@pytest.mark.both
def test_runs_are_listed_newest_first_even_of_the_same_millisecond(define, start, listed, clock):
    ids = [start(define("release"))["id"] for _ in range(12)]
    clock.advance(minutes=-1)
    ids.append(start("release")["id"])
    assert listed() == ids[::-1]
    assert listed("--limit", "3") == ids[:-4:-1]


def test_runs_are_listed_in_a_table(define, start, ended, flask):
    waits = start(define("nightly", wait_task("unit"), wait_task("lint", "topic two")))
    failed = ended("failed")
    head, *found = rows(flask("workflowrun", "list"))
    assert head[:2] == ["ID", "STATUS"]
    assert [row[:2] for row in found] == [[failed["id"], "failed"], [waits["id"], "running"]]
    assert "0s" in found[0] and "release" in found[0]
    assert {"nightly", "unit, topic two"} <= set(found[1])


@pytest.mark.both
def test_runs_are_listed_as_json_as_show_prints_them(define, start, ended, flask, show):
    runs = [ended("failed"), start(define("nightly", wait_task("unit")), {"a": "é"})]
    assert flask.json("workflowrun", "list", "--json") == [show(run) for run in runs[::-1]]


@pytest.mark.both
def test_runs_are_listed_by_workflow_and_status(define, start, ended, listed, flask):
    runs = {status: ended(status)["id"] for status in ("succeeded", "failed")}
    runs["cancelled"] = start("release")["id"]
    flask("workflowrun", "cancel", runs["cancelled"])
    runs["running"] = start("release")["id"]
    other = start(define("nightly", wait_task("unit")))["id"]
    assert {status: listed("--status", status, "--workflow", "release") for status in runs} == {
        status: [id] for status, id in runs.items()}
    assert listed("--status", "running") == [other, runs["running"]]
    assert listed("--status", "running", "--limit", 1) == [other]
    assert listed("--workflow", "nightly") == [other]
    assert listed("--workflow", "unknown") == listed("--status", "timedout") == []


def test_show_prints_the_run(define, start, flask):
    run = start(define("release", wait_task("tests")), {"who": "Zoë"})
    shown = flask("workflowrun", "show", run["id"])
    assert json.loads(shown.stdout) == run and shown.stderr == ""


@pytest.mark.parametrize("status, exit_code", [("succeeded", 0), ("failed", 1)])
def test_wait_prints_a_run_that_has_ended(ended, flask, show, status, exit_code):
    run = ended(status)
    result = flask("workflowrun", "wait", run["id"])
    assert (result.exit_code, json.loads(result.stdout)) == (exit_code, show(run))
    assert json.loads(result.stdout)["status"] == status


def test_wait_exits_with_1_for_a_cancelled_run(define, start, flask):
    run = start(define("release", wait_task("tests")))
    flask("workflowrun", "cancel", run["id"])
    result = flask("workflowrun", "wait", run["id"])
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (1, "cancelled")


@pytest.mark.parametrize("seconds", ["0", "0.05"])
def test_wait_gives_up_at_its_timeout(define, start, flask, show, seconds):
    run = start(define("release", wait_task("tests")))
    result = flask("workflowrun", "wait", run["id"], "--timeout", seconds)
    assert (result.exit_code, json.loads(result.stdout)) == (124, run)
    assert show(run) == run


def test_wait_for_an_unknown_run_exits_with_2(flask):
    result = flask("workflowrun", "wait", "5f0c")
    assert result.exit_code == 2 and is_one_line(result) and "5f0c" in result.stderr


@pytest.mark.both
@pytest.mark.parametrize("status, exit_code", [("succeeded", 0), ("failed", 1)])
def test_wait_returns_when_a_callback_arrives_meanwhile(define, start, flask, callback, status,
                                                        exit_code):
    run = start(define("release", wait_task("tests")))

    def call_back():
        callback(run, "tests", status, json={})
        close_database()

    timer = Timer(0.05, call_back)
    timer.start()
    result = flask("workflowrun", "wait", run["id"], "--timeout", "30")
    timer.join()
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (exit_code, status)


def test_wait_returns_when_the_run_times_out_meanwhile(define, start, flask, clock):
    run = start(define("release", wait_task("tests"), timeout=1))
    timer = Timer(0.05, clock.advance, [1])
    timer.start()
    result = flask("workflowrun", "wait", run["id"], "--timeout", "30")
    timer.join()
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (1, "timedout")


@pytest.mark.both
def test_cancel_ends_the_run_and_its_open_tasks(define, start, flask, show):
    run = start(define("release", wait_task("tests"), wait_task("ship", tests="success")))
    result = flask("workflowrun", "cancel", run["id"])
    assert (result.exit_code, result.stdout) == (0, f"cancelled {run['id']}\n")
    assert show(run)["status"] == "cancelled"
    assert statuses(show(run)) == {"tests": "cancelled", "ship": "cancelled"}


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_cancelling_a_run_that_has_ended_is_refused(ended, flask, show, status):
    run = ended(status)
    before = show(run)
    result = flask("workflowrun", "cancel", run["id"])
    assert result.exit_code == 1 and is_one_line(result) and status in result.stderr
    assert show(run) == before


@pytest.mark.both
def test_a_deleted_workflow_is_unknown_and_its_ended_runs_stay(ended, flask, show, client):
    run = ended()
    result = flask("workflow", "delete", "release")
    assert (result.exit_code, result.stdout) == (0, "deleted release\n")
    assert flask("workflow", "show", "release").exit_code == 1
    assert client.post("/api/v2/webhook?workflow=release", json={}).status_code == 404
    assert show(run)["status"] == "succeeded"


@pytest.mark.both
def test_deleting_is_refused_while_runs_are_under_way(define, start, flask, show):
    runs = [start(define("release", wait_task("tests"))) for _ in range(2)]
    result = flask("workflow", "delete", "release")
    assert result.exit_code == 1 and is_one_line(result) and "2" in result.stderr
    assert flask.json("workflow", "show", "release")["name"] == "release"
    assert [show(run) for run in runs] == runs


@pytest.mark.both
def test_deleting_by_force_cancels_the_workflows_runs_and_no_others(define, start, ended, flask,
                                                                    show):
    other, done = start(define("nightly", wait_task("unit"))), ended()
    runs = [start("release") for _ in range(2)]
    result = flask("workflow", "delete", "release", "--force")
    assert (result.exit_code, result.stdout) == (0, "deleted release, cancelled 2 runs\n")
    assert [show(run)["status"] for run in [*runs, done, other]] == [
        "cancelled", "cancelled", "succeeded", "running"]
    assert statuses(show(runs[0])) == {"tests": "cancelled"}
    assert [known["name"] for known in flask.json("workflow", "list", "--json")] == ["nightly"]


@pytest.mark.both
def test_runs_that_are_overdue_do_not_keep_their_workflow(define, start, flask, show, clock):
    run = start(define("release", wait_task("tests"), timeout=5))
    clock.advance(minutes=5)
    assert flask("workflow", "delete", "release").stdout == "deleted release\n"
    assert show(run)["status"] == "timedout"


@pytest.mark.both
def test_a_workflow_applied_after_its_deletion_begins_anew(define, start, flask):
    for _ in range(2):
        define("release", timeout=5)
    flask("workflow", "delete", "release")
    assert start(define("release", timeout=6))["workflowVersion"] == 1


def test_expire_says_how_many_runs_it_touched(define, start, flask, clock):
    start(define("release", wait_task("tests", timeout=5)))
    early = flask("workflowrun", "expire")
    clock.advance(minutes=5)
    due = flask("workflowrun", "expire")
    assert (early.exit_code, due.exit_code) == (0, 0)
    assert "0" in early.stdout and "1" in due.stdout


@pytest.mark.both
@pytest.mark.parametrize("duration, milliseconds", [
    ("0s", 0), ("90s", 90_000), ("5m", 300_000), ("36h", 129_600_000), ("30d", 2_592_000_000)])
def test_purge_deletes_only_what_ended_longer_ago(define, start, ended, flask, listed, clock,
                                                  database_url, duration, milliseconds):
    ended("succeeded")
    clock.advance(milliseconds=1)
    kept = ended("failed")
    running = start("release")
    clock.advance(milliseconds=milliseconds)
    result = flask("workflowrun", "purge", "--older-than", duration)
    assert (result.exit_code, result.stdout) == (0, "purged 1 runs\n")
    assert listed() == [running["id"], kept["id"]]
    assert sql(database_url, "SELECT count(*) FROM task_run") == [(2,)]


@pytest.mark.both
def test_purge_counts_from_the_end_of_a_run(define, start, callback, flask, listed, clock):
    run = start(define("release", wait_task("tests")))
    clock.advance(minutes=600)
    callback(run, "tests")
    clock.advance(minutes=30)
    assert flask("workflowrun", "purge", "--older-than", "1h").stdout == "purged 0 runs\n"
    assert listed() == [run["id"]]


@pytest.mark.both
def test_purge_goes_on_over_more_than_one_batch(
        define, start, flask, listed, clock, small_batches):
    for _ in range(5):
        start(define("release"))
    clock.advance(minutes=2)
    assert flask("workflowrun", "purge", "--older-than", "1m").stdout == "purged 5 runs\n"
    assert listed() == []


@pytest.mark.both
def test_expire_goes_on_over_more_than_one_batch(
        define, start, listed, flask, clock, small_batches):
    ids = [start(define("release", wait_task("tests", timeout=5)))["id"] for _ in range(5)]
    clock.advance(minutes=5)
    assert "5" in flask("workflowrun", "expire").stdout
    assert listed("--status", "failed") == ids[::-1]


@pytest.mark.both
@pytest.mark.parametrize("header", ["Idempotency-Key", "Webhook-Id", "X-GitHub-Delivery"])
def test_a_delivery_id_is_forgotten_when_its_run_is_purged(ended, start, flask, listed, clock,
                                                           header):
    first = ended(**{header: "72d3162e"})
    assert start("release", **{header: "72d3162e"})["id"] == first["id"]
    clock.advance(minutes=2)
    flask("workflowrun", "purge", "--older-than", "1m")
    second = start("release", **{header: "72d3162e"})
    assert second["id"] != first["id"] and listed() == [second["id"]]
