"""The JSON Schema by which editors check definitions says what the service does (E.3)."""
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from marshmallow import ValidationError, fields, validate

from conftest import wait_task
from runs.definitions import (Condition, DeclaredParam, Dependency, Notify, Task, Trigger,
                              Triggers, WorkflowDefinition)

WORKFLOWS = Path(__file__).parents[1] / "workflows"
SCHEMA = json.loads((WORKFLOWS / "schema" / "workflow.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
PARTS = SCHEMA["$defs"]
PAIRS = {"workflow": (WorkflowDefinition, PARTS["workflow"]),
         "triggers": (Triggers, PARTS["workflow"]["properties"]["triggers"]),
         "trigger": (Trigger, PARTS["trigger"]), "condition": (Condition, PARTS["condition"]),
         "param": (DeclaredParam, PARTS["workflow"]["properties"]["params"]["items"]),
         "task": (Task, PARTS["task"]), "notify": (Notify, PARTS["notify"]),
         "dependency": (Dependency, PARTS["dependency"])}
TYPES = {fields.String: "string", fields.Integer: "integer", fields.List: "array",
         fields.Nested: "object"}


def resolved(part):
    """A part of the schema with what it refers to."""
    return {**PARTS[part["$ref"].rpartition("/")[2]], **part} if "$ref" in part else part


def checks(field, kind):
    """The field's validators of that kind."""
    return [check for check in field.validators if isinstance(check, kind)]


@pytest.fixture(params=PAIRS)
def pair(request):
    """Each part of a definition: the service's fields by their key, and the JSON Schema's part."""
    schema, part = PAIRS[request.param]
    return schema().by_key, part


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


def test_both_know_the_same_keys_and_require_the_same(pair):
    known, part = pair
    assert known.keys() == part["properties"].keys()
    assert {key for key in known if known[key].required} == set(part.get("required", []))


def test_both_know_the_same_types_choices_and_limits(pair):
    known, part = pair
    for key, field in known.items():
        given = resolved(part["properties"][key])
        types = given.get("type", [])
        wanted = next((name for kind, name in TYPES.items() if isinstance(field, kind)), None)
        if types and wanted:
            expected = [wanted] if field.required else [wanted, "null"]
            assert ([types] if isinstance(types, str) else types) == expected, key
        for check in checks(field, validate.OneOf):
            assert [choice for choice in given["enum"] if choice is not None] == check.choices
            assert given.get("default", field.load_default) == field.load_default
        if callable(field.load_default) and field.load_default():
            assert given["default"] == field.load_default()
        for check in checks(field, validate.Range):
            assert (given["minimum"], given["maximum"]) == (check.min, check.max)
        for check in checks(field, validate.Length):
            unit = "Items" if isinstance(field, fields.List) else "Length"
            assert (given.get(f"min{unit}"), given.get(f"max{unit}")) == (check.min, check.max)
        for check in checks(field, validate.Regexp):
            assert given["pattern"] == "^" + check.regex.pattern.replace(r"\Z", "$")


def with_tasks(definition):
    """The definition or the list of them, with a list of tasks where there is none."""
    if isinstance(definition, list):
        return [with_tasks(item) for item in definition]
    return {"tasks": [], **definition} if isinstance(definition, dict) else definition


def by_both(definition):
    """Whether the service and the JSON Schema take the definition."""
    try:
        WorkflowDefinition().load(definition, many=isinstance(definition, list))
        taken = True
    except ValidationError:
        taken = False
    return taken, VALIDATOR.is_valid(definition)


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("*.json")), ids=lambda file: file.name)
def test_the_definitions_to_start_from_are_valid(file):
    assert by_both(json.loads(file.read_text())) == (True, True)


def test_an_export_of_the_routes_own_system_is_valid():
    export = Path(__file__).parent / "data" / "route-export.json"
    assert by_both(json.loads(export.read_text())) == (True, True)


def task(**keys):
    return {"name": "w", "tasks": [{**wait_task("t"), **keys}]}


def notify(**entry):
    return {"name": "w", "tasks": [wait_task("t")], "notify": [entry]}


def when(**condition):
    return {"name": "w", "triggers": {"webhook": {"conditions": [condition]}}}


VALID = {
    "a name alone": {"name": "w"}, "a list": [{"name": "w"}, {"name": "v"}], "no definition": [],
    "the schema's own key": {"name": "w", "$schema": "./schema/workflow.json"},
    "unknown keys": {"name": "w", "x": 1, "tasks": [{**wait_task("t"), "x": None}]},
    "every key null": {"name": "w", **dict.fromkeys(
        ["displayName", "status", "triggers", "secretEnv", "signatureHeader", "deliveryId",
         "params", "correlate", "notify", "timeout"])},
    "a name of 100": {"name": "w" * 100}, "an empty display name": {"name": "w", "displayName": ""},
    "a display name of 255": {"name": "w", "displayName": "é" * 255},
    "timeout 0": {"name": "w", "timeout": 0}, "ten years": task(timeout=5_256_000),
    "triggers null": {"name": "w", "triggers": {"webhook": None, "event": {"enabled": None}}},
    "trigger off": {"name": "w", "triggers": {"event": {"enabled": False, "conditions": None}}},
    "equals": when(field="data.a", operation="equals", value=[1]),
    "equals false": when(field="data.a", operation="equals", value=False),
    "matches": when(field="data.a", operation="matches", value="v.*"),
    "in": when(field="data.a", operation="in", values=[None, 1]),
    "in nothing": when(field="data.a", operation="in", values=[], value=None),
    "a parameter": {"name": "w", "params": [{"name": "p"}, {"name": "q", "defaultValue": {}}]},
    "start and end": {"name": "w", "tasks": [{"name": "s", "type": "start", "dependencies": None},
                                             {"name": "e", "type": "end", "params": []}]},
    "more parameters": task(params=[{"name": "x"}, {"name": "topic", "value": "t"}]),
    "a condition null": {"name": "w", "tasks": [wait_task("a"), {
        **wait_task("b"), "dependencies": [{"taskRef": "a", "executionCondition": None}]}]},
    "each key that came later": {
        "name": "w", "status": "inactive", "signatureHeader": "X-Sig", "deliveryId": "data.id",
        "correlate": "data.after", "tasks": [{**wait_task("t"), "message": "Ship?",
                                              "resolvers": ["link", "ci"]}]},
    "default": {"name": "w", "params": [{"name": "p", "default": 1, "defaultValue": None}]},
    **{f"to {to}": notify(to=to) for to in [
        "env:TEAM", "https://a.example", "http://u:p@a:8080/x?y#z", "http://[::1]:80/",
        "mailto://a@b.c", "tgram://123:abc/456", "slack://A/B/C/#ops"]},
    "notify": notify(to="env:X", on=["run.started"], tasks=["t"], by="Ann", after=60),
    "notify null": notify(to="env:X", on=None, tasks=None, by=None, after=None),
    "500 tasks": {"name": "w", "tasks": [wait_task(f"t{n}") for n in range(500)]},
    "message of 2,000": task(message="m" * 2000), "message empty": task(message=""),
    "always": {"name": "w", "tasks": [wait_task("a"), wait_task("b", a="always")]},
}
INVALID = {
    **{f"to {to}": notify(to=to) for to in [
        None, "", "team", "env:", "env:A-B", "https://", "https:///x", "http://:80/", "://a",
        "a@b.c", "http://a b", "http://@/x", 5]},
    "no to": notify(on=["run.ended"]), "on nothing": notify(to="env:X", on=[]),
    "on something else": notify(to="env:X", on=["task.started"]),
    "on a text": notify(to="env:X", on="run.ended"), "tasks none": notify(to="env:X", tasks=[]),
    "by empty": notify(to="env:X", by=""), "after -1": notify(to="env:X", after=-1),
    "501 tasks": {"name": "w", "tasks": [wait_task(f"t{n}") for n in range(501)]},
    "tasks null": {"name": "w", "tasks": None}, "correlate empty": {"name": "w", "correlate": ""},
    "message of 2,001": task(message="m" * 2001), "message a list": task(message=["m"]),
    "resolvers none": task(resolvers=[]), "resolvers a text": task(resolvers="link"),
    "a resolver's token": task(resolvers=["ci:TOKEN"]), "a resolver null": task(resolvers=[None]),
    "signatureHeader": {"name": "w", "signatureHeader": "X Sig"},
    "X_Sig": {"name": "w", "signatureHeader": "X_Sig"},
    "deliveryId": {"name": "w", "deliveryId": "event_id"},
    "two defaults": {"name": "w", "params": [{"name": "p", "default": 1, "defaultValue": 1}]},
    "taskId": task(taskId="t"), "properties": task(properties=[]),
    "text": "w", "null": None, "a number": 1, "a list of lists": [[{"name": "w"}]], "no name": {},
    "name null": {"name": None}, "name empty": {"name": ""}, "name of 101": {"name": "w" * 101},
    "name with a space": {"name": "a b"}, "name a number": {"name": 5},
    "display name of 256": {"name": "w", "displayName": "x" * 256},
    "NUL": {"name": "w", "displayName": "a\0"}, "display name 5": {"name": "w", "displayName": 5},
    "secretEnv": {"name": "w", "secretEnv": "1X"}, "timeout text": {"name": "w", "timeout": "60"},
    "timeout true": {"name": "w", "timeout": True}, "timeout 1.5": {"name": "w", "timeout": 1.5},
    "timeout -1": task(timeout=-1), "over ten years": task(timeout=5_256_001),
    "triggers a list": {"name": "w", "triggers": []},
    "trigger text": {"name": "w", "triggers": {"event": "off"}},
    "enabled text": {"name": "w", "triggers": {"event": {"enabled": "no"}}},
    "enabled 1": {"name": "w", "triggers": {"event": {"enabled": 1}}},
    "condition null": {"name": "w", "triggers": {"event": {"conditions": [None]}}},
    "no field": when(operation="equals", value=1),
    "field empty": when(field="", operation="equals", value=1),
    "no operation": when(field="data.a", value=1),
    "unknown operation": when(field="data.a", operation="like", value=1),
    "equals null": when(field="data.a", operation="equals", value=None),
    "equals nothing": when(field="data.a", operation="equals"),
    "matches a number": when(field="data.a", operation="matches", value=1),
    "no pattern": when(field="data.a", operation="matches", value="("),
    "in a value": when(field="data.a", operation="in", value=1),
    "in null": when(field="data.a", operation="in", values=None),
    "in text": when(field="data.a", operation="in", values="a"),
    "params an object": {"name": "w", "params": {"name": "p"}},
    "param without a name": {"name": "w", "params": [{"defaultValue": 1}]},
    "param text": {"name": "w", "params": ["p"]}, "tasks an object": {"name": "w", "tasks": {}},
    "task null": {"name": "w", "tasks": [None]}, "task name null": task(name=None),
    "task name of 256": task(name="n" * 256), "task name empty": task(name=""),
    "no type": task(type=None), "another type": task(type="script"), "no topic": task(params=[]),
    "params null": task(params=None), "topic null": task(params=[{"name": "topic", "value": None}]),
    "topic empty": task(params=[{"name": "topic", "value": ""}]),
    "topic a number": task(params=[{"name": "topic", "value": 5}]),
    "topic of 256": task(params=[{"name": "topic", "value": "t" * 256}]),
    "dependencies text": task(dependencies="a"), "no taskRef": task(dependencies=[{}]),
    "taskRef null": task(dependencies=[{"taskRef": None}]),
    "another condition": task(dependencies=[{"taskRef": "t", "executionCondition": "ok"}]),
}


@pytest.mark.parametrize("definition", VALID.values(), ids=VALID)
def test_both_take_what_is_valid(definition):
    assert by_both(with_tasks(definition)) == (True, True)


@pytest.mark.parametrize("definition", INVALID.values(), ids=INVALID)
def test_both_refuse_what_is_not(definition):
    assert by_both(with_tasks(definition)) == (False, False)


def test_both_refuse_a_definition_without_tasks():
    assert by_both({"name": "w"}) == (False, False)


@pytest.mark.parametrize("key", ["latestRevision", "nodes", "edges"])
def test_both_refuse_other_layouts(key):
    assert by_both({"name": "w", "tasks": [], key: []}) == (False, False)
