"""Workflow definitions: what is taken, what is refused and how that is said (contract 3)."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import statuses, wait_task

PROJECT = Path(__file__).parents[1]
EXPORT = PROJECT / "tests" / "data" / "route-export.json"
TEN_YEARS = 5_256_000
NOT_MINUTES = {"negative": -1, "over ten years": TEN_YEARS + 1, "true": True, "text": "60",
               "60.0": 60.0, "half": 1.5, "list": []}


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path: write("a.json", {...})."""
    def write(name, value):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        (tmp_path / name).write_bytes(raw)
        return tmp_path / name
    return write


@pytest.fixture
def apply(flask, write):
    """Apply one file: apply({...}), or its raw bytes."""
    return lambda value: flask("workflow", "apply", write("definition.json", value))


@pytest.fixture
def stored(flask):
    """The definitions as they are stored now."""
    return lambda: flask.json("workflow", "list", "--json")


def release(*tasks, **keys):
    return {"name": "release", "tasks": list(tasks), **keys}


def empty(name):
    return {"name": name, "tasks": []}


def when(**condition):
    return release(triggers={"webhook": {"conditions": [condition]}})


def refuses(result, *fields):
    """Whether the command ended with 1 and a line for each field, and printed nothing else."""
    return (result.exit_code == 1 and isinstance(result.exception, SystemExit)
            and not result.stdout
            and all(re.search(rf"\b{field}: ", result.stderr) for field in fields))


@pytest.mark.both
def test_a_definition_is_created_then_unchanged_then_updated(apply, stored):
    said = [apply(release(timeout=timeout)).stdout for timeout in (5, 5, 6)]
    assert [line.split()[0] for line in said] == ["created", "unchanged", "updated"]
    assert [definition["timeout"] for definition in stored()] == [6]


def test_the_version_is_raised_only_by_a_change(apply, start):
    versions = []
    for timeout in (5, 5, 6, 6, 5):
        apply(release(wait_task("tests"), timeout=timeout))
        versions.append(start("release")["workflowVersion"])
    assert versions == [1, 1, 2, 2, 3]
    for value in (1, 1.0, True, "1"):  # compared as JSON
        apply(release(wait_task("tests"), params=[{"name": "x", "defaultValue": value}]))
        versions.append(start("release")["workflowVersion"])
    assert versions[5:] == [4, 4, 5, 6]


@pytest.mark.both
def test_a_run_already_started_keeps_its_tasks(define, start, callback, show):
    run = start(define("release", wait_task("tests")))
    define("release", wait_task("approval"), timeout=5)
    assert show(run) == run
    assert callback(run, "tests").status_code == 200
    assert (show(run)["status"], show(run)["workflowVersion"]) == ("succeeded", 1)


@pytest.mark.parametrize("definition", [
    pytest.param(release(), id="no tasks"),
    pytest.param(release(**dict.fromkeys([
        "triggers", "params", "timeout", "displayName", "secretEnv", "signatureHeader",
        "deliveryId", "correlate", "notify", "status"])), id="every other key null"),
])
def test_a_run_of_a_workflow_without_tasks_succeeds_at_once(apply, start, show, definition):
    assert apply(definition).stdout.startswith("created")
    run = start("release", {"version": 1})
    assert (run["status"], run["phase"], run["tasks"]) == ("succeeded", "completed", [])
    assert show(run) == run


@pytest.mark.parametrize("with_null", [
    release(wait_task("tests"), **dict.fromkeys(["displayName", "timeout", "params", "triggers"])),
    release(wait_task("tests"), triggers={"webhook": None, "event": None}),
    release(wait_task("tests") | {"timeout": None, "dependencies": None}),
    release(wait_task("tests"), unknown=None),
], ids=["the workflow's", "its triggers'", "a task's", "an unknown one"])
def test_a_key_whose_value_is_null_counts_as_absent(apply, start, with_null):
    assert apply(with_null).exit_code == 0
    run = start("release")
    assert (statuses(run), "timeout" in run) == ({"tests": "waiting"}, False)
    assert "workflowDisplayName" not in run and "timeout" not in run["tasks"][0]


def test_nulls_inside_a_trigger_count_as_absent(apply, start):
    condition = {"field": "data.ref", "operation": "equals", "value": "main", "values": None}
    trigger = {"enabled": None, "conditions": [condition]}
    assert apply(release(triggers={"webhook": trigger})).exit_code == 0
    assert start("release", {"ref": "main"})["status"] == "succeeded"


@pytest.mark.both
@pytest.mark.parametrize("definition", [
    pytest.param(empty("a"), id="name of 1"),
    pytest.param(empty("Az09._-" + "x" * 93), id="name of 100"),
    pytest.param(release(displayName="é" * 255), id="display name of 255"),
    pytest.param(release(wait_task("n" * 255)), id="task name and topic of 255"),
    pytest.param(release(wait_task("tests", timeout=0), timeout=0), id="timeouts of 0"),
    pytest.param(release(wait_task("a", timeout=TEN_YEARS), timeout=TEN_YEARS), id="ten years"),
    pytest.param(release(wait_task("a", "topic"), wait_task("b", "topic")), id="shared topic"),
    pytest.param(release(*[wait_task(f"t{n}") for n in range(500)]), id="500 tasks"),
])
def test_what_is_within_the_limits_applies(apply, stored, definition):
    result = apply(definition)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [known["name"] for known in stored()] == [definition["name"]]


def test_a_timeout_of_0_is_none(define, start, clock, show):
    run = start(define("release", wait_task("tests", timeout=0), timeout=0))
    assert "timeout" not in run and "timeout" not in run["tasks"][0]
    clock.advance(minutes=TEN_YEARS)
    assert statuses(show(run)) == {"tests": "waiting"}


@pytest.mark.parametrize("definition, field", [
    *[pytest.param({"name": name}, "name", id=f"name {about}") for about, name in {
        "null": None, "empty": "", "of 101": "x" * 101, "with space": "my release",
        "with slash": "a/b", "not ASCII": "é", "with newline": "release\n", "a number": 1}.items()],
    pytest.param({"tasks": []}, "name", id="no name"),
    pytest.param(release(displayName="x" * 256), "displayName", id="display name of 256"),
    pytest.param(release(displayName=1), "displayName", id="display name a number"),
    *[pytest.param(release(timeout=timeout), "timeout", id=f"timeout {about}")
      for about, timeout in NOT_MINUTES.items()],
    *[pytest.param(release(wait_task("a") | {"timeout": timeout}), "timeout",
                   id=f"task's timeout {about}") for about, timeout in NOT_MINUTES.items()],
    pytest.param(release(triggers=[]), "triggers", id="triggers a list"),
    pytest.param(release(triggers={"webhook": True}), "webhook", id="trigger true"),
    pytest.param(release(triggers={"event": {"enabled": 1}}), "enabled", id="enabled 1"),
    pytest.param(release(triggers={"event": {"enabled": "true"}}), "enabled", id="enabled text"),
    pytest.param(release(triggers={"webhook": {"conditions": {}}}), "conditions",
                 id="conditions an object"),
    pytest.param(release(triggers={"webhook": {"conditions": [None]}}), "0", id="condition null"),
    pytest.param(when(operation="equals", value=1), "field", id="condition without field"),
    pytest.param(when(field="data.a", value=1), "operation", id="condition without operation"),
    pytest.param(when(field="data.a", operation="like", value="x"), "operation",
                 id="unknown operation"),
    pytest.param(when(field="data.a", operation="equals"), "value", id="equals without value"),
    pytest.param(when(field="data.a", operation="equals", value=None), "value", id="equals null"),
    pytest.param(when(field="data.a", operation="matches"), "value", id="matches without value"),
    pytest.param(when(field="data.a", operation="in", value=[1]), "values", id="in without values"),
    pytest.param(when(field="data.a", operation="in", values="abc"), "values", id="values a text"),
    *[pytest.param(when(field="data.a", operation="matches", value=pattern), "value",
                   id=f"pattern {pattern}") for pattern in ["(", "*", "[a", "a{2,1}", 3, True, []]],
    pytest.param(release(params={}), "params", id="params an object"),
    pytest.param(release(params=[None]), "0", id="declared parameter null"),
    pytest.param(release(params=[{"defaultValue": 1}]), "name", id="parameter without name"),
    pytest.param(release(params=[{"name": "x" * 256}]), "name", id="parameter's name of 256"),
    pytest.param({"name": "release", "tasks": {}}, "tasks", id="tasks an object"),
    pytest.param({"name": "release"}, "tasks", id="no tasks key"),
    pytest.param(release() | {"tasks": None}, "tasks", id="tasks null"),
    pytest.param(release(*[wait_task(f"t{n}") for n in range(501)]), "tasks", id="501 tasks"),
    pytest.param(release(None), "0", id="task null"),
    pytest.param(release("tests"), "0", id="task a text"),
    pytest.param(release(wait_task("")), "name", id="task's name empty"),
    pytest.param(release(wait_task("x" * 256, "t")), "name", id="task's name of 256"),
    pytest.param(release(wait_task(["a"], "t")), "name", id="task's name a list"),
    pytest.param(release(wait_task("a") | {"type": None}), "type", id="task without type"),
    pytest.param(release(wait_task("a") | {"dependencies": {}}), "dependencies",
                 id="dependencies an object"),
    pytest.param(release(wait_task("a") | {"dependencies": [None]}), "0", id="dependency null"),
    pytest.param(release(wait_task("a") | {"dependencies": [{}]}), "taskRef", id="no taskRef"),
    pytest.param(release(wait_task("a"), wait_task("b", a="sometimes")), "executionCondition",
                 id="unknown executionCondition"),
])
def test_a_mistake_is_named_by_its_field_and_nothing_is_stored(apply, stored, definition, field):
    result = apply(definition)
    assert refuses(result, field), result.stderr or result.exception
    assert stored() == []


@pytest.mark.parametrize("params", [
    None, [], [{"name": "note", "value": "x"}], [{"name": "topic"}],
    [{"name": "topic", "value": ""}], [{"name": "topic", "value": None}],
    [{"name": "topic", "value": 5}], [{"name": "topic", "value": "x" * 256}], {"topic": "a"},
    *[[{"name": "topic", "value": value}] for value in (["x"], [], " \t", {"x": 1}, "\0")],
], ids=["null", "none", "another", "no value", "empty", "null value", "number", "256", "object",
        "a list", "an empty list", "blanks", "an object", "NUL"])
def test_a_task_without_a_topic_is_refused(apply, stored, params):
    result = apply(release(wait_task("tests") | {"params": params, "topic": "tests"}))
    assert refuses(result) and "topic" in result.stderr
    assert stored() == []


@pytest.mark.parametrize("tasks, named", [
    ([wait_task("unit"), wait_task("unit", "other")], ["unit"]),
    ([wait_task("unit", ghost="success")], ["unit", "ghost"]),
    ([wait_task("unit", unit="always")], ["unit"]),
    ([wait_task("unit", lint="success"), wait_task("lint", unit="success")], ["unit", "lint"]),
    ([wait_task("unit", pack="always"), wait_task("lint", unit="failure"),
      wait_task("pack", lint="success"), wait_task("free")], ["unit", "lint", "pack"]),
    ([wait_task("unit", unit="success"), wait_task("lint", pack="success"),
      wait_task("pack", lint="success")], ["unit"]),
    ([wait_task("unit", lint="success"), wait_task("lint", unit="success"),
      wait_task("pack", ship="success"), wait_task("ship", pack="success")],
     ["unit", "lint"]),
], ids=["same name twice", "unknown reference", "self-reference", "cycle of two", "cycle of three",
        "self-reference and a cycle", "two cycles"])
def test_a_graph_that_cannot_run_is_refused_naming_the_tasks(apply, stored, tasks, named):
    result = apply(release(*tasks))
    assert refuses(result, "tasks")
    assert [name for name in named if name not in result.stderr] == []
    assert stored() == []


def test_a_task_of_another_type_is_refused_by_name(apply, stored):
    result = apply(release(wait_task("tests"), {"name": "ask-me", "type": "approval"}))
    assert refuses(result, "type") and "ask-me" in result.stderr
    assert stored() == []


def test_all_mistakes_of_a_definition_are_reported_together(apply, stored):
    result = apply({"name": "my release", "displayName": 1, "timeout": -1,
                    "triggers": {"webhook": {"conditions": [{"operation": "like", "value": 1}]}},
                    "params": [{"name": ""}],
                    "tasks": [{"name": "unit", "type": "template"}, {"type": "eventwait"},
                              wait_task("lint", ghost="success")]})
    assert refuses(result, "name", "displayName", "timeout", "field", "operation", "type", "params",
                   "tasks") and "ghost" in result.stderr
    assert stored() == []


def test_all_mistakes_of_a_condition_are_reported_together(apply):
    assert refuses(apply(when(operation="matches", value="(")), "field", "value")


def test_the_mistakes_of_all_files_are_reported_with_the_file_that_has_them(flask, write, stored):
    files = [write("a.json", release(timeout=-1)), write("b.json", [empty("b"), empty("")]),
             write("c.json", b"{")]
    result = flask("workflow", "apply", *files)
    assert refuses(result, "timeout", "name")
    assert all(str(file) in result.stderr for file in files)
    assert stored() == []


@pytest.mark.both
def test_one_bad_file_keeps_all_others_from_being_applied(define, flask, write, stored):
    define("release", timeout=5)
    result = flask("workflow", "apply", write("good.json", [release(), empty("nightly")]),
                   write("bad.json", {"name": "weekly", "timeout": -1}))
    assert refuses(result, "timeout")
    assert [(known["name"], known["timeout"]) for known in stored()] == [("release", 5)]


@pytest.mark.both
def test_several_files_and_lists_apply_together(flask, write, stored):
    result = flask("workflow", "apply", write("one.json", empty("one")),
                   write("more.json", [empty("two"), empty("three")]))
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["created", "one"], ["created", "two"], ["created", "three"]]
    assert [known["name"] for known in stored()] == ["one", "three", "two"]


@pytest.mark.parametrize("files", [[[empty("a"), empty("a")]], [empty("a"), empty("a")],
                                   [[empty("b"), empty("a")], empty("a") | {"timeout": 5}]],
                         ids=["one file", "two files", "a list and a file"])
def test_the_same_name_twice_in_one_apply_is_refused(flask, write, stored, files):
    paths = [write(f"{number}.json", value) for number, value in enumerate(files)]
    result = flask("workflow", "apply", *paths)
    assert refuses(result, "name") and "a is defined twice" in result.stderr
    assert stored() == []


@pytest.mark.parametrize("raw", [
    b"", b"{", b'{"name": "a"} x', b'{"name": "a", "timeout": NaN}', b'{"name": "a", "x": 1e999}',
    b'{"name": "\xff"}', b'{"name": "a", "displayName": "\\ud800"}', b"{'name': 'a'}",
    b'{"name": "a", "x": ' + b"[" * 201 + b"]" * 201 + b"}", b"[" * 100_000,
    b'{"name": "a", "x": ' + b"1" * 4301 + b"}",
], ids=["nothing", "cut off", "more after it", "NaN", "overflow", "not UTF-8", "lone surrogate",
        "quotes", "too deep", "far too deep", "long integer"])
def test_malformed_json_is_refused(apply, stored, raw):
    result = apply(raw)
    assert refuses(result) and "malformed JSON" in result.stderr
    assert stored() == []


@pytest.mark.parametrize("value", ["release", 5, None, True, [1], [None], [[release()]]], ids=repr)
def test_what_is_no_object_is_refused(apply, stored, value):
    assert refuses(apply(value))
    assert stored() == []


def test_a_mistake_on_standard_input_is_refused_like_one_in_a_file(environ, flask, stored):
    result = subprocess.run([sys.executable, "-m", "flask", "workflow", "apply", "-"], cwd=PROJECT,
                            env=environ, input='{"timeout": -1}', capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert "timeout: " in result.stderr and "Traceback" not in result.stderr
    assert stored() == []


def test_a_file_that_is_missing_is_refused_by_name(flask, stored, tmp_path):
    result = flask("workflow", "apply", tmp_path / "missing.json")
    assert result.exit_code == 1 and "missing.json" in result.stderr


@pytest.mark.both
def test_what_show_prints_applies_as_unchanged(flask, define):
    conditions = [{"field": "data.n", "operation": "equals", "value": 0},
                  {"field": "data.ref", "operation": "matches", "value": "v.*"},
                  {"field": "data.x", "operation": "in", "values": [None, 1, "a", {"b": []}]}]
    define("release", wait_task("unit", timeout=5), wait_task("lint", "unit", unit="failure"),
           displayName="Größe", timeout=60, secretEnv="RELEASE_SECRET",
           triggers={"webhook": {"conditions": conditions}, "event": {"enabled": False}},
           params=[{"name": "a"}, {"name": "b", "defaultValue": False}])
    shown = flask("workflow", "show", "release").stdout
    assert json.loads(shown)["triggers"]["webhook"]["conditions"] == conditions
    assert flask("workflow", "apply", "-", input=shown).stdout.startswith("unchanged release")


def test_the_name_of_the_secrets_variable_is_kept(flask, define):
    define("release", secretEnv="RELEASE_SECRET")
    assert flask.json("workflow", "show", "release")["secretEnv"] == "RELEASE_SECRET"


@pytest.mark.parametrize("operation, operand, value, starts", [
    ("equals", "main", "main", True), ("equals", "main", "Main", False),
    ("equals", 1, True, False), ("equals", True, True, True), ("equals", 3, "3", False),
    ("equals", 1, 1.0, True), ("equals", {"a": [1]}, {"a": [1]}, True),
    ("equals", {"a": [1]}, {"a": [True]}, False), ("equals", 0, None, False),
    ("matches", "v.*", "v1", True), ("matches", "v", "v1", False), ("matches", "a|ab", "ab", True),
    ("matches", "3", 3, False), ("matches", ".*", None, False), ("matches", "a", "a\n", False),
    ("in", ["a", 1], 1, True), ("in", ["a", 1], True, False), ("in", [None], None, True),
    ("in", [], "a", False),
], ids=repr)
def test_a_condition_compares_as_json(define, client, flask, operation, operand, value, starts):
    condition = {"field": "data.a.b", "operation": operation,
                 "values" if operation == "in" else "value": operand}
    define("release", triggers={"webhook": {"conditions": [condition]}})
    answer = client.post("/api/v2/webhook?workflow=release", json={"a": {"b": value}})
    assert (answer.status_code, answer.json["status"]) == (
        200, "succeeded" if starts else "skipped")
    assert len(flask.json("workflowrun", "list", "--json")) == starts


@pytest.mark.parametrize("field", ["data.none", "data.list.0", "data.text.0", "data", "data.",
                                   "header.x-none"])
def test_a_condition_on_a_missing_field_never_holds(define, client, field):
    condition = {"field": field, "operation": "in", "values": [None, "", "a", 0]}
    define("release", triggers={"webhook": {"conditions": [condition]}})
    answer = client.post("/api/v2/webhook?workflow=release", json={"list": ["a"], "text": "a"})
    assert answer.json["status"] == "skipped"


@pytest.mark.parametrize("declared, payload, expected", [
    ({"name": "env"}, {}, {}),
    ({"name": "env"}, {"env": "live"}, {"env": "live"}),
    ({"name": "env"}, {"env": None}, {"env": None}),
    ({"name": "env"}, {"data": {"env": "live"}}, {}),
    ({"name": "env", "defaultValue": "staging"}, {}, {"env": "staging"}),
    ({"name": "env", "defaultValue": "staging"}, {"env": "live"}, {"env": "live"}),
    ({"name": "env", "defaultValue": False}, {}, {"env": False}),
    ({"name": "env", "defaultValue": None}, {}, {}),
    ({"name": "data", "defaultValue": 1}, {}, {}),
    ({"name": "data"}, {"data": 2}, {}),
], ids=["left out", "given", "given as null", "not top-level", "default", "given over default",
        "default false", "default null", "named data", "named data and given"])
def test_a_runs_parameters_are_what_arrived_and_the_declared_ones(define, start, show, declared,
                                                                  payload, expected):
    run = start(define("release", params=[declared]), payload)
    stored = {param["name"]: param["value"] for param in show(run)["params"]}
    assert stored == {"data": payload, **expected}


def test_an_export_of_the_routes_own_system_applies(flask, start, callback, show):
    assert flask("workflow", "apply", EXPORT).stdout.startswith("created ship-a-change")
    run = start("ship-a-change")
    assert statuses(run) == {"Wait for the checks": "waiting", "Wait for QA": "notstarted"}
    assert run["params"] == [{"name": "data", "value": {}},
                             {"name": "environment", "value": "staging"}]
    callback(run, "checks")
    assert statuses(show(run))["Wait for QA"] == "waiting"
    callback(run, "qa")
    assert show(run)["status"] == "succeeded"
    assert flask("workflow", "apply", EXPORT).stdout.startswith("unchanged")


def test_an_export_with_another_task_type_is_refused_by_that_tasks_name(flask, apply, stored):
    export = json.loads(EXPORT.read_text())
    export["tasks"].append({"name": "Send a mail", "type": "template", "taskRef": "send-email"})
    result = apply(export)
    assert refuses(result, "type") and "Send a mail" in result.stderr
    assert stored() == []
