"""Starting a run with a webhook (contract 3, 4.1) and the WorkflowRun it answers (4.6)."""
import json
from pathlib import Path

import pytest
from conftest import statuses, wait_task

from models import WorkflowRun

DATA = Path(__file__).parent / "data"


@pytest.fixture
def post(client):
    """Send a webhook, whatever its answer: post({"ref": "v1"}, "release", {"Webhook-Id": "1"})."""
    def post(payload, workflow=None, headers=None):
        query = {"workflow": workflow} if workflow else {}
        return client.post("/api/v2/webhook", query_string=query, json=payload, headers=headers)
    return post


@pytest.fixture
def stored(flask):
    """All runs there are, newest first: stored()."""
    return lambda: flask.json("workflowrun", "list", "--json")


def when(field, operation, operand):
    """Triggers whose webhook has one condition."""
    key = "values" if operation == "in" else "value"
    return {"webhook": {"conditions": [{"field": field, "operation": operation, key: operand}]}}


def params(run):
    """The run's parameters by name; each name stands there once."""
    values = {param["name"]: param["value"] for param in run["params"]}
    assert len(values) == len(run["params"])
    return values


# What is accepted as a webhook

@pytest.mark.parametrize("content_type", [
    "application/json", "Application/JSON", "application/json; charset=utf-8",
    'application/json;charset="UTF-8"', "application/json ; Charset=Utf-8"])
def test_json_in_any_spelling_starts_a_run(client, define, stored, content_type):
    answer = client.post(f"/api/v2/webhook?workflow={define('release')}",
                         data=b'{"ref": "caf\xc3\xa9"}', content_type=content_type)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert params(answer.json) == {"data": {"ref": "café"}}
    assert stored() == [answer.json]


@pytest.mark.parametrize("content_type", [
    "text/html", "application/jsonp", "application/xml", "multipart/form-data", "json", "text/json",
    "application/json; charset=latin-1", "application/json; charset=utf-16",
    "text/plain; charset=latin-1"])
def test_another_content_type_is_415(client, define, stored, content_type):
    answer = client.post(f"/api/v2/webhook?workflow={define('release')}", data=b"{}",
                         content_type=content_type)
    assert answer.status_code == 415
    assert "'Content-Type: application/json'" in answer.json["detail"]
    assert stored() == []


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"text"', b"1", b"{", b"{} {}"])
def test_a_body_that_is_no_object_is_400(client, define, stored, body):
    answer = client.post(f"/api/v2/webhook?workflow={define('release')}", data=body,
                         content_type="application/json")
    assert answer.status_code == 400
    assert stored() == []


@pytest.mark.parametrize("query", [
    "workflow=", "workflow", "workflow=release&workflow=release", "workflow=release&workflow="])
def test_a_query_parameter_that_is_empty_or_given_twice_is_400(client, define, stored, query):
    define("release")
    answer = client.post(f"/api/v2/webhook?{query}", json={})
    assert answer.status_code == 400
    assert "workflow" in answer.json["errors"]
    assert stored() == []


def test_a_query_parameter_that_is_not_known_is_ignored(client, define, stored):
    define("release")
    answer = client.post("/api/v2/webhook?workflow=release&x=1&x=2&topic=", json={})
    assert answer.status_code == 200
    assert stored() == [answer.json]


# Which workflow starts

@pytest.mark.both
@pytest.mark.parametrize("name", ["nightly", "Release", "release ", "%"])
def test_a_workflow_that_is_not_known_is_404(define, post, stored, name):
    define("release")
    assert post({}, name).status_code == 404
    assert stored() == []


@pytest.mark.both
def test_without_a_name_the_only_willing_workflow_starts(define, post, stored):
    define("off", triggers={"webhook": {"enabled": False}})
    define("other", triggers=when("data.ref", "equals", "main"))
    define("release", triggers=when("data.ref", "matches", "v.*"))
    answer = post({"ref": "v1"})
    assert answer.json["workflowRef"] == "release"
    assert stored() == [answer.json]


def test_without_a_name_no_willing_workflow_is_404(define, post, stored):
    define("off", triggers={"webhook": {"enabled": False}})
    define("other", triggers=when("data.ref", "equals", "main"))
    assert post({"ref": "v1"}).status_code == 404
    assert stored() == []


def test_without_a_name_several_willing_workflows_are_400_naming_them(define, post, stored):
    for name in ("one", "two"):
        define(name, triggers=when("data.ref", "matches", "v.*"))
    define("off", triggers={"webhook": {"enabled": False}})
    answer = post({"ref": "v1"})
    assert answer.status_code == 400
    assert all(name in answer.json["detail"] for name in ("one", "two"))
    assert "off" not in answer.json["detail"]
    assert stored() == []


@pytest.mark.parametrize("query", ["", "?ref=payroll", "?worfklow=payroll"])
@pytest.mark.parametrize("trigger", [{}, {"conditions": []}], ids=["none", "an empty list"])
def test_a_trigger_without_conditions_takes_named_requests_only(
        define, client, post, stored, query, trigger):
    define("release", triggers={"webhook": trigger})
    assert client.post(f"/api/v2/webhook{query}", json={}).status_code == 404
    assert stored() == []
    assert post({}, "release").status_code == 200


def test_conditions_tell_senders_events_apart_by_their_header(define, client, stored):
    """GitHub's payloads do not say which event they are; its header does."""
    for event in ("push", "release"):
        define(event, triggers=when("header.X-GitHub-Event", "equals", event))
    for event, answer in {"push": 200, "release": 200, "installation": 404}.items():
        body = json.loads((DATA / "github-push.json").read_text())
        got = client.post("/api/v2/webhook", json=body, headers={"X-GitHub-Event": event})
        assert (got.status_code, got.json.get("workflowRef", event)) == (answer, event)
    assert [sorted(param["name"] for param in run["params"]) for run in stored()] == [["data"]] * 2


def test_a_disabled_trigger_is_403(define, post, stored):
    define("release", triggers={"webhook": {"enabled": False}, "event": {"enabled": True}})
    assert post({}, "release").status_code == 403
    assert stored() == []


@pytest.mark.parametrize("triggers", [
    None, {}, {"event": {"enabled": False}}, {"webhook": {}}, {"webhook": {"enabled": None}}],
    ids=str)
def test_a_trigger_is_enabled_unless_it_says_otherwise(define, post, stored, triggers):
    answer = post({}, define("release", triggers=triggers))
    assert (answer.status_code, answer.json["trigger"]) == (200, "webhook")
    assert stored() == [answer.json]


def test_a_condition_that_does_not_hold_skips_and_stores_nothing(define, post, stored):
    define("release", triggers=when("data.ref", "equals", "main"))
    answer = post({"ref": "v1"}, "release")
    assert answer.status_code == 200
    assert answer.json.keys() == {"status", "workflowRef", "statusMessage"}
    assert (answer.json["status"], answer.json["workflowRef"]) == ("skipped", "release")
    assert "data.ref" in answer.json["statusMessage"]
    assert stored() == []


# Conditions

HOLDS = {
    "text": ("equals", "main", {"x": "main"}),
    "number": ("equals", 3, {"x": 3}),
    "whole number written as a float": ("equals", 3, {"x": 3.0}),
    "boolean": ("equals", False, {"x": False}),
    "list": ("equals", [1, {"a": None}], {"x": [1, {"a": None}]}),
    "object in another order": ("equals", {"a": 1, "b": 2}, {"x": {"b": 2, "a": 1}}),
    "pattern": ("matches", "v[0-9]+", {"x": "v12"}),
    "one of several": ("in", ["a", 2, None], {"x": 2}),
    "null as one of several": ("in", ["a", None], {"x": None}),
}
HOLDS_NOT = {
    "missing": ("equals", "main", {}),
    "missing is not null": ("in", [None], {}),
    "missing matches nothing": ("matches", ".*", {}),
    "another case": ("equals", "main", {"x": "Main"}),
    "true is not 1": ("equals", True, {"x": 1}),
    "1 is not true": ("equals", 1, {"x": True}),
    "0 is not false": ("equals", False, {"x": 0}),
    "text is not a number": ("equals", "3", {"x": 3}),
    "a number is not text": ("equals", 3, {"x": "3"}),
    "true is not 1 inside a list": ("equals", [True], {"x": [1]}),
    "true is not 1 inside an object": ("equals", {"a": True}, {"x": {"a": 1}}),
    "an object with one key more": ("equals", {"a": 1}, {"x": {"a": 1, "b": None}}),
    "a longer list": ("equals", [1], {"x": [1, 1]}),
    "true is not one of 1 and 2": ("in", [1, 2], {"x": True}),
    "an empty list of values": ("in", [], {"x": None}),
    "a text is not in a text": ("in", ["main"], {"x": "mai"}),
    "a pattern matches the whole text": ("matches", "v", {"x": "v1"}),
    "not the text before a newline": ("matches", "v1$", {"x": "v1\n"}),
    "a pattern's alternatives too": ("matches", "a|ab", {"x": "abc"}),
    "a number matches no pattern": ("matches", "[0-9]+", {"x": 12}),
    "a boolean matches no pattern": ("matches", ".*", {"x": True}),
    "null matches no pattern": ("matches", ".*", {"x": None}),
    "a list matches no pattern": ("matches", ".*", {"x": ["a"]}),
}


@pytest.mark.parametrize("operation, operand, payload", HOLDS.values(), ids=HOLDS)
def test_a_condition_holds_for(define, post, stored, operation, operand, payload):
    define("release", triggers=when("data.x", operation, operand))
    answer = post(payload, "release")
    assert answer.json["status"] == "succeeded"
    assert stored() == [answer.json]


@pytest.mark.parametrize("operation, operand, payload", HOLDS_NOT.values(), ids=HOLDS_NOT)
def test_a_condition_does_not_hold_as(define, post, stored, operation, operand, payload):
    define("release", triggers=when("data.x", operation, operand))
    assert post(payload, "release").json["status"] == "skipped"
    assert stored() == []


@pytest.mark.parametrize("payload, status", [
    ({"a": {"b": {"c": "yes"}}}, "succeeded"), ({"a": [{"b": {"c": "yes"}}]}, "skipped"),
    ({"a": {"b": ["yes"]}}, "skipped"), ({"a": {"b": "c"}}, "skipped"),
    ({"a": {"b": {"c.": "yes"}}}, "skipped"), ({"a.b.c": "yes"}, "skipped")], ids=str)
def test_a_conditions_path_goes_through_objects_only(define, post, stored, payload, status):
    define("release", triggers=when("data.a.b.c", "equals", "yes"))
    assert post(payload, "release").json["status"] == status
    assert len(stored()) == (status == "succeeded")


@pytest.mark.parametrize("field", ["data.items.0", "data.items.length", "data.text.0"])
def test_a_conditions_path_does_not_index_lists_or_text(define, post, stored, field):
    define("release", triggers=when(field, "matches", ".*"))
    assert post({"items": ["a"], "text": "a"}, "release").json["status"] == "skipped"
    assert stored() == []


def test_all_conditions_must_hold(define, post, stored):
    both = [{"field": f"data.{key}", "operation": "equals", "value": 1} for key in "ab"]
    define("release", triggers={"webhook": {"conditions": both}})
    assert post({"a": 1, "b": 2}, "release").json["status"] == "skipped"
    assert post({"a": 2, "b": 1}, "release").json["status"] == "skipped"
    assert post({"a": 1, "b": 1}, "release").json["status"] == "succeeded"
    assert len(stored()) == 1


def test_a_condition_may_look_at_a_declared_parameter(define, post, stored):
    define("release", params=[{"name": "environment", "defaultValue": "staging"}],
           triggers=when("environment", "equals", "staging"))
    assert post({"environment": "live"}, "release").json["status"] == "skipped"
    assert post({}, "release").json["status"] == "succeeded"
    assert len(stored()) == 1


# Parameters

DECLARED = [{"name": "environment", "defaultValue": "staging"}, {"name": "ticket"}]


@pytest.mark.parametrize("payload, expected", [
    ({"environment": "live", "ticket": 7}, {"environment": "live", "ticket": 7}),
    ({"environment": {"deep": [1]}}, {"environment": {"deep": [1]}}),
    ({"environment": False, "ticket": ""}, {"environment": False, "ticket": ""}),
    ({"nested": {"ticket": 7}}, {"environment": "staging"}),
    ({}, {"environment": "staging"})], ids=str)
def test_a_declared_parameter_comes_from_the_payload_or_its_default(
        define, post, show, payload, expected):
    run = post(payload, define("release", params=DECLARED)).json
    assert params(run) == params(show(run)) == {"data": payload, **expected}


def test_a_declared_parameter_named_data_yields_to_the_payload(define, post, show):
    define("release", params=[{"name": "data", "defaultValue": "x"}])
    run = post({"data": "mine"}, "release").json
    assert params(run) == params(show(run)) == {"data": {"data": "mine"}}


# Repeats

@pytest.mark.both
@pytest.mark.parametrize("first, again", [
    ({"Idempotency-Key": '"k 1"'}, {"Idempotency-Key": '"k 1"'}),
    ({"Idempotency-Key": '"k1"'}, {"Idempotency-Key": "k1"}),
    ({"Idempotency-Key": r'"a\"b\\c"'}, {"Idempotency-Key": r'a"b\c'}),
    ({"Idempotency-Key": f'"{"k" * 255}"'}, {"Idempotency-Key": "k" * 255}),
    ({"webhook-id": "msg_1"}, {"Webhook-Id": "msg_1"}),
    ({"X-GitHub-Delivery": "72d3162e"}, {"x-github-delivery": "72d3162e"}),
    ({"Idempotency-Key": "k", "webhook-id": "1"}, {"Idempotency-Key": "k", "webhook-id": "2"}),
    ({"webhook-id": "1", "X-GitHub-Delivery": "1"}, {"webhook-id": "1", "X-GitHub-Delivery": "2"}),
], ids=str)
def test_a_repeat_answers_with_the_first_run(define, post, stored, first, again):
    run = post({"n": 1}, define("release", wait_task("tests")), first)
    repeat = post({"n": 1}, "release", again)
    assert (repeat.status_code, repeat.json) == (200, run.json)
    assert stored() == [run.json]


@pytest.mark.both
@pytest.mark.parametrize("first, second", [
    ({}, {}),
    ({"Idempotency-Key": "k"}, {}),
    ({"Idempotency-Key": "k"}, {"Idempotency-Key": "K"}),
    ({"Idempotency-Key": "k"}, {"webhook-id": "k"}),
    ({"webhook-id": "k"}, {"X-GitHub-Delivery": "k"}),
    ({"Idempotency-Key": "k", "webhook-id": "1"}, {"Idempotency-Key": "l", "webhook-id": "1"}),
    ({"Idempotency-Key": "k", "webhook-id": "1"}, {"webhook-id": "1"}),
    ({"webhook-id": "1", "X-GitHub-Delivery": "d"}, {"webhook-id": "2", "X-GitHub-Delivery": "d"}),
], ids=str)
def test_equal_payloads_without_a_common_id_are_two_runs(define, post, stored, first, second):
    define("release")
    ids = {post({"n": 1}, "release", headers).json["id"] for headers in (first, second)}
    assert {run["id"] for run in stored()} == ids
    assert len(ids) == 2


@pytest.mark.both
def test_a_repeat_answers_with_the_run_as_it_stands_now(define, start, callback, clock, stored):
    run = start(define("release", wait_task("tests")), {"n": 1}, **{"Idempotency-Key": "k"})
    clock.advance(minutes=1)
    callback(run, "tests", json={})
    repeat = start("release", {"n": 1}, **{"Idempotency-Key": "k"})
    assert (repeat["id"], repeat["status"], repeat["duration"]) == (run["id"], "succeeded", 60_000)
    assert stored() == [repeat]


@pytest.mark.both
def test_an_id_counts_for_one_workflow_only(define, start, stored):
    for name in ("one", "two"):
        start(define(name), {"n": 1}, **{"Idempotency-Key": "k"})
    assert {run["workflowRef"] for run in stored()} == {"one", "two"}


@pytest.mark.both
@pytest.mark.parametrize("key", ["", '""', "k" * 256, f'"{"k" * 256}"'],
                         ids=["empty", "empty quoted", "256 bare", "256 quoted"])
def test_an_idempotency_key_has_1_to_255_characters(define, post, stored, key):
    answer = post({}, define("release"), {"Idempotency-Key": key})
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json["errors"]
    assert stored() == []


@pytest.mark.both
def test_the_same_key_with_a_payload_that_is_equal_as_json_is_a_repeat(client, define, stored):
    define("release")
    for body in (b'{"a": 1, "b": "\xc3\xa9"}', b'{"b":"\\u00e9",\n "a":1}'):
        answer = client.post("/api/v2/webhook?workflow=release", data=body,
                             content_type="application/json", headers={"Idempotency-Key": "k"})
        assert answer.status_code == 200
    assert len(stored()) == 1


@pytest.mark.both
@pytest.mark.parametrize("payload", [{"n": 2}, {"n": True}, {"n": "1"}, {"n": [1]}, {},
                                     {"n": 1, "m": None}], ids=str)
def test_the_same_key_with_another_payload_is_422(define, post, stored, payload):
    run = post({"n": 1}, define("release"), {"Idempotency-Key": "k"})
    answer = post(payload, "release", {"Idempotency-Key": "k"})
    assert answer.status_code == 422 and run.json["id"] not in answer.text
    assert stored() == [run.json]


@pytest.mark.parametrize("name", ["release", None], ids=["named", "not named"])
def test_a_repeat_during_a_purge_starts_a_run(define, post, stored, monkeypatch, name):
    define("release", triggers=when("data.ref", "equals", "main"))
    first, find = post({"ref": "main"}, name, {"Idempotency-Key": "k"}).json, WorkflowRun.find

    def purged(workflowrun, now):
        WorkflowRun.delete().where(WorkflowRun.id == first["id"]).execute()
        return find(workflowrun, now)

    monkeypatch.setattr(WorkflowRun, "find", purged)
    answer = post({"ref": "main"}, name, {"Idempotency-Key": "k"})
    assert answer.status_code == 200 and answer.json["id"] != first["id"]
    assert stored() == [answer.json]


@pytest.fixture
def replaced(define, monkeypatch):
    """Let the workflow be replaced between a request's look at it and its start of a run."""
    def replaced(**keys):
        planned = WorkflowRun.planned

        def replace(*args):
            run = planned(*args)
            monkeypatch.undo()
            define("release", **keys)
            return run

        monkeypatch.setattr(WorkflowRun, "planned", replace)
    return replaced


@pytest.mark.both
def test_a_run_starts_as_its_workflow_is_by_then(define, post, stored, replaced):
    define("release")
    replaced(displayName="Release")
    answer = post({}, "release")
    assert (answer.json["workflowVersion"], answer.json["workflowDisplayName"]) == (2, "Release")
    assert stored() == [answer.json]


def test_nothing_starts_that_asks_for_a_signature_by_then(define, post, stored, replaced):
    define("release")
    replaced(secretEnv="SECRET")
    assert post({}, "release").status_code == 503  # the sender's repeat is checked anew
    assert stored() == []


@pytest.mark.both
@pytest.mark.parametrize("header", ["webhook-id", "X-GitHub-Delivery"])
def test_a_delivery_id_with_another_payload_is_a_repeat(define, post, stored, header):
    run = post({"n": 1}, define("release"), {header: "1"})
    assert post({"n": 2}, "release", {header: "1"}).json == run.json
    assert stored() == [run.json]


@pytest.mark.both
@pytest.mark.parametrize("name", ["release", None], ids=["named", "not named"])
@pytest.mark.parametrize("triggers", [
    {"webhook": {"enabled": False}}, when("data.ref", "equals", "other")],
    ids=["trigger disabled", "conditions changed"])
def test_a_repeat_is_recognised_before_trigger_and_conditions(
        define, post, stored, name, triggers):
    define("release", triggers=when("data.ref", "equals", "main"))
    run = post({"ref": "main"}, name, {"Idempotency-Key": "k"}).json
    define("release", triggers=triggers)
    define("newcomer")
    answer = post({"ref": "main"}, name, {"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json) == (200, run)
    assert post({"ref": "v1"}, name, {"Idempotency-Key": "k"}).status_code == 422
    assert stored() == [run]


@pytest.mark.parametrize("name", ["release", None], ids=["named", "not named"])
def test_a_repeat_is_recognised_when_its_topic_can_be_filled_no_more(define, post, stored, name):
    define("release", wait_task("tests"), triggers=when("data.ref", "equals", "main"))
    run = post({"ref": "main"}, name, {"Idempotency-Key": "k"}).json
    define("release", wait_task("tests", "$(params.data.text)"),
           triggers=when("data.ref", "equals", "main"))
    assert post({"ref": "main", "text": ""}, name, {"Idempotency-Key": "new"}).status_code == 400
    answer = post({"ref": "main"}, name, {"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json) == (200, run)


# The WorkflowRun

@pytest.mark.both
def test_the_answer_shows_the_whole_run(define, start, stored):
    define("release", wait_task("tests", timeout=60), wait_task("approval", tests="success"),
           displayName="Release approval", timeout=1440)
    run = start("release", {"ref": "v1"})
    time = "2026-11-23T09:00:00.000Z"
    tests, approval = run["tasks"]
    assert run == {
        "id": run["id"], "workflowRef": "release", "workflowDisplayName": "Release approval",
        "workflowVersion": 1, "trigger": "webhook", "status": "running", "phase": "running",
        "creationDate": time, "startTime": time, "duration": 0, "timeout": 1440,
        "params": [{"name": "data", "value": {"ref": "v1"}}], "tasks": [
            {"id": tests["id"], "name": "tests", "type": "eventwait", "status": "waiting",
             "phase": "running", "creationDate": time, "startTime": time, "duration": 0,
             "timeout": 60, "params": [{"name": "topic", "value": "tests"}], "results": []},
            {"id": approval["id"], "name": "approval", "type": "eventwait",
             "status": "notstarted", "phase": "pending", "creationDate": time, "duration": 0,
             "params": [{"name": "topic", "value": "approval"}], "results": []}]}
    assert stored() == [run]


def test_keys_without_a_value_are_left_out(define, start, stored):
    run = start(define("record", timeout=0))
    assert run.keys() == {"id", "workflowRef", "workflowVersion", "trigger", "status", "phase",
                          "creationDate", "startTime", "duration", "params", "tasks"}
    assert (run["status"], run["phase"], run["tasks"]) == ("succeeded", "completed", [])
    assert stored() == [run]


def test_a_run_tells_the_version_of_the_definition_that_started_it(define, start, show):
    first = start(define("release"))
    second = start(define("release", wait_task("tests"), displayName="Release"))
    assert [show(run)["workflowVersion"] for run in (first, second)] == [1, 2]
    assert show(first)["tasks"] == []


def test_ids_are_long_and_none_is_like_another(define, start):
    define("release", wait_task("tests"), wait_task("lint"))
    runs = [start("release") for _ in range(20)]
    ids = [part["id"] for run in runs for part in [run, *run["tasks"]]]
    assert min(map(len, ids)) >= 22
    assert len({id[:12] for id in ids}) == len({id[-12:] for id in ids}) == 60


def test_times_and_durations_move_with_the_clock(define, start, callback, clock, show):
    define("release", wait_task("tests"), wait_task("approval", tests="success"),
           wait_task("rollback", tests="failure"))
    clock.advance(milliseconds=7)
    run = start("release")
    clock.advance(minutes=1, milliseconds=234)
    assert callback(run, "tests", json={}).status_code == 200
    clock.advance(milliseconds=1000)
    now = show(run)
    tests, approval, rollback = now["tasks"]
    assert statuses(now) == {"tests": "succeeded", "approval": "waiting", "rollback": "skipped"}
    assert now["startTime"] == tests["startTime"] == "2026-11-23T09:00:00.007Z"
    assert approval["startTime"] == "2026-11-23T09:01:00.241Z"
    assert approval["creationDate"] == now["creationDate"] == "2026-11-23T09:00:00.007Z"
    assert [part["duration"] for part in (now, *now["tasks"])] == [61_234, 60_234, 1000, 0]
    assert "startTime" not in rollback
    assert (tests["phase"], rollback["phase"]) == ("completed", "completed")
    assert rollback["statusMessage"]


# What GitHub sends

@pytest.mark.both
@pytest.mark.parametrize("event, field, value", [
    ("push", "data.ref", "refs/heads/master"),
    ("pull_request", "data.pull_request.base.ref", "master"),
    ("release", "data.release.tag_name", "0.0.1"),
    ("workflow_run", "data.workflow_run.conclusion", "success")])
def test_what_github_sends_starts_a_run_when_the_condition_holds(
        define, post, stored, event, field, value):
    payload = json.loads((DATA / f"github-{event}.json").read_text("utf-8"))
    define("release", wait_task("tests"), triggers=when(field, "equals", value))
    define("other", triggers=when(field, "equals", f"not {value}"))
    headers = {"X-GitHub-Event": event, "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    assert post(payload, "other", headers).json["status"] == "skipped"
    run = post(payload, None, headers).json
    assert params(run) == {"data": payload}
    assert post(payload, "release", headers).json == run
    assert stored() == [run]
