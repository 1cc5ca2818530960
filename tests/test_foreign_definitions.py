"""Definitions of the route's own system, of other layouts, and misspelt ones (contract 3, issue H).

tests/data/definitions holds fifteen of the route's own system, after its published model classes.
"""
import json
import time
import re
from pathlib import Path

import pytest
from conftest import sql, statuses, wait_task

DATA = Path(__file__).parent / "data"
CASES = DATA / "definitions"
EXPORT = DATA / "route-export.json"


@pytest.fixture
def check(flask, tmp_path):
    """Check a definition, a file's name or raw bytes: its exit code, and the lines on stderr."""
    def check(definition):
        file = tmp_path / "w.json"
        raw = definition if isinstance(definition, bytes) else json.dumps(definition).encode()
        file.write_bytes(raw)
        result = flask("workflow", "check", file)
        return result.exit_code, result.stderr.replace(f"{file}: ", "").splitlines()
    return check


def workflow(**keys):
    return {"name": "w", "tasks": [wait_task("t")], **keys}


def when(trigger, field):
    return workflow(triggers={trigger: {"conditions": [
        {"field": field, "operation": "equals", "value": "x"}]}})


# The fifteen of the route's own system

def send(client, name, **event):
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "io.boomerang.test", **event}
    return client.post(f"/api/v2/event?workflow={name}", json=event)


def post(client, name, **payload):
    return client.post(f"/api/v2/webhook?workflow={name}", json=payload)


def both(client, name):
    return [post(client, name).status_code, send(client, name).status_code]


def ending(client, run, *topics):
    """How the run has ended after these topics failed."""
    for topic in topics:
        answer = client.post("/api/v2/callback", json={}, query_string={
            "workflowrun": run["id"], "topic": topic, "status": "failed"})
        assert answer.status_code == 200
    return client.application.test_cli_runner().invoke(
        args=["workflowrun", "show", run["id"]]).stdout


LOAD = {
    "A-default": lambda client, name: {"name": "environment", "value": "staging"}
    in post(client, name).json["params"],
    "B-cond": lambda client, name: [
        send(client, name, subject=subject, id=subject).json["status"]
        for subject in ("australia", "austria")] == ["running", "skipped"],
    "B2-jsonpath": lambda client, name: [
        send(client, name, type=type, id=type).json["status"]
        for type in ("io.boomerang.test", "other")] == ["running", "skipped"],
    "C-null": lambda client, name: both(client, name) == [200, 200],
    "E-github": lambda client, name: both(client, name) == [403, 403],
    "I-param-topic": lambda client, name:
    post(client, name, pr=42).json["tasks"][0]["params"] == [{"name": "topic", "value": "42"}],
    "L-inactive": lambda client, name: both(client, name) == [403, 403],
    "M-endalways": lambda client, name:
    json.loads(ending(client, post(client, name).json, "hello"))["status"] == "failed",
    "N2-nocond": lambda client, name:
    statuses(json.loads(ending(client, post(client, name).json, "a"))) == {
        "a": "failed", "b": "skipped"},
    "O-manualonly": lambda client, name: both(client, name) == [403, 403],
}
REFUSED = {
    "D-emptyrow": ["triggers.event.conditions.0.field: must have 1 to 255 characters",
                   "triggers.event.conditions.0.operation: is required"],
    "K3-emptytopic": ["tasks.1.params: task 'Wait For Event' needs a parameter named topic, of 1 "
                      "to 255 characters"],
    "P-compose": [f"{key}: is of the layout of the editor, which would load without its tasks; "
                  "write name, triggers and tasks as docs/definitions.md has them"
                  for key in ("nodes", "edges")],
    "R-page": ["content: this is a page of definitions; apply the list in it, such as "
               "`jq .content` prints it"],
    "U-v3type": [f"tasks.{place}.{key}: is of the layout of an older release, which would load "
                 "without its tasks; write name, triggers and tasks as docs/definitions.md has them"
                 for place, key in [(0, "taskId"), (1, "taskId"), (1, "properties")]],
}


def test_all_of_the_cases_are_tried():
    assert sorted(LOAD | REFUSED) == sorted(file.stem for file in CASES.glob("*.json"))


@pytest.mark.parametrize("case", LOAD)
def test_a_definition_of_the_routes_own_system_does_what_it_says(flask, client, case):
    file = CASES / f"{case}.json"
    result = flask("workflow", "apply", file)
    assert result.stdout == f"created {name_of(file)} (version 1)\n"
    assert result.stderr.count("\n") == 1 and "not known, so left out: id, " in result.stderr
    assert LOAD[case](client, name_of(file))


def name_of(file):
    return json.loads(file.read_text())["name"]


@pytest.mark.parametrize("case", REFUSED)
def test_a_definition_that_would_load_wrongly_is_refused_saying_why(flask, case):
    file = CASES / f"{case}.json"
    result = flask("workflow", "apply", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        *(f"{file}: {line}" for line in REFUSED[case]),
        "Error: nothing was applied; correct the lines above"]
    assert flask.json("workflow", "list", "--json") == []


def test_an_export_with_default_and_an_editors_field_starts_as_it_says(flask, client):
    assert flask("workflow", "apply", EXPORT).exit_code == 0
    assert send(client, "ship-a-change", type="release").json["status"] == "skipped"
    params = send(client, "ship-a-change", type="push", id="2").json["params"]
    assert {"name": "environment", "value": "staging"} in params


def test_the_definitions_of_a_list_are_refused_by_their_place(check):
    code, lines = check([workflow(), {"name": "p", "tasks": [], "nodes": []}, workflow(timout=1)])
    assert code == 1
    assert [line.partition(":")[0] for line in lines] == ["1.nodes", "2.timout", "Error"]


@pytest.mark.parametrize("key", ["latestRevision", "nodes", "edges"])
def test_another_layout_is_refused_even_with_tasks(check, key):
    code, lines = check(workflow(**{key: []}))
    assert code == 1 and lines[0].startswith(f"{key}: is of the layout of ")


# Keys that are not known

def test_keys_that_are_not_known_are_named_in_one_line_and_left_out(flask, check):
    definition = workflow(
        color="red", nothing=None, **{"$schema": "./schema/workflow.json"},
        triggers={"webhook": {"enabled": True, "token": "x"}},
        tasks=[{**wait_task(name), "labels": {}, "topic": "other"} for name in ("a", "b")])
    line = ("not known, so left out: tasks.labels, tasks.topic, color, "
            "triggers.webhook.token")
    assert check(definition) == (0, [line])
    result = flask("workflow", "apply", "-", input=json.dumps(definition))
    assert (result.exit_code, result.stderr) == (0, f"<stdin>: {line}\n")
    shown = flask("workflow", "show", "w").stdout
    assert not re.search("color|token|labels|other", shown)
    assert flask("workflow", "apply", "-", input=shown).stderr == ""


def test_each_file_has_a_line_of_its_own(flask, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(json.dumps(workflow(name=name, x=1, y="\n")))
    result = flask("workflow", "check", tmp_path / "one", tmp_path / "two")
    assert result.stderr.splitlines() == [
        f"{tmp_path / name}: not known, so left out: x, y" for name in ("one", "two")]


def test_a_key_that_cannot_be_printed_breaks_no_line(check):
    code, lines = check(workflow(**{"a\nb\x1b[2J": 1}))
    assert (code, len(lines)) == (0, 1) and "\x1b" not in lines[0]


@pytest.mark.parametrize("keys, line", [
    ({"timout": 2}, "timout: is not known; did you mean timeout?"),
    ({"timoeut": 2}, "timoeut: is not known; did you mean timeout?"),
    ({"trigegrs": {}}, "trigegrs: is not known; did you mean triggers?"),
    ({"tasks": [{**wait_task("t"), "params": [{"name": "topic", "value": "t", "valu": "x"}]}]},
     "tasks.0.params.0.valu: is not known; did you mean value?"),
    ({"task": []}, "task: is not known; did you mean tasks?"),
    ({"secretenv": "X"}, "secretenv: is not known; did you mean secretEnv?"),
    ({"display_name": "X"}, "display_name: is not known; did you mean displayName?"),
    ({"triggers": {"webhooks": {"enabled": False}}},
     "triggers.webhooks: is not known; did you mean webhook?"),
    ({"triggers": {"event": {"enable": False}}},
     "triggers.event.enable: is not known; did you mean enabled?"),
    ({"params": [{"name": "p", "defaultvalue": 1}]},
     "params.0.defaultvalue: is not known; did you mean defaultValue?"),
    ({"tasks": [wait_task("a"), {**wait_task("t"), "dependencies": [
        {"taskRef": "a", "executioncondition": "failure"}]}]},
     "tasks.1.dependencies.0.executioncondition: is not known; did you mean executionCondition?"),
    ({"notify": [{"to": "env:X", "On": ["run.ended"]}]},
     "notify.0.On: is not known; did you mean on?"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_key_that_is_nearly_known_is_refused_naming_that(check, keys, line):
    assert check(workflow(**keys)) == (1, [line, "Error: correct the lines above"])


@pytest.mark.parametrize("key", ["icon", "id", "state", "tags", "labels", "retries", "version"])
def test_a_key_is_not_near_when_more_than_a_third_of_it_differs(check, key):
    assert check(workflow(**{key: 1})) == (0, [f"not known, so left out: {key}"])


def test_a_misspelt_key_whose_value_is_null_counts_as_absent(check):
    assert check(workflow(timout=None, nodes=None)) == (0, [])


# Triggers, parameters, paths

@pytest.mark.parametrize("triggers, codes", [
    ({"manual": {"enabled": True}}, [403, 403]), ({"schedule": {}}, [403, 403]),
    ({"github": {}, "webhook": {"enabled": True}}, [200, 403]),
    ({"manual": {}, "event": {}}, [403, 200]), ({"manual": {}, "event": None}, [403, 403]),
    ({"manual": None}, [200, 200]), ({"webhook": {"enabled": False}}, [403, 200]),
], ids=str)
def test_a_trigger_of_another_system_switches_off_what_is_not_named(define, client, triggers,
                                                                    codes):
    assert both(client, define("w", triggers=triggers)) == codes


@pytest.mark.parametrize("status, codes", [
    ("inactive", [403, 403]), ("active", [200, 200]), ("Inactive", [200, 200]), (5, [200, 200])])
def test_only_the_status_inactive_means_something(define, client, flask, status, codes):
    assert both(client, define("w", status=status)) == codes
    shown = flask.json("workflow", "show", "w").get("status")
    assert shown == ("inactive" if codes == [403, 403] else None)


def test_what_is_inactive_is_found_by_no_condition(define, client):
    for name, status in ("off", "inactive"), ("on", "active"):
        define(name, status=status, triggers=when("webhook", "data.x")["triggers"])
    answer = client.post("/api/v2/webhook", json={"x": "x"})
    assert (answer.status_code, answer.json["workflowRef"]) == (200, "on")


def test_an_end_in_the_middle_passes_on_what_leads_to_it(define, start, callback, show):
    end = {"name": "end", "type": "end", "params": [],
           "dependencies": [{"taskRef": "a", "executionCondition": "always"}, {"taskRef": "b"}]}
    run = start(define("w", wait_task("a"), wait_task("b"), end, wait_task("c", end="success")))
    assert statuses(run) == {"a": "waiting", "b": "waiting", "c": "notstarted"}
    callback(run, "a", "failed")
    assert statuses(show(run))["c"] == "notstarted"
    callback(run, "b")
    assert statuses(show(run)) == {"a": "failed", "b": "succeeded", "c": "waiting"}


@pytest.mark.parametrize("condition, ended, status", [
    ("success", "failed", "skipped"), ("always", "failed", "waiting"),
    ("failure", "failed", "waiting"), ("failure", "succeeded", "skipped")])
def test_a_condition_on_an_end_is_one_on_what_leads_to_it(
        define, start, callback, show, condition, ended, status):
    end = {"name": "end", "type": "end", "dependencies": [{"taskRef": "a"}]}
    run = start(define("w", wait_task("a"), end, wait_task("c", end=condition), wait_task("d")))
    callback(run, "a", ended)
    assert statuses(show(run))["c"] == status


@pytest.mark.parametrize("needs", [
    [{"taskRef": "a"}, {"taskRef": "e"}], [{"taskRef": "e"}, {"taskRef": "a"}],
    [{"taskRef": "a"}, {"taskRef": "a", "executionCondition": "always"}],
    [{"taskRef": "a", "executionCondition": "always"}, {"taskRef": "a"}]])
def test_each_condition_counts_where_two_are_on_one_task(define, start, callback, show, needs):
    end = {"name": "e", "type": "end",
           "dependencies": [{"taskRef": "a", "executionCondition": "always"}]}
    run = start(define("w", wait_task("a"), end, {**wait_task("deploy"), "dependencies": needs}))
    callback(run, "a", "failed")
    assert statuses(show(run)) == {"a": "failed", "deploy": "skipped"}


def test_many_ways_through_ends_take_no_longer(check):
    ends = [{"name": f"e{n}{side}", "type": "end", "dependencies": [
        {"taskRef": f"e{n - 1}{other}"} for other in "ab" if n]}
        for n in range(60) for side in "ab"]
    began = time.process_time()
    assert check(workflow(tasks=[*ends, wait_task("t", e59a="success")])) == (0, [])
    assert time.process_time() - began < 2


def test_default_is_another_spelling_of_default_value(define, start, flask):
    run = start(define("w", params=[{"name": "a", "default": 0}, {"name": "b", "default": None}]))
    assert run["params"][1:] == [{"name": "a", "value": 0}]
    assert flask.json("workflow", "show", "w")["params"] == [
        {"name": "a", "defaultValue": 0}, {"name": "b"}]


def test_default_beside_default_value_is_refused(check):
    code, lines = check(workflow(params=[{"name": "a", "default": 0, "defaultValue": 0}]))
    assert code == 1 and lines[0].startswith("params.0.default: ")
    assert check(workflow(params=[{"name": "a", "default": 0, "defaultValue": None}]))[0] == 0


@pytest.mark.parametrize("written, kept", [
    ("$.data.x", "data.x"), ("type", "event.type"), ("$.subject", "event.subject"),
    ("event.type", "event.type"), ("env", "env"), ("env.a", "env.a"), ("data", "data"),
    ("header.X-Upper", "header.x-upper"), ("$.header.a.b", "header.a.b"),
])
def test_a_path_of_the_event_trigger_is_kept_in_full(define, flask, written, kept):
    define("w", params=[{"name": "env"}], correlate=written,
           triggers=when("event", written)["triggers"])
    shown = flask.json("workflow", "show", "w")
    assert shown["triggers"]["event"]["conditions"][0]["field"] == shown["correlate"] == kept


@pytest.mark.parametrize("field", ["type", "event.type", "event", "$.type", "ref", "$", ".", "$."])
def test_a_path_that_can_never_hold_is_refused_for_the_webhook_trigger(check, field):
    code, lines = check(when("webhook", field))
    assert code == 1 and lines[0].startswith("triggers.webhook.conditions.0.field: ")
    assert "can never be there" in lines[0]


def test_a_path_into_a_declared_parameter_holds_for_the_webhook_trigger(define, client):
    define("w", params=[{"name": "event"}], triggers=when("webhook", "event")["triggers"])
    assert post(client, "w", event="x").json["status"] == "succeeded"


@pytest.mark.parametrize("header", [
    "authorization", "Cookie", "proxy-authorization", "x-access-token", "x-hub-signature-256",
    "x-hub-signature", "x-gitea-signature", "x-gogs-signature", "x-forgejo-signature",
    "x-grafana-alerting-signature", "circleci-signature", "x-pagerduty-signature",
    "linear-signature", "sentry-hook-signature", "x-shopify-hmac-sha256", "webhook-signature",
    "svix-signature", "x-slack-signature", "stripe-signature", "x-gitlab-token",
    "x-buildkite-token", "x-api-key", "X-ApiKey", "x-auth-key", "x-my-secret", "x-password",
    "x-jwt-assertion", "x-proof", "referer", "ocp-apim-subscription-key"])
@pytest.mark.parametrize("place", ["webhook", "event", "correlate"])
def test_a_header_with_a_proof_is_refused_by_its_name(check, header, place):
    path = f"header.{header}"
    definition = {"signatureHeader": "X-Proof", **(
        workflow(correlate=path) if place == "correlate" else when(place, path))}
    code, lines = check(definition)
    assert code == 1 and f"the header {header.lower()!r} carries a proof" in lines[0]


@pytest.mark.parametrize("header", ["x-github-event", "x-event-key", "user-agent", "x-author",
                                    "idempotency-key", "x-gitlab-event", "x-design"])
def test_other_headers_are_seen(define, client, header):
    define("w", triggers=when("webhook", f"header.{header}")["triggers"])
    assert client.post("/api/v2/webhook?workflow=w", json={}).json["status"] == "skipped"
    answer = client.post("/api/v2/webhook?workflow=w", json={}, headers={header: "x"})
    assert answer.json["status"] == "succeeded"
    assert answer.json["params"] == [{"name": "data", "value": {}}]


def test_an_event_has_headers_too(define, client):
    define("w", triggers=when("event", "header.x-kind")["triggers"])
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    got = [client.post("/api/v2/event?workflow=w", json=event, headers=headers).json["status"]
           for headers in ({}, {"X-Kind": "x"})]
    assert got == ["skipped", "succeeded"]


def test_a_header_with_a_proof_is_never_seen_whatever_is_stored(define, client, database_url):
    define("w", triggers=when("webhook", "header.x-kind")["triggers"])
    sql(database_url, "UPDATE workflow SET definition = "
                      "replace(definition, 'x-kind', 'authorization')")
    answer = client.post("/api/v2/webhook?workflow=w", json={}, headers={"Authorization": "x"})
    assert answer.json["status"] == "skipped"


# New keys

NEW = dict(signatureHeader="X-Sig", deliveryId="data.event_id", correlate="data.after",
           status="inactive", notify=[
               {"on": ["task.waiting"], "tasks": ["t"], "to": "env:TEAM", "by": "Ann", "after": 5},
               {"on": ["task.waiting", "run.ended"], "to": "https://a.example/x"}],
           tasks=[{**wait_task("t"), "message": "Ship $(params.data.v)?", "resolvers": ["link"]}])


def test_the_new_keys_come_back_as_they_were_written(flask, define):
    define("w", *NEW["tasks"], **{key: NEW[key] for key in NEW if key != "tasks"})
    shown = flask.json("workflow", "show", "w")
    assert {key: shown[key] for key in NEW if key != "tasks"} == {
        key: NEW[key] for key in NEW if key != "tasks"}
    assert shown["tasks"] == [{**NEW["tasks"][0], "dependencies": []}]
    assert flask("workflow", "apply", "-", input=json.dumps(shown)).stdout.startswith("unchanged")


def test_a_delivery_id_is_kept_without_its_dollar(flask, define):
    define("w", deliveryId="$.data.event_id")
    assert flask.json("workflow", "show", "w")["deliveryId"] == "data.event_id"


def test_a_notice_without_on_is_of_tasks_that_wait_and_ended_runs(flask, define):
    define("w", notify=[{"to": "env:TEAM"}])
    assert flask.json("workflow", "show", "w")["notify"] == [
        {"on": ["task.waiting", "run.ended"], "to": "env:TEAM"}]


@pytest.mark.parametrize("keys, field", [
    ({"notify": [{"to": "env:X", "tasks": ["other"]}]}, "notify"),
    ({"notify": [{"to": "env:X", "tasks": ["start"]}], "tasks": [
        wait_task("t"), {"name": "start", "type": "start"}]}, "notify"),
    ({"notify": [{"to": "no address"}]}, "notify.0.to"),
    ({"notify": [{"to": "env:"}]}, "notify.0.to"),
    ({"notify": [{"to": "https://"}]}, "notify.0.to"),
    ({"notify": [{"to": "env:X", "on": ["run.begun"]}]}, "notify.0.on.0"),
    ({"notify": [{"to": "env:X", "by": "a\nb"}]}, "notify.0.by"),
    ({"deliveryId": "event_id"}, "deliveryId"), ({"signatureHeader": "X Sig"}, "signatureHeader"),
    ({"correlate": ""}, "correlate"),
    ({"correlate": "type", "triggers": {"event": {"enabled": False}}}, "correlate"),
    ({"tasks": [{**wait_task("t"), "resolvers": ["ci:TOKEN"]}]}, "tasks.0.resolvers.0"),
    ({"tasks": [{**wait_task("t"), "message": "m" * 2001}]}, "tasks.0.message"),
], ids=str)
def test_a_new_key_that_cannot_work_is_refused(check, keys, field):
    code, lines = check(workflow(**keys))
    assert code == 1 and len(lines) == 2 and lines[0].startswith(f"{field}: ")


# What is said

@pytest.mark.parametrize("task, lines", [
    ({"type": "eventwait"}, [
        "tasks.0.name: is required",
        "tasks.0.params: this task needs a parameter named topic, of 1 to 255 characters"]),
    ({"name": "t"}, [
        "tasks.0.type: is required",
        "tasks.0.params: task 't' needs a parameter named topic, of 1 to 255 characters"]),
    ({"name": "t", "type": "script"}, [
        "tasks.0.type: task 't' is of type 'script'; only eventwait tasks run here"]),
], ids=["no name", "no type", "another type"])
def test_every_mistake_of_a_task_is_said_once(check, task, lines):
    assert check({"name": "w", "tasks": [task]}) == (1, [*lines, "Error: correct the lines above"])


def test_no_message_begins_with_a_capital_letter(check):
    definition = {"name": "", "displayName": "x" * 256, "timeout": -1, "params": [{"name": ""}],
                  "triggers": {"webhook": {"conditions": [{"field": "", "operation": "like"}]}},
                  "tasks": [{**wait_task("t", t="sometimes"), "message": "m" * 2001}]}
    code, lines = check(definition)
    assert code == 1 and len(lines) == 10
    assert [line for line in lines[:-1] if not re.fullmatch(r"\S+: [a-z'].*", line)] == []


def test_a_key_twice_in_one_object_is_refused_naming_it(check, client, define):
    twice = b"""{"name": "w", "tasks": [{"name": "t", "type": "eventwait",
                 "dependencies": [{"taskRef": "a"}], "dependencies": []}]}"""
    code, lines = check(twice)
    assert code == 1 and "'dependencies' stands twice" in lines[0]
    define("w")
    answer = client.post("/api/v2/webhook?workflow=w", data=b'{"a": 1, "a": 2}',
                         content_type="application/json")
    assert answer.json["params"] == [{"name": "data", "value": {"a": 2}}]


def test_a_byte_order_mark_is_left_out(check):
    assert check(b"\xef\xbb\xbf" + json.dumps(workflow()).encode()) == (0, [])


@pytest.mark.parametrize("text", [b"name: w\ntasks: []\n", b"---\nname: w\n", b"# mine\nname: w",
                                  b"- name: w\n  tasks: []\n"])
def test_yaml_is_called_by_its_name(check, text):
    code, lines = check(text)
    assert code == 1 and lines[0].endswith("; this looks like YAML, and must be JSON")


def test_the_shipped_definitions_apply_together(flask):
    files = sorted((Path(__file__).parents[1] / "workflows").glob("*.json"))
    result = flask("workflow", "apply", *files)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("created") == len(files) > 1
