"""Resolving what a run waits for (contract 4.3, 4.4)."""
from conftest import statuses, wait_task


def test_a_callback_ends_every_waiting_task_of_its_topic(define, start, callback, show):
    run = start(define("release", wait_task("unit", "tests"), wait_task("lint", "tests")))
    assert callback(run, "tests", json={"passed": 12}).status_code == 200
    stored = show(run)
    assert statuses(stored) == {"unit": "succeeded", "lint": "succeeded"}
    assert stored["tasks"][0]["results"] == [{"name": "data", "value": {"passed": 12}}]
    assert stored["status"] == "succeeded"
