"""How a run goes on after each end of a task, and when it times out (contract 4.5, 4.6, 5)."""
import re

import pytest

from conftest import MINUTE, statuses, wait_task

KEPT_WAITING = wait_task("other")


@pytest.fixture
def end(callback, clock):
    """End a task as succeeded, failed or timedout (its timeout is 5 minutes): end(run, "a", …)."""
    def end(run, task, status):
        if status == "timedout":
            clock.advance(minutes=5)
        else:
            assert callback(run, task, status, json={}).status_code == 200
    return end


@pytest.fixture
def workflow(define):
    """Define the workflow "release" with these tasks and return its name."""
    return lambda *tasks, **keys: define("release", *tasks, **keys)


@pytest.mark.parametrize("condition, first, then", [
    ("success", "succeeded", "waiting"), ("success", "failed", "skipped"),
    ("success", "timedout", "skipped"), ("success", "skipped", "skipped"),
    ("failure", "succeeded", "skipped"), ("failure", "failed", "waiting"),
    ("failure", "timedout", "waiting"), ("failure", "skipped", "skipped"),
    ("always", "succeeded", "waiting"), ("always", "failed", "waiting"),
    ("always", "timedout", "waiting"), ("always", "skipped", "waiting")])
def test_a_dependency_starts_or_skips_its_task(workflow, start, end, show, condition, first, then):
    run = start(workflow(KEPT_WAITING, wait_task("gate"), wait_task("then", first=condition),
                         wait_task("first", timeout=5, gate="success")))
    end(run, "gate", "failed" if first == "skipped" else "succeeded")
    if first != "skipped":
        end(run, "first", first)
    stored = show(run)
    assert {**statuses(stored), "gate": ""} == {"other": "waiting", "gate": "", "first": first,
                                                "then": then}
    assert stored["status"] == "running"


def test_a_task_is_skipped_as_soon_as_one_condition_can_no_longer_hold(workflow, start, end, show):
    run = start(workflow(wait_task("unit"), wait_task("lint"),
                         wait_task("pack", lint="success", unit="success")))
    end(run, "unit", "failed")
    stored = show(run)
    assert statuses(stored) == {"unit": "failed", "lint": "waiting", "pack": "skipped"}
    assert "unit" in stored["tasks"][2]["statusMessage"]
    assert "startTime" not in stored["tasks"][2] and stored["tasks"][2]["duration"] == 0


def test_a_join_starts_when_the_last_branch_has_ended(workflow, start, end, show):
    run = start(workflow(wait_task("unit"), wait_task("lint"),
                         wait_task("pack", unit="success", lint="always")))
    end(run, "unit", "succeeded")
    assert statuses(show(run))["pack"] == "notstarted"
    end(run, "lint", "failed")
    assert statuses(show(run))["pack"] == "waiting"


def test_one_end_skips_a_whole_chain_and_starts_the_always_behind_it(workflow, start, end, show):
    run = start(workflow(wait_task("report", ship="always"), wait_task("ship", pack="success"),
                         wait_task("pack", unit="success"), wait_task("unit")))
    end(run, "unit", "failed")
    assert statuses(show(run)) == {"unit": "failed", "pack": "skipped", "ship": "skipped",
                                   "report": "waiting"}


def test_tasks_of_a_chain_start_one_after_the_other(workflow, start, end, show, clock):
    run = start(workflow(wait_task("a"), wait_task("b", a="success"), wait_task("c", b="success")))
    seen = []
    for name in "abc":
        seen.append("".join(status[0] for status in statuses(show(run)).values()))
        end(run, name, "succeeded")
    assert seen == ["wnn", "swn", "ssw"]
    assert show(run)["status"] == "succeeded"


UNIT, LINT = wait_task("unit", timeout=5), wait_task("lint", timeout=5)


@pytest.mark.parametrize("tasks, ends, status", [
    ([UNIT], "unit succeeded", "succeeded"),
    ([UNIT], "unit failed", "failed"),
    ([UNIT], "unit timedout", "failed"),
    ([UNIT, wait_task("undo", unit="failure")], "unit succeeded", "succeeded"),
    ([UNIT, wait_task("undo", unit="failure")], "unit failed, undo succeeded", "succeeded"),
    ([UNIT, wait_task("undo", unit="failure")], "unit timedout, undo succeeded", "succeeded"),
    ([UNIT, wait_task("undo", unit="failure")], "unit failed, undo failed", "failed"),
    ([UNIT, wait_task("undo", timeout=5, unit="failure")], "unit failed, undo timedout", "failed"),
    ([UNIT, wait_task("tidy", unit="always")], "unit failed, tidy succeeded", "succeeded"),
    ([UNIT, wait_task("ship", unit="success")], "unit failed", "failed"),
    ([UNIT, wait_task("ship", unit="success"), wait_task("tidy", ship="always")],
     "unit failed, tidy succeeded", "failed"),
    ([UNIT, LINT, wait_task("undo", unit="failure", lint="failure")],
     "unit failed, lint succeeded", "failed"),
    ([UNIT, LINT, wait_task("undo", unit="failure", lint="failure")],
     "unit failed, lint failed, undo succeeded", "succeeded"),
    ([UNIT, LINT, wait_task("undo", unit="failure")],
     "unit failed, lint failed, undo succeeded", "failed"),
    ([UNIT, wait_task("undo", unit="failure"), wait_task("mail", undo="failure")],
     "unit failed, undo failed, mail succeeded", "succeeded"),
    ([UNIT, LINT, wait_task("ship", unit="success", lint="always")],
     "unit succeeded, lint failed, ship succeeded", "succeeded"),
], ids=["succeeded", "failed", "timed out", "nothing to undo", "failure undone", "timeout undone",
        "undo failed", "undo timed out", "tidied up", "dependant skipped", "always further on",
        "undo skipped", "two undone", "another failed", "undo's failure handled", "always joined"])
def test_a_run_fails_unless_a_task_that_ran_took_care(workflow, start, end, show, tasks, ends,
                                                      status):
    run = start(workflow(*tasks))
    for step in ends.split(", "):
        assert show(run)["status"] == "running"
        end(run, *step.split())
    stored = show(run)
    assert (stored["status"], stored["phase"]) == (status, "completed")
    assert ("statusMessage" in stored) == (status == "failed")


def test_a_failed_run_says_which_tasks_were_to_blame(workflow, start, end, show):
    run = start(workflow(UNIT, LINT, wait_task("undo", unit="failure")))
    for task, status in [("unit", "failed"), ("undo", "succeeded"), ("lint", "timedout")]:
        end(run, task, status)
    assert "lint" in show(run)["statusMessage"] and "unit" not in show(run)["statusMessage"]


@pytest.mark.both
@pytest.mark.parametrize("tasks, keys", [([wait_task("unit", timeout=5)], {}),
                                         ([wait_task("unit")], {"timeout": 5})],
                         ids=["task", "run"])
def test_nothing_is_overdue_a_millisecond_before(workflow, start, show, clock, tasks, keys):
    run = start(workflow(*tasks, **keys))
    clock.advance(minutes=5, milliseconds=-1)
    assert show(run)["status"] == "running"
    clock.advance(milliseconds=1)
    assert show(run)["status"] == ("timedout" if keys else "failed")


def test_a_tasks_timeout_starts_its_failure_branch(workflow, start, show, flask, clock):
    run = start(workflow(UNIT, wait_task("undo", timeout=5, unit="failure"),
                         wait_task("ship", unit="success")))
    clock.advance(minutes=7)
    flask("workflowrun", "expire")
    stored = show(run)
    assert statuses(stored) == {"unit": "timedout", "undo": "waiting", "ship": "skipped"}
    assert stored["tasks"][1]["startTime"] == "2026-11-23T09:07:00.000Z"
    assert stored["tasks"][0]["duration"] == 7 * MINUTE and stored["tasks"][0]["statusMessage"]
    clock.advance(minutes=5, milliseconds=-1)
    assert show(run)["status"] == "running"
    clock.advance(milliseconds=1)
    assert statuses(show(run))["undo"] == "timedout"


def test_a_runs_timeout_cancels_its_open_tasks(workflow, start, end, show, clock):
    run = start(workflow(wait_task("unit"), wait_task("lint"), wait_task("ship", lint="success"),
                         timeout=5))
    end(run, "unit", "succeeded")
    clock.advance(minutes=5)
    stored = show(run)
    assert (stored["status"], stored["duration"]) == ("timedout", 5 * MINUTE)
    assert stored["statusMessage"]
    assert statuses(stored) == {"unit": "succeeded", "lint": "cancelled", "ship": "cancelled"}


@pytest.mark.parametrize("task, run_timeout, status, expected", [
    (5, 10, "timedout", {"unit": "timedout", "undo": "cancelled"}),
    (10, 5, "timedout", {"unit": "cancelled", "undo": "cancelled"}),
    (5, 0, "running", {"unit": "timedout", "undo": "waiting"}),
], ids=["task first", "run first", "task only"])
def test_what_was_due_first_ends_first(workflow, start, show, clock, task, run_timeout, status,
                                       expected):
    run = start(workflow(wait_task("unit", timeout=task), wait_task("undo", unit="failure"),
                         timeout=run_timeout))
    clock.advance(minutes=20)
    stored = show(run)
    assert (stored["status"], statuses(stored)) == (status, expected)


def test_a_run_that_its_last_timeout_ended_is_not_timed_out_as_well(workflow, start, show, clock):
    run = start(workflow(UNIT, timeout=10))
    clock.advance(minutes=20)
    assert (show(run)["status"], statuses(show(run))) == ("failed", {"unit": "timedout"})


def test_tasks_that_were_due_one_after_the_other_end_in_that_order(workflow, start, show, clock):
    run = start(workflow(wait_task("late", timeout=6), wait_task("early", timeout=5),
                         wait_task("after", late="failure", early="success")))
    clock.advance(minutes=20)
    stored = show(run)
    assert statuses(stored) == {"late": "timedout", "early": "timedout", "after": "skipped"}
    assert "early" in stored["tasks"][2]["statusMessage"]


@pytest.mark.both
@pytest.mark.parametrize("notice, exit_code", [
    (["cancel", "ID"], 1), (["expire"], 0), (["expire", "--ahead", "5m"], 0)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else f"exits {value}")
def test_a_timeout_is_noticed_by_what_changes_runs(workflow, start, show, flask, clock, notice,
                                                   exit_code):
    run = start(workflow(UNIT))
    minutes = 0 if "--ahead" in notice else 5
    clock.advance(minutes=minutes)
    result = flask("workflowrun", *[run["id"] if arg == "ID" else arg for arg in notice])
    assert result.exit_code == exit_code
    clock.advance(minutes=-minutes)
    assert (show(run)["status"], statuses(show(run))) == ("failed", {"unit": "timedout"})


@pytest.mark.parametrize("look, exit_code, shown", [
    (["show", "ID"], 0, '"failed"'), (["list"], 0, "failed"), (["list", "--json"], 0, '"failed"'),
    (["list", "--status", "failed"], 0, "failed"), (["list", "--status", "running"], 0, "no such"),
    (["wait", "ID", "--timeout", "0"], 1, '"failed"')],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value))
def test_what_only_looks_shows_a_timeout_and_writes_nothing(workflow, start, show, flask, clock,
                                                            look, exit_code, shown):
    run = start(workflow(UNIT))
    clock.advance(minutes=5)
    result = flask("workflowrun", *[run["id"] if arg == "ID" else arg for arg in look])
    assert (result.exit_code, shown in result.stdout) == (exit_code, True)
    clock.advance(minutes=-5)
    assert (show(run)["status"], statuses(show(run))) == ("running", {"unit": "waiting"})


def test_a_timeout_is_noticed_by_a_callback(workflow, start, callback, show, clock):
    run = start(workflow(UNIT, wait_task("undo", unit="failure")))
    clock.advance(minutes=5)
    answer = callback(run, "unit", json={"late": True})
    assert answer.status_code == 409 and "timedout" in answer.json["detail"]
    clock.advance(minutes=-5)
    assert statuses(show(run)) == {"unit": "timedout", "undo": "waiting"}
    assert show(run)["tasks"][0]["results"] == []


def test_a_timeout_is_noticed_by_a_callback_for_another_task(workflow, start, callback, show,
                                                             clock):
    run = start(workflow(UNIT, wait_task("lint")))
    clock.advance(minutes=5)
    assert callback(run, "lint").status_code == 200
    clock.advance(minutes=-5)
    assert statuses(show(run)) == {"unit": "timedout", "lint": "succeeded"}


@pytest.mark.both
def test_a_timeout_is_shown_to_the_delivery_sent_again(workflow, start, show, clock):
    run = start(workflow(UNIT), **{"Idempotency-Key": "1"})
    clock.advance(minutes=5)
    again = start("release", **{"Idempotency-Key": "1"})
    assert (again["id"], again["status"]) == (run["id"], "failed")
    clock.advance(minutes=-5)
    assert show(run)["status"] == "running"


def test_a_callback_comes_too_late_for_an_overdue_run(workflow, start, show, callback, clock):
    run = start(workflow(wait_task("unit"), timeout=5))
    clock.advance(minutes=5)
    assert callback(run, "unit").status_code == 409
    assert (show(run)["status"], statuses(show(run))) == ("timedout", {"unit": "cancelled"})


@pytest.mark.both
def test_expire_ends_what_is_overdue_in_all_runs_and_nothing_else(define, start, show, flask,
                                                                  clock):
    runs = [start(define(f"due-{minutes}", wait_task("unit", timeout=minutes)))
            for minutes in (1, 5, 6, 0)]
    clock.advance(minutes=5)
    assert "2" in flask("workflowrun", "expire").stdout
    assert "0" in flask("workflowrun", "expire").stdout
    assert [show(run)["status"] for run in runs] == ["failed", "failed", "running", "running"]


@pytest.mark.both
def test_an_early_callback_ends_its_task_the_moment_it_starts(workflow, start, callback, show,
                                                              clock):
    run = start(workflow(UNIT, wait_task("undo", unit="failure"), wait_task("mail", undo="always")))
    assert callback(run, "undo", json={"done": True}).status_code == 200
    assert statuses(show(run)) == {"unit": "waiting", "undo": "notstarted", "mail": "notstarted"}
    clock.advance(minutes=5)
    stored = show(run)
    assert statuses(stored) == {"unit": "timedout", "undo": "succeeded", "mail": "waiting"}
    assert stored["tasks"][1]["results"] == [{"name": "data", "value": {"done": True}}]
    assert stored["tasks"][1]["startTime"] == "2026-11-23T09:05:00.000Z"
    assert stored["tasks"][1]["duration"] == 0


def test_an_early_callback_does_not_end_a_task_that_is_skipped(workflow, start, end, show):
    run = start(workflow(wait_task("unit"), wait_task("undo", unit="failure")))
    end(run, "undo", "succeeded")
    end(run, "unit", "succeeded")
    stored = show(run)
    assert (stored["status"], statuses(stored)) == ("succeeded", {"unit": "succeeded",
                                                                  "undo": "skipped"})
    assert stored["tasks"][1]["results"] == []


@pytest.mark.both
@pytest.mark.parametrize("status", ["succeeded", "failed", "timedout", "cancelled"])
def test_a_run_that_has_ended_is_never_touched_again(workflow, start, end, show, flask, callback,
                                                     clock, status):
    run = start(workflow(wait_task("unit", timeout=50), wait_task("undo", timeout=5, unit="always"),
                         timeout=60))
    if status == "cancelled":
        flask("workflowrun", "cancel", run["id"])
    elif status == "timedout":
        clock.advance(minutes=60)
        flask("workflowrun", "expire")
    else:
        end(run, "unit", "succeeded")
        end(run, "undo", status)
    ended = show(run)
    assert ended["status"] == status
    clock.advance(minutes=1000)
    for command in ["list"], ["expire"], ["cancel", run["id"]]:
        flask("workflowrun", *command)
    for outcome in "succeeded", "failed":
        callback(run, "unit", outcome, json={"late": True})
    flask("workflow", "delete", "release", "--force")
    assert show(run) == ended


def test_durations_count_from_each_start_to_each_end(workflow, start, end, show, clock):
    run = start(workflow(wait_task("unit"), wait_task("ship", unit="success")))
    durations = []
    for task in "unit", "ship", None:
        clock.advance(milliseconds=1500)
        stored = show(run)
        durations.append([stored["duration"], *[task["duration"] for task in stored["tasks"]]])
        if task:
            end(run, task, "succeeded")
    assert durations == [[1500, 1500, 0], [3000, 1500, 1500], [3000, 1500, 1500]]


def test_an_id_sorts_after_those_of_earlier_seconds(workflow, start, clock):
    name, ids = workflow(wait_task("tests")), []
    for _ in range(9):
        clock.advance(milliseconds=1000)
        ids.append(start(name)["id"])
    assert ids == sorted(ids)


@pytest.mark.both
def test_a_new_run_looks_as_the_contract_has_it(workflow, start, show):
    run = start(workflow(wait_task("tests", timeout=60), wait_task("ship", tests="success"),
                         displayName="Release approval", timeout=1440), {"version": 1})
    now, unguessable = "2026-11-23T09:00:00.000Z", re.compile(r"[\w-]{22,}|[0-9a-f-]{32,}")
    ids = [run.pop("id"), *[task.pop("id") for task in run["tasks"]]]
    assert all(map(unguessable.fullmatch, ids)) and len(set(ids)) == 3
    task = {"type": "eventwait", "creationDate": now, "duration": 0, "results": []}
    assert run == {
        "workflowRef": "release", "workflowDisplayName": "Release approval", "workflowVersion": 1,
        "trigger": "webhook", "status": "running", "phase": "running", "creationDate": now,
        "startTime": now, "duration": 0, "timeout": 1440,
        "params": [{"name": "data", "value": {"version": 1}}],
        "tasks": [{**task, "name": "tests", "status": "waiting", "phase": "running",
                   "startTime": now, "timeout": 60, "params": [{"name": "topic",
                                                                "value": "tests"}]},
                  {**task, "name": "ship", "status": "notstarted", "phase": "pending",
                   "params": [{"name": "topic", "value": "ship"}]}]}


@pytest.mark.both
def test_what_is_stored_is_what_the_start_answered(workflow, start, show):
    run = start(workflow(wait_task("unit"), wait_task("lint", timeout=5),
                         wait_task("ship", timeout=6, lint="success"), timeout=7))
    assert [task.get("timeout") for task in run["tasks"]] == [None, 5, 6]
    assert show(run) == run


@pytest.mark.both
def test_tasks_are_shown_in_the_order_of_the_definition(workflow, start, end, show):
    run = start(workflow(*[wait_task(f"t{number}") for number in range(12)]))
    end(run, "t11", "succeeded")
    assert [task["name"] for task in show(run)["tasks"]] == [f"t{number}" for number in range(12)]


@pytest.mark.both
def test_cancelling_ends_only_what_is_open(workflow, start, end, show, flask, callback):
    run = start(workflow(wait_task("unit"), wait_task("lint"), wait_task("ship", lint="success")))
    end(run, "unit", "failed")
    flask("workflowrun", "cancel", run["id"])
    stored = show(run)
    assert (stored["status"], stored["phase"]) == ("cancelled", "completed")
    assert statuses(stored) == {"unit": "failed", "lint": "cancelled", "ship": "cancelled"}
    assert callback(run, "lint").status_code == 409


@pytest.mark.both
def test_runs_outlive_their_workflow_and_purging_forgets_them(workflow, start, end, show, flask,
                                                              callback, clock):
    run = start(workflow(wait_task("unit")))
    end(run, "unit", "succeeded")
    assert flask("workflow", "delete", "release").exit_code == 0
    assert show(run)["status"] == "succeeded" and callback(run, "unit").status_code == 200
    clock.advance(minutes=61)
    flask("workflowrun", "purge", "--older-than", "1h")
    assert flask("workflowrun", "show", run["id"]).exit_code == 1
    assert callback(run, "unit").status_code == 404
