"""What a run takes of what arrived: topics, messages and its correlate (contract 3, 11)."""
import json

import pytest
from conftest import sql, wait_task


def message(text):
    return {**wait_task("t"), "message": text}


@pytest.mark.both
@pytest.mark.parametrize("written, filled", [
    ("pr-$(params.data.pr)", "pr-42"), ("$(params.env)", "staging"), ("$(params.data.yes)", "true"),
    ("$(params.data.half)", "1.5"), ("$(params.data.a.b)$(params.data.pr)", "c42"),
    ("$(params.data.none)", "$(params.data.none)"), ("$(params.data.null)", "$(params.data.null)"),
    ("$(params.data.list)", "$(params.data.list)"), ("$(params.data)", "$(params.data)"),
    ("$(params.data.list.0)", "$(params.data.list.0)"), ("$(context.x) $(params.)",
                                                         "$(context.x) $(params.)"),
    ("$(params.data.again)", "$(params.data.pr)"), ("$(params.header.host)",
                                                    "$(params.header.host)"),
    ("<$(params.data.control)>", "<a b c d e>"), ("line\n$(params.data.pr)", "line\n42"),
])
def test_values_are_filled_into_topics_and_messages(define, start, show, written, filled):
    define("w", {**wait_task("t", written), "message": written},
           params=[{"name": "env", "defaultValue": "staging"}])
    run = start("w", {"pr": 42, "yes": True, "half": 1.5, "a": {"b": "c"}, "null": None,
                      "list": [1], "again": "$(params.data.pr)",
                      "control": "a\nb\0c\x9fd\u202ee"})
    task, = run["tasks"]
    assert task["params"] == [{"name": "topic", "value": filled}]
    assert task["message"] == filled
    assert show(run) == run


def test_a_filled_topic_is_what_a_callback_names(define, start, callback, show):
    run = start(define("w", wait_task("t", "pr-$(params.data.pr)")), {"pr": 42})
    assert callback(run, "pr-$(params.data.pr)").status_code == 404
    assert callback(run, "pr-42").status_code == 200
    assert show(run)["status"] == "succeeded"


@pytest.mark.parametrize("value, code", [
    ("", 400), (" ", 400), ("\n", 400), ("x" * 256, 400), ("x" * 255, 200), ("0", 200)],
    ids=["empty", "blank", "line end", "256", "255", "0"])
def test_a_topic_that_cannot_be_one_once_filled_is_400(define, client, flask, value, code):
    define("w", wait_task("fine"), wait_task("t", "$(params.data.x)"))
    answer = client.post("/api/v2/webhook?workflow=w", json={"x": value})
    assert answer.status_code == code
    if code == 400:
        assert "task 't'" in answer.json["errors"]["topic"][0]
    assert len(flask.json("workflowrun", "list", "--json")) == (code == 200)


def test_a_message_is_cut_at_2000_characters(define, start):
    run = start(define("w", message("$(params.data.x)!")), {"x": "é" * 3000})
    assert run["tasks"][0]["message"] == "é" * 2000


@pytest.mark.parametrize("written", [None, ""])
def test_a_task_without_a_message_shows_none(define, start, written):
    assert "message" not in start(define("w", message(written)))["tasks"][0]


@pytest.mark.both
@pytest.mark.parametrize("value, kept", [
    ("9a1f", "9a1f"), (7, "7"), (1.5, "1.5"), (True, "true"), ("x" * 255, "x" * 255),
    ("x" * 256, None), ("", None), (None, None), ([1], None), ({}, None), ("a\0b", None)], ids=str)
def test_a_run_keeps_the_value_at_correlate(define, start, show, database_url, value, kept):
    run = start(define("w", wait_task("t"), correlate="data.x"), {"x": value})
    assert run.get("correlate") == kept and show(run) == run
    assert sql(database_url, "SELECT correlate FROM workflow_run") == [(kept,)]


def test_a_run_without_its_value_has_no_correlate(define, start):
    assert "correlate" not in start(define("w", correlate="data.x.y"), {"x": 1})
    assert "correlate" not in start(define("v"), {"x": 1})


def test_a_definition_may_name_its_runs_by_a_header(define, start):
    run = start(define("w", correlate="header.X-Request-ID"), X_Request_ID="r-1")
    assert run["correlate"] == "r-1"
    assert [param["name"] for param in run["params"]] == ["data"]


def test_an_event_is_kept_by_its_attribute(define, client):
    define("w", correlate="subject")
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "w/7"}
    assert client.post("/api/v2/event", json=event).json["correlate"] == "w/7"


@pytest.mark.both
def test_who_may_end_a_task_is_kept_with_the_run(define, start, database_url):
    start(define("w", {**wait_task("a"), "resolvers": ["link", "ci"]}, wait_task("b")))
    define("w")
    rows = sql(database_url, "SELECT resolvers FROM task_run ORDER BY position")
    assert [text and json.loads(text) for text, in rows] == [["link", "ci"], None]


# flask workflow try

@pytest.fixture
def attempt(flask, tmp_path):
    def attempt(payload, *options):
        file = tmp_path / "payload.json"
        file.write_text(json.dumps(payload))
        result = flask("workflow", "try", "w", "--payload", file, *options)
        return result.exit_code, result.output
    return attempt


def test_try_takes_headers(define, attempt):
    condition = {"field": "header.x-github-event", "operation": "equals", "value": "push"}
    define("w", triggers={"webhook": {"conditions": [condition]}})
    code, said = attempt({}, "--header", "X-GitHub-Event: push", "--header", "X-Other:a:b")
    assert code == 0 and 'found "push"' in said
    code, said = attempt({}, "--header", "X-GitHub-Event: release")
    assert code == 1 and 'found "release"' in said
    code, said = attempt({})
    assert code == 1 and "found missing" in said


def test_try_takes_an_events_headers(define, attempt):
    condition = {"field": "header.x-kind", "operation": "equals", "value": "a:b"}
    define("w", triggers={"event": {"conditions": [condition]}})
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    assert attempt(event, "--event", "--header", "X-Kind: a:b")[0] == 0


def test_try_refuses_what_is_no_header(define, attempt):
    define("w")
    code, said = attempt({}, "--header", "X-Kind")
    assert code == 2 and "--header: write 'X-GitHub-Event: push'" in said


def test_try_says_when_a_topic_could_not_be_filled(define, attempt):
    define("w", wait_task("t", "$(params.data.x)"))
    assert attempt({"x": "y"})[0] == 0
    code, said = attempt({"x": ""})
    assert code == 1 and "topic: " in said
