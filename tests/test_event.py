"""Starting a run with a CloudEvent (contract 4.2)."""
import json
from datetime import datetime, timezone
from urllib.parse import quote

import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from conftest import wait_task

EVENT = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "build.done"}
STRUCTURED, PLAIN = "application/cloudevents+json", "application/json"
ABSENT = object()


@pytest.fixture
def send(client):
    """Send an event in structured mode: send({"subject": "x", "id": ABSENT}, "release")."""
    def send(attributes=None, workflow=None, content_type=STRUCTURED):
        event = {name: value for name, value in {**EVENT, **(attributes or {})}.items()
                 if value is not ABSENT}
        return client.post("/api/v2/event", content_type=content_type, data=json.dumps(event),
                           query_string={"workflow": workflow} if workflow else {})
    return send


@pytest.fixture
def send_binary(client):
    """Send an event in binary mode: send_binary({"ce-subject": "caf%C3%A9"}, b"{}", "release")."""
    def send_binary(headers=None, body=b"", workflow=None, content_type=PLAIN):
        headers = {**{f"ce-{name}": value for name, value in EVENT.items()}, **(headers or {})}
        return client.post("/api/v2/event", content_type=content_type, data=body, headers=headers,
                           query_string={"workflow": workflow} if workflow else {})
    return send_binary


@pytest.fixture
def stored(flask):
    """All runs there are, newest first: stored()."""
    return lambda: flask.json("workflowrun", "list", "--json")


def params(run):
    """The run's parameters by name; each name stands there once."""
    values = {param["name"]: param["value"] for param in run["params"]}
    assert len(values) == len(run["params"])
    return values


def when(field, value):
    """Triggers whose event has one condition."""
    return {"event": {"conditions": [{"field": field, "operation": "equals", "value": value}]}}


# The three ways to send an event

@pytest.mark.parametrize("content_type", [
    STRUCTURED, "Application/CloudEvents+JSON; charset=UTF-8", PLAIN,
    "application/json;charset=utf-8"])
def test_a_structured_event_starts_a_run(define, send, stored, content_type):
    define("release", wait_task("tests"))
    answer = send({"data": {"n": 1}, "team": "a"}, "release", content_type)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert (answer.json["trigger"], answer.json["status"]) == ("event", "running")
    assert params(answer.json) == {
        "event": {**EVENT, "data": {"n": 1}, "team": "a"}, "data": {"n": 1}}
    assert stored() == [answer.json]


def test_a_binary_event_starts_a_run(define, send_binary, stored):
    answer = send_binary({"CE-Team": "a"}, b'{"n": 1}', define("release"), "application/json")
    assert answer.status_code == 200
    assert params(answer.json) == {"data": {"n": 1}, "event": {
        **EVENT, "team": "a", "datacontenttype": "application/json", "data": {"n": 1}}}
    assert stored() == [answer.json]


def test_a_structured_events_ce_headers_are_not_read(client, define, stored):
    answer = client.post("/api/v2/event", query_string={"workflow": define("release")},
                         content_type=STRUCTURED, data=json.dumps(EVENT),
                         headers={"ce-specversion": "9", "ce-id": "2", "ce-datacontenttype": "x"})
    assert params(answer.json) == {"event": EVENT}
    assert stored() == [answer.json]


@pytest.mark.parametrize("content_type", [
    "text/plain", "application/cloudevents-batch+json", "application/cloudevents+xml",
    "application/cloudevents", "application/xml", "application/cloudevents+json; charset=latin-1",
    "application/json; charset=utf-16", "application/vnd.api+json; charset=latin-1"])
@pytest.mark.parametrize("headers", [{}, {f"ce-{name}": value for name, value in EVENT.items()}],
                         ids=["without ce headers", "with ce headers"])
def test_another_content_type_is_415(client, define, stored, content_type, headers):
    answer = client.post("/api/v2/event", query_string={"workflow": define("release")},
                         content_type=content_type, data=json.dumps(EVENT), headers=headers)
    assert answer.status_code == 415
    assert stored() == []


@pytest.mark.parametrize("content_type", [None, "application/vnd.api+json"])
def test_only_binary_mode_may_leave_the_content_type_out_or_have_one_of_its_own(
        define, send, stored, content_type):
    answer = send({}, define("release"), content_type)
    assert answer.status_code == 415 and "cloudevents+json" in answer.json["detail"]
    assert "None" not in answer.json["detail"] and stored() == []


@pytest.mark.parametrize("content_type", [STRUCTURED, PLAIN])
@pytest.mark.parametrize("body", [b"", b"null", b'"text"', b"{", json.dumps([EVENT]).encode()])
def test_a_body_that_is_no_event_is_400(client, define, stored, content_type, body):
    answer = client.post("/api/v2/event", query_string={"workflow": define("release")},
                         content_type=content_type, data=body)
    assert answer.status_code == 400
    assert stored() == []


# Attributes

RULES = {  # what it is about: (attribute, good value, bad value)
    "specversion is 1.0": ("specversion", "1.0", "0.3"),
    "specversion is text": ("specversion", "1.0", 1.0),
    "specversion is required": ("specversion", "1.0", ABSENT),
    "id is not empty": ("id", " ", ""),
    "id is text": ("id", "1", 1),
    "id is required": ("id", "1", ABSENT),
    "null counts as absent": ("id", "null", None),
    "source is not empty": ("source", ".", ""),
    "source is required": ("source", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", ABSENT),
    "source has no spaces": ("source", "https://ci.example/a%20b?c=d#e", "https://ci.example/a b"),
    "source's percents are escapes": ("source", "../a%2Fb", "../a%2"),
    "source's brackets hold an address": ("source", "//[::1]:80/", "//host/[a]"),
    "source is text": ("source", "mailto:ci@example.org", ["/ci"]),
    "type is not empty": ("type", "t", ""),
    "type is required": ("type", "build.done", ABSENT),
    "subject is not empty": ("subject", "größe", ""),
    "subject is text": ("subject", "true", True),
    "subject without control characters": ("subject", "a b", "a\u0000b"),
    "time has a T": ("time", "2026-11-23t09:00:00z", "2026-11-23 at 09:00:00Z"),
    "time has an offset": ("time", "2026-11-23T09:00:00+05:30", "2026-11-23T09:00:00"),
    "time has seconds": ("time", "2026-11-23T09:00:00Z", "2026-11-23T09:00Z"),
    "time may have a fraction": ("time", "2026-11-23T09:00:00.123456789Z", "2026-11-23T09:00:00.Z"),
    "time's fraction follows a point": ("time", "2026-11-23T09:00:00.5Z", "2026-11-23T09:00:00,5Z"),
    "time may be a leap second": ("time", "2016-12-31T23:59:60Z", "2016-12-31T23:59:61Z"),
    "time has 60 minutes": ("time", "2026-11-23T09:59:00Z", "2026-11-23T09:60:00Z"),
    "time has 24 hours": ("time", "2026-11-23T23:00:00Z", "2026-11-23T24:00:00Z"),
    "time is a day that exists": ("time", "2028-02-29T09:00:00Z", "2026-02-29T09:00:00Z"),
    "time's month exists": ("time", "2026-12-01T09:00:00Z", "2026-13-01T09:00:00Z"),
    "time's offset has 24 hours": ("time", "2026-11-23T09:00:00-23:59",
                                   "2026-11-23T09:00:00+24:00"),
    "time's offset has 60 minutes": ("time", "2026-11-23T09:00:00-00:00",
                                     "2026-11-23T09:00:00+01:60"),
    "time has ASCII digits": ("time", "2026-11-23T09:00:00Z", "٢٠٢٦-11-23T09:00:00Z"),
    "time has nothing behind it": ("time", "2026-11-23T09:00:00Z", "2026-11-23T09:00:00Z\n"),
    "time is text": ("time", "2026-11-23T09:00:00Z", 1795424400),
    "dataschema is absolute": ("dataschema", "https://schemas.example/v1?a=b", "/schemas/v1"),
    "dataschema is not empty": ("dataschema", "urn:x", ""),
    "dataschema is a URI": ("dataschema", "https://a.example/%C3%A9", "https://a.example/é"),
    "datacontenttype has two parts": ("datacontenttype", "text/xml; charset=utf-8", "xml"),
    "datacontenttype has two parts only": ("datacontenttype", "application/a.b+json", "a/b/c"),
    "datacontenttype is not empty": ("datacontenttype", "a/b", ""),
    "an extension's name is lower-case": ("comexampleteam", "a", ABSENT),
    "an extension is text": ("team", "größe", ["a"]),
    "an extension is a boolean": ("team", True, {"a": True}),
    "an extension is a whole number": ("team", 0, 1.5),
    "an extension has 32 bits": ("team", 2147483647, 2147483648),
    "an extension has 32 bits below zero": ("team", -2147483648, -2147483649),
    "data_base64 is base64": ("data_base64", "w6k=", "w6k!"),
    "data_base64 is padded": ("data_base64", "", "w6k"),
    "data_base64 is text": ("data_base64", "MTI=", 12),
}
GOOD = {rule: (name, good) for rule, (name, good, bad) in RULES.items()}
BAD = {rule: (name, bad) for rule, (name, good, bad) in RULES.items()
       if bad is not ABSENT or name in EVENT}
BINARY_BAD = {rule: (name, value) for rule, (name, value) in BAD.items()
              if isinstance(value, str) and name not in ("datacontenttype", "data_base64")}


@pytest.mark.parametrize("name, value", GOOD.values(), ids=GOOD)
def test_an_event_is_taken_when(define, send, stored, name, value):
    answer = send({name: value}, define("release"))
    assert answer.status_code == 200, answer.text
    assert params(answer.json)["event"] == {**EVENT, name: value}
    assert stored() == [answer.json]


@pytest.mark.parametrize("content_type", [STRUCTURED, PLAIN])
@pytest.mark.parametrize("name, value", BAD.values(), ids=BAD)
def test_an_event_is_refused_unless(define, send, stored, name, value, content_type):
    answer = send({name: value}, define("release"), content_type)
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {name}
    assert stored() == []


@pytest.mark.parametrize("name, value", BINARY_BAD.values(), ids=BINARY_BAD)
def test_a_binary_event_is_refused_unless(define, send_binary, stored, name, value):
    answer = send_binary({f"ce-{name}": quote(value)}, b"{}", define("release"))
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {name}
    assert stored() == []


@pytest.mark.parametrize("name", ["Team", "my-team", "my_team", "my.team", "größe", "٣", ""])
def test_an_extensions_name_has_lower_case_letters_and_digits_only(define, send, stored, name):
    answer = send({name: "a"}, define("release"))
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {name}
    assert stored() == []


@pytest.mark.parametrize("name", ["subject", "time", "dataschema", "datacontenttype", "team"])
def test_an_attribute_that_is_null_counts_as_absent(define, send, stored, name):
    answer = send({name: None}, define("release"))
    assert params(answer.json) == {"event": EVENT}
    assert stored() == [answer.json]


@pytest.mark.both
@pytest.mark.parametrize("data", [None, False, 0, 1.5, "", "text", [], [{"a": None}], {}], ids=str)
def test_data_may_be_any_json_value(define, send, stored, data):
    answer = send({"data": data}, define("release"))
    assert params(answer.json) == {"event": {**EVENT, "data": data}, "data": data}
    assert stored() == [answer.json]


@pytest.mark.parametrize("data", [None, {"a": 1}], ids=["null", "object"])
def test_data_and_data_base64_together_are_400(define, send, stored, data):
    answer = send({"data": data, "data_base64": "MTI="}, define("release"))
    assert answer.status_code == 400
    assert stored() == []


def test_every_violation_is_named(define, client, stored):
    define("release")
    event = {"specversion": "0.3", "id": "", "time": "now", "Team": 1, "load": 1.5,
             "data_base64": "!"}
    answer = client.post("/api/v2/event?workflow=", content_type=STRUCTURED, data=json.dumps(event))
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {"workflow", "source", "type", *event}
    assert stored() == []


def test_every_violation_of_a_binary_event_is_named(define, send_binary, stored):
    headers = {"ce-specversion": "0.3", "ce-id": "%FF", "ce-source": "a b", "ce-time": "now",
               "ce-datacontenttype": "application/json", "ce-my-team": "a"}
    answer = send_binary(headers, b"{", define("release"))
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {
        "specversion", "id", "source", "time", "datacontenttype", "my-team", "data"}
    assert stored() == []


# Binary mode

@pytest.mark.parametrize("header, value", [
    ("plain text", "plain text"), ("caf%C3%A9", "café"), ("caf%c3%a9", "café"), ("€", "€"),
    ('"quoted"', "quoted"), (r'"a\"b\\c"', r'a"b\c'), (r"a\"b", r"a\"b"), ('"a%22b"', 'a"b'),
    ("100%25", "100%"), ("%2541", "%41"), ("a+b", "a+b"), ("%20", " ")])
def test_a_header_is_decoded_exactly_once(define, send_binary, stored, header, value):
    as_wsgi_has_it = header.encode().decode("latin-1")
    answer = send_binary({"ce-subject": as_wsgi_has_it}, b"", define("release"))
    assert answer.status_code == 200, answer.text
    assert params(answer.json)["event"]["subject"] == value
    assert stored() == [answer.json]


@pytest.mark.parametrize("header", ["%FF", "%C3", "%ED%A0%80", "%C0%80", "caf\xe9", '"%E9"'])
def test_a_header_that_is_not_utf_8_is_400(define, send_binary, stored, header):
    answer = send_binary({"ce-subject": header}, b"", define("release"))
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {"subject"}
    assert stored() == []


@pytest.mark.parametrize("value", ["application/json", "text/plain", ""])
def test_a_ce_datacontenttype_header_is_400(define, send_binary, stored, value):
    answer = send_binary({"ce-datacontenttype": value}, b"{}", define("release"))
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {"datacontenttype"}
    assert stored() == []


@pytest.mark.parametrize("body, expected", [
    (b"", {}), (b"null", {"data": None}), (b'"text"', {"data": "text"}), (b"[1]", {"data": [1]})])
def test_a_binary_events_data_is_its_body(define, send_binary, stored, body, expected):
    answer = send_binary({}, body, define("release"), "application/json; charset=utf-8")
    event = {**EVENT, "datacontenttype": "application/json; charset=utf-8", **expected}
    assert params(answer.json) == {"event": event, **expected}
    assert stored() == [answer.json]


@pytest.mark.parametrize("content_type", [None, "application/vnd.api+json", PLAIN])
@pytest.mark.parametrize("body, expected", [(b"", {}), (b'{"n": 1}', {"data": {"n": 1}})])
def test_a_binary_event_may_have_no_content_type_or_one_of_its_own(
        define, send_binary, stored, content_type, body, expected):
    answer = send_binary({}, body, define("release"), content_type)
    own = {"datacontenttype": content_type} if content_type else {}
    assert params(answer.json) == {"event": {**EVENT, **own, **expected}, **expected}
    assert stored() == [answer.json]


@pytest.mark.parametrize("header, source", [
    ("/a%2520b", "/a%20b"), ("/a%20b", None), ("%2Fa%2520b", "/a%20b"), ("/a%252520b", "/a%2520b"),
    ("/a b", None), ('"/a%2520b"', "/a%20b")])
def test_a_source_with_an_escape_in_it_has_its_percent_sign_escaped(
        define, send_binary, stored, header, source):
    """CloudEvents HTTP binding 3.1.3.2: who sends MUST escape a percent sign, who receives undoes
    one round. So `/a%20b` as Go's and Java's libraries send it says `/a b`, which is no
    URI-reference: 400, saying how it is sent. To take it for the source that it may have been would
    give one source two names, and repeats would start twice."""
    answer = send_binary({"ce-source": header}, b"", define("release"))
    if source is None:
        assert answer.status_code == 400 and "%25" in answer.json["errors"]["source"][0]
        assert stored() == []
    else:
        assert params(answer.json) == {"event": {**EVENT, "source": source,
                                                 "datacontenttype": PLAIN}}


@pytest.mark.parametrize("body", [b"{", b"text", b'"\xff"', b"NaN"])
def test_a_binary_event_with_malformed_data_is_400(define, send_binary, stored, body):
    assert send_binary({}, body, define("release")).status_code == 400
    assert stored() == []


# Which workflow starts

@pytest.mark.parametrize("subject", [
    "/release/x", "release/x/y", "release", "/release", "release/"])
def test_the_subjects_first_segment_may_name_the_workflow(define, send, stored, subject):
    define("release"), define("other")
    answer = send({"subject": subject})
    assert answer.json["workflowRef"] == "release"
    assert stored() == [answer.json]


def test_the_query_goes_before_the_subject(define, send, stored):
    define("release"), define("other")
    assert send({"subject": "/release/x"}, "other").json["workflowRef"] == "other"
    assert len(stored()) == 1


@pytest.mark.parametrize("subject", [ABSENT, "nightly/x", "x/release", "release.x"])
def test_a_subject_that_names_no_workflow_leaves_it_to_the_conditions(
        define, send, stored, subject):
    define("off", triggers={"event": {"enabled": False}})
    define("other", triggers=when("event.type", "other"))
    define("release", triggers=when("event.type", "build.done"))
    answer = send({"subject": subject})
    assert answer.json["workflowRef"] == "release"
    assert stored() == [answer.json]


def test_no_willing_workflow_is_404(define, send, stored):
    define("release", triggers=when("event.type", "other"))
    assert send({"subject": "nightly/x"}).status_code == 404
    assert send({}, "nightly").status_code == 404
    assert stored() == []


@pytest.mark.parametrize("subject", [ABSENT, "payroll/x"])
def test_a_trigger_without_conditions_takes_named_events_only(define, send, stored, subject):
    define("release")
    assert send({"subject": subject}).status_code == 404
    assert stored() == []


def test_several_willing_workflows_are_400_naming_them(define, send, stored):
    for name in ("one", "two"):
        define(name, triggers=when("event.type", "build.done"))
    answer = send()
    assert answer.status_code == 400
    assert "one" in answer.json["detail"] and "two" in answer.json["detail"]
    assert stored() == []


@pytest.mark.parametrize("query, subject", [("release", "a"), (None, "release/a")],
                         ids=["named by the query", "named by the subject"])
def test_a_disabled_trigger_is_403(define, send, stored, query, subject):
    define("willing"), define("release", triggers={"event": {"enabled": False}})
    assert send({"subject": subject}, query).status_code == 403
    assert stored() == []


@pytest.mark.parametrize("query, subject", [("release", "a"), (None, "release/a")],
                         ids=["named by the query", "named by the subject"])
def test_a_condition_that_does_not_hold_skips_and_stores_nothing(
        define, send, stored, query, subject):
    define("willing"), define("release", triggers=when("event.type", "other"))
    answer = send({"subject": subject}, query)
    assert answer.status_code == 200
    assert answer.json.keys() == {"status", "workflowRef", "statusMessage"}
    assert (answer.json["status"], answer.json["workflowRef"]) == ("skipped", "release")
    assert "event.type" in answer.json["statusMessage"]
    assert stored() == []


@pytest.mark.parametrize("field, value", [
    ("event.team", 7), ("event.data.n", 1), ("data.n", 1), ("environment", "staging")])
def test_a_condition_looks_at_the_event_its_data_and_the_declared(
        define, send, stored, field, value):
    define("release", params=[{"name": "environment", "defaultValue": "staging"}],
           triggers=when(field, value))
    assert send({"team": 7, "data": {"n": 1}}, "release").json["status"] == "succeeded"
    assert send({"id": "2", "data": {"environment": ""}}, "release").json["status"] == "skipped"
    assert len(stored()) == 1


# Parameters

@pytest.mark.parametrize("data, expected", [
    ({"environment": "live", "ticket": 7}, {"environment": "live", "ticket": 7}),
    ({}, {"environment": "staging"}), (["environment"], {"environment": "staging"}),
    ("environment", {"environment": "staging"}), (None, {"environment": "staging"})], ids=str)
def test_a_declared_parameter_comes_from_the_data_or_its_default(
        define, send, stored, data, expected):
    define("release", params=[{"name": "environment", "defaultValue": "staging"},
                              {"name": "ticket"}])
    answer = send({"data": data}, "release")
    assert params(answer.json) == {"event": {**EVENT, "data": data}, "data": data, **expected}
    assert stored() == [answer.json]


def test_declared_parameters_named_data_and_event_yield_to_what_arrived(define, send, stored):
    define("release", params=[{"name": "data", "defaultValue": 1}, {"name": "event"}])
    data = {"data": "mine", "event": "mine"}
    answer = send({"data": data}, "release")
    assert params(answer.json) == {"event": {**EVENT, "data": data}, "data": data}
    assert stored() == [answer.json]
    without = {name: value for name, value in EVENT.items() if name != "data"}
    assert params(send({"id": "2"}, "release").json) == {"event": {**without, "id": "2"}, "data": 1}


# Repeats

def test_an_event_is_known_by_its_source_and_id_whatever_the_definition_names(define, send, stored):
    define("release", wait_task("tests"), deliveryId="data.n")
    first, other = (send({"id": number, "data": {"n": 1}}, "release").json for number in "12")
    assert first["id"] != other["id"]
    assert send({"id": "1", "data": {"n": 2}}, "release").json == first


@pytest.mark.both
def test_the_same_source_and_id_answer_with_the_first_run(define, send, send_binary, stored):
    run = send({"data": 1}, define("release", wait_task("tests"))).json
    assert send({"data": 2, "type": "other"}, "release").json == run
    assert send_binary({}, b"3", "release").json == run
    assert stored() == [run]


@pytest.mark.both
def test_a_repeat_answers_with_the_run_as_it_stands_now(define, send, callback, clock, stored):
    run = send({}, define("release", wait_task("tests"))).json
    clock.advance(minutes=1)
    callback(run, "tests", json={})
    repeat = send({}, "release").json
    assert (repeat["id"], repeat["status"], repeat["duration"]) == (run["id"], "succeeded", 60_000)
    assert stored() == [repeat]


@pytest.mark.both
@pytest.mark.parametrize("other", [{"id": "2"}, {"source": "/cd"}, {"id": "i1", "source": "/c"}],
                         ids=["another id", "another source", "the same letters"])
def test_another_source_or_id_is_another_run(define, send, stored, other):
    define("release"), send({}, "release"), send(other, "release")
    assert len({run["id"] for run in stored()}) == 2


@pytest.mark.both
def test_a_source_and_id_count_for_one_workflow_only(define, send, stored):
    for name in ("one", "two"):
        assert send({}, define(name)).status_code == 200
    assert {run["workflowRef"] for run in stored()} == {"one", "two"}


@pytest.mark.both
@pytest.mark.parametrize("query, subject", [("release", "a"), (None, "release/a"), (None, "a")],
                         ids=["named by the query", "named by the subject", "found by conditions"])
@pytest.mark.parametrize("triggers", [
    {"event": {"enabled": False}}, when("event.type", "other")],
    ids=["trigger disabled", "conditions changed"])
def test_a_repeat_is_recognised_before_trigger_and_conditions(
        define, send, stored, triggers, query, subject):
    define("release", triggers=when("event.type", "build.done"))
    run = send({"subject": subject}, query).json
    define("release", triggers=triggers)
    define("newcomer")
    answer = send({"subject": subject}, query)
    assert (answer.status_code, answer.json) == (200, run)
    assert stored() == [run]


# The CNCF SDK as a sender

@pytest.mark.parametrize("data, expected", [
    ({"message": "Hello World!"}, {"data": {"message": "Hello World!"}}), (None, {})],
    ids=["README's example", "no data"])
def test_the_cloudevents_sdk_sends_binary_events_without_a_content_type(
        client, define, stored, data, expected):
    """The example of its README ("Creating a minimal CloudEvent"), which names no media type."""
    message = to_binary(CloudEvent({"type": "com.example.event", "source": "/myapp", "id": "1",
                                    "time": datetime(2026, 11, 23, tzinfo=timezone.utc)}, data),
                        JSONFormat())
    headers = {name: value for name, value in message.headers.items()
               if name.lower() != "content-type"}
    answer = client.post("/api/v2/event", query_string={"workflow": define("release")},
                         data=message.body, headers=headers)
    assert answer.status_code == 200, answer.text
    event = params(answer.json)["event"]
    assert (event["source"], "datacontenttype" in event) == ("/myapp", False)
    assert {name: event[name] for name in expected} == expected
    assert stored() == [answer.json]


@pytest.mark.both
@pytest.mark.parametrize("mode", [to_structured, to_binary])
def test_the_cloudevents_sdk_starts_a_run(client, define, stored, mode):
    define("release", wait_task("tests"), triggers=when("event.team", "größe 100% \"✓\""))
    message = mode(CloudEvent({
        "id": "ä-1", "source": "https://ci.example/builds", "type": "build.done",
        "subject": "release/größe", "team": "größe 100% \"✓\"", "datacontenttype": PLAIN,
        "time": datetime(2026, 11, 23, 9, 0, tzinfo=timezone.utc)}, {"név": "é"}), JSONFormat())
    answer = client.post("/api/v2/event", data=message.body, headers=message.headers)
    assert answer.status_code == 200, answer.text
    event = params(answer.json)["event"]
    assert datetime.fromisoformat(event.pop("time")).timestamp() == 1_795_424_400
    assert event == {
        "specversion": "1.0", "id": "ä-1", "source": "https://ci.example/builds",
        "type": "build.done", "subject": "release/größe", "team": "größe 100% \"✓\"",
        "datacontenttype": PLAIN, "data": {"név": "é"}}
    assert answer.json["workflowRef"] == "release"
    assert stored() == [answer.json]
