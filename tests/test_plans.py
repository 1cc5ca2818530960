"""Each frequent query finds its rows by an index, however many runs are stored (issue B, 4).

SQLite chooses its plans by the tables and indexes alone, as nothing here runs ANALYZE: what it does
with a few hundred runs is what it does with a million. `make soak` measures that.
"""
import re

import pytest

from bench.fill import fill
from conftest import MINUTE, wait_task
from storage import database

FEW_HUNDRED = 300
HOUR = 60 * MINUTE
pytestmark = pytest.mark.sqlite


@pytest.fixture
def stored(define, start, environ, clock):
    """Runs of two workflows that wait, after a few hundred of a third that ended two hours ago."""
    fill(environ["DATABASE_URL"].removeprefix("sqlite:///"), FEW_HUNDRED, clock.now - 2 * HOUR)
    define("release", wait_task("tests", timeout=60), wait_task("approval", tests="always"))
    define("push", wait_task("done"),
           triggers={"webhook": {"conditions": [{"field": "data.on", "operation": "equals",
                                                 "value": "push"}]}})
    return [start("release", Idempotency_Key=f"before-{n}") for n in range(4)]


class Statements(list):
    """What SQLite runs on the connection within the block, the values filled in."""

    def __enter__(self):
        database.connection().set_trace_callback(self.append)
        return self

    def __exit__(self, *error):
        database.connection().set_trace_callback(None)

    def about(self, table):
        """The statements that name the table and can have a plan: all but an insert's."""
        return [sql for sql in dict.fromkeys(self)
                if f'"{table}"' in sql and not sql.startswith("INSERT")]


def plan(sql):
    return [row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}")]


RUNS_OR_TASKS = r'"(?:workflow_run|task_run)" AS "(\w+)"'
NEWEST = r'FROM "workflow_run" AS "\w+" .*ORDER BY "\w+"\."number" DESC LIMIT \d+'


def slow_steps(sql):
    """The steps of a statement's plan that take the longer the more runs are stored.

    Of the runs with a certain workflow or status there are many. Looking for them is quick when
    the index holds both that are asked for, and either orders the runs too, or asks for those under
    way; the newest of all runs are quick to find, from the end of the table itself.
    """
    tables = {"workflow_run", "task_run", *re.findall(RUNS_OR_TASKS, sql)}
    asked_for = set(re.findall(r'"(workflow_ref|status)" = [\'"]', sql.partition("WHERE")[2]))
    newest = re.search(NEWEST, sql)
    steps = [step for step in plan(sql) if is_slow(step, tables, asked_for, newest)]
    if newest and 'FROM "task_run"' in sql:  # the tasks of the runs that are shown: --limit bounds
        steps = [step for step in steps if step != "USE TEMP B-TREE FOR ORDER BY"]  # their sorting
    return steps


def is_slow(step, tables, asked_for, newest):
    verb, table, *rest = step.split()
    if verb == "USE":
        return True
    if verb not in ("SCAN", "SEARCH") or table not in tables:
        return False
    found_by = set(re.findall(r"(\w+)[=<>]", step))
    if found_by - {"workflow_ref", "status"}:
        return False
    return found_by != asked_for or len(found_by) < 2 and not newest


def send(client, path, payload, headers=None, **query):
    answer = client.post(f"/api/v2/{path}", query_string=query, json=payload, headers=headers)
    assert answer.status_code == 200, answer.text


def named(client, flask, runs, clock):
    for repeated in range(2):
        send(client, "webhook", {}, {"X-GitHub-Delivery": "d-1"}, workflow="release")
        send(client, "webhook", {}, {"Idempotency-Key": "key-1"}, workflow="release")
    send(client, "webhook", {}, workflow="release")


def by_event(client, flask, runs, clock):
    for repeated in range(2):
        event = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "t"}
        send(client, "event", {**event, "subject": "release/1"})
        send(client, "event", {**event, "id": "2"}, workflow="release")


def routed(client, flask, runs, clock):
    flask("workflow", "delete", "release", "--force")
    for repeated in range(2):
        send(client, "webhook", {"on": "push"}, {"Idempotency-Key": "key-3"})


def resolved(client, flask, runs, clock):
    send(client, "callback", {}, workflowrun=runs[1]["id"], topic="tests")
    send(client, "callback", {}, workflowrun=runs[1]["id"], topic="approval", status="failed")
    answer = client.get("/api/v2/callback", query_string={
        "workflowrun": runs[3]["id"], "topic": "tests"})
    assert answer.status_code == 200, answer.text


def command(*args):
    def run(client, flask, runs, clock):
        result = flask(*[runs[1]["id"] if arg == "ID" else arg for arg in args])
        assert result.exit_code == 0, result.output
    run.__name__ = " ".join(args)
    return run


def overdue(client, flask, runs, clock):
    clock.advance(minutes=61)
    command("workflowrun", "expire")(client, flask, runs, clock)


def purged(client, flask, runs, clock):
    result = flask("workflowrun", "purge", "--older-than", "1h")
    assert (result.exit_code, f"purged {FEW_HUNDRED} runs" in result.output) == (0, True)


LIST = ["workflowrun", "list"]


@pytest.mark.parametrize("what", [
    named, by_event, routed, resolved, overdue, purged,
    command(*LIST), command(*LIST, "--workflow", "release"), command(*LIST, "--status", "running"),
    command(*LIST, "--workflow", "release", "--status", "failed"),
    command(*LIST, "--json", "--limit", "5"),
    command("workflowrun", "show", "ID"), command("workflowrun", "cancel", "ID"),
    command("workflow", "delete", "release", "--force"),
], ids=lambda what: what.__name__)
def test_every_query_of_runs_uses_an_index(client, flask, stored, clock, what):
    with Statements() as statements:
        what(client, flask, stored, clock)
    assert statements.about("workflow_run")
    slow = {sql: steps for table in ("workflow_run", "task_run")
            for sql in statements.about(table) if (steps := slow_steps(sql))}
    assert slow == {}


@pytest.mark.parametrize("index, what", [
    ("workflow_run_id", resolved),
    ("workflow_run_delivery_key_workflow_ref", named),
    ("workflow_run_due", overdue),
    ("workflow_run_end_time", purged),
    ("workflow_run_workflow_ref_number", command(*LIST, "--workflow", "release")),
    ("workflow_run_status_number", command(*LIST, "--status", "running")),
    ("workflow_run_workflow_ref_status_number",
     command(*LIST, "--workflow", "release", "--status", "failed")),
    ("workflow_run_workflow_ref_status_number",
     command("workflow", "delete", "release", "--force")),
], ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_without_its_index_a_query_is_slow(client, flask, stored, clock, index, what):
    """That is: each of the indexes is needed, and the test above can fail."""
    with Statements() as statements:
        what(client, flask, stored, clock)
    queries = statements.about("workflow_run")
    database.execute_sql(f"DROP INDEX {index}")
    assert any(slow_steps(sql) for sql in queries)
