"""Resolving what a run waits for (contract 4.3, 4.4)."""
import pytest
from conftest import statuses, wait_task

UNKNOWN_RUN = {"id": "0" * 32}


@pytest.fixture
def waiting(define, start):
    """A run whose only task waits on the topic `tests`, for five minutes."""
    return start(define("release", wait_task("tests", timeout=5)))


@pytest.fixture
def chain(define, start):
    """A run of three tasks, each waiting for the one before to succeed."""
    return start(define("release", wait_task("build"), wait_task("tests", build="success"),
                        wait_task("approval", tests="success")))


def results(run):
    """The results of each task by name."""
    return {task["name"]: task["results"] for task in run["tasks"]}


def data(payload):
    """The results of a task that a callback with this payload has ended."""
    return [{"name": "data", "value": payload}]


# What a callback does

@pytest.mark.both
def test_a_callback_ends_every_waiting_task_of_its_topic(define, start, callback, show):
    run = start(define("release", wait_task("unit", "tests"), wait_task("lint", "tests"),
                       wait_task("docs")))
    assert callback(run, "tests", json={"passed": 12}).status_code == 200
    stored = show(run)
    assert statuses(stored) == {"unit": "succeeded", "lint": "succeeded", "docs": "waiting"}
    assert results(stored) == {"unit": data({"passed": 12}), "lint": data({"passed": 12}),
                               "docs": []}
    assert stored["status"] == "running"


@pytest.mark.parametrize("payload", [{}, None], ids=["POST", "GET"])
def test_the_answer_is_empty(waiting, callback, payload):
    answer = callback(waiting, "tests", json=payload)
    assert (answer.status_code, answer.data) == (200, b"")
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize("payload", [{"n": 1}, None], ids=["POST", "GET"])
@pytest.mark.parametrize("status, end", [
    (None, "succeeded"), ("succeeded", "succeeded"), ("SUCCEEDED", "succeeded"),
    ("failed", "failed"), ("Failed", "failed"), ("fAILED", "failed")])
def test_a_status_counts_in_any_case(waiting, callback, show, payload, status, end):
    assert callback(waiting, "tests", status, json=payload).status_code == 200
    stored = show(waiting)
    assert statuses(stored) == {"tests": end}
    assert results(stored) == {"tests": data(payload) if payload else []}
    assert stored["status"] == end


def test_a_topic_belongs_to_its_run(define, start, callback, show):
    one, other = (start(define("release", wait_task("tests"))) for _ in range(2))
    callback(one, "tests", json={})
    assert statuses(show(one)) == {"tests": "succeeded"}
    assert show(other) == other


@pytest.mark.both
@pytest.mark.parametrize("topic", ["a b", "größe/✓", "a+b&c=d#e", "100%", "' OR 1=1 --", "t" * 255])
def test_a_topic_may_be_any_text(define, start, callback, show, topic):
    run = start(define("release", wait_task("tests", topic)))
    assert callback(run, topic, json={}).status_code == 200
    assert statuses(show(run)) == {"tests": "succeeded"}


# What is refused

@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("query, field", [
    ("topic=tests", "workflowrun"), ("workflowrun=&topic=tests", "workflowrun"),
    ("workflowrun={id}&workflowrun={id}&topic=tests", "workflowrun"),
    ("workflowrun={id}&topic=", "topic"), ("workflowrun={id}&status=failed", "topic"),
    ("workflowrun={id}&workflow=release&topic=tests", "workflowrun"),
    ("workflow=release&topic=tests", "correlate"), ("correlate=a&topic=tests", "workflow"),
    ("workflowrun={id}&topic=tests&topic=tests", "topic"),
    ("workflowrun={id}&topic=tests&status=", "status"),
    ("workflowrun={id}&topic=tests&status=failed&status=failed", "status"),
    ("workflowrun={id}&topic=tests&status=done", "status"),
    ("workflowrun={id}&topic=tests&status=timedout", "status"),
    ("workflowrun={id}&topic=tests&status=succeeded%20", "status"),
    ("workflowrun={id}&topic=tests&status=%C5%BFucceeded", "status")])
def test_a_wrong_parameter_is_400_naming_it(client, waiting, show, method, query, field):
    answer = client.open(f"/api/v2/callback?{query.format(**waiting)}", method=method,
                         json={} if method == "POST" else None)
    assert answer.status_code == 400
    assert answer.json["errors"].keys() == {field}
    assert show(waiting) == waiting


def test_all_mistakes_are_named_together(client, waiting, show):
    answer = client.post("/api/v2/callback?workflowrun=&status=done", data=b"[]",
                         content_type="application/json")
    assert answer.status_code == 400
    assert answer.json["errors"].keys() > {"workflowrun", "topic", "status"}
    assert len(answer.json["errors"]) == 4
    assert show(waiting) == waiting


@pytest.mark.parametrize("content_type, body, code", [
    ("application/json", b"", 400), ("application/json", b"[]", 400),
    ("application/json", b"null", 400), ("application/json", b"{", 400), (None, b"", 415),
    ("text/plain", b"passed", 415), ("text/plain", b"[]", 400), ("text/html", b"{}", 415),
    ("application/vnd.api+json", b"[]", 400), ("multipart/form-data; boundary=x", b"{}", 415),
    ("application/json; charset=latin-1", b"{}", 415)])
def test_a_body_must_be_a_json_object(client, waiting, show, content_type, body, code):
    answer = client.post(f"/api/v2/callback?workflowrun={waiting['id']}&topic=tests", data=body,
                         content_type=content_type)
    assert answer.status_code == code
    assert show(waiting) == waiting


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/vnd.api+json"])
def test_json_is_taken_where_the_sender_forgot_to_say_so(client, waiting, show, content_type):
    query = f"workflowrun={waiting['id']}&topic=tests"
    for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://localhost"}):
        answer = client.post(f"/api/v2/callback?{query}", data=b'{"passed": 41}', headers=foreign,
                             content_type=content_type)
        if content_type and "json" in content_type:
            continue
        assert answer.status_code == 403 and show(waiting) == waiting
    answer = client.post(f"/api/v2/callback?{query}", data=b'{"passed": 41}',
                         content_type=content_type)
    assert (answer.status_code, answer.data) == (200, b"")
    assert show(waiting)["tasks"][0]["results"] == [{"name": "data", "value": {"passed": 41}}]


@pytest.mark.both
@pytest.mark.parametrize("payload", [{}, None], ids=["POST", "GET"])
def test_an_unknown_run_or_topic_is_404(waiting, callback, show, payload):
    assert callback(UNKNOWN_RUN, "tests", json=payload).status_code == 404
    assert callback(waiting, "release", json=payload).status_code == 404
    assert callback(waiting, "Tests", json=payload).status_code == 404
    assert show(waiting) == waiting


# Callbacks that come early

@pytest.mark.both
def test_an_early_callback_is_remembered(chain, callback, show):
    assert callback(chain, "tests", json={"early": 1}).status_code == 200
    assert statuses(show(chain)) == {
        "build": "waiting", "tests": "notstarted", "approval": "notstarted"}
    callback(chain, "build", json={"on": "time"})
    stored = show(chain)
    assert statuses(stored) == {"build": "succeeded", "tests": "succeeded", "approval": "waiting"}
    assert results(stored) == {
        "build": data({"on": "time"}), "tests": data({"early": 1}), "approval": []}


@pytest.mark.both
def test_a_chain_of_early_callbacks_ends_with_the_first_task(chain, callback, clock, show):
    callback(chain, "approval", json={"n": 3}), callback(chain, "tests")
    clock.advance(minutes=1)
    callback(chain, "build", json={"n": 1})
    stored = show(chain)
    assert set(statuses(stored).values()) == {"succeeded"}
    assert results(stored) == {"build": data({"n": 1}), "tests": [], "approval": data({"n": 3})}
    assert [task["duration"] for task in stored["tasks"]] == [60_000, 0, 0]
    assert stored["status"] == "succeeded"


def test_an_early_failure_fails_the_task_as_it_starts(chain, callback, show):
    callback(chain, "tests", "failed", json={"why": "flaky"}), callback(chain, "build")
    stored = show(chain)
    assert statuses(stored) == {"build": "succeeded", "tests": "failed", "approval": "skipped"}
    assert results(stored)["tests"] == data({"why": "flaky"})
    assert stored["status"] == "failed"


def test_an_early_callback_does_not_keep_its_task_from_being_skipped(chain, callback, show):
    callback(chain, "tests", json={"n": 1}), callback(chain, "build", "failed")
    assert statuses(show(chain)) == {
        "build": "failed", "tests": "skipped", "approval": "skipped"}
    assert callback(chain, "tests", json={"n": 2}).status_code == 200  # a repeat, as it was kept
    assert callback(chain, "tests", "failed", json={}).status_code == 409


def test_one_callback_ends_the_waiting_and_is_remembered_by_the_others(
        define, start, callback, show):
    run = start(define("release", wait_task("unit", "tests"),
                       wait_task("slow", "tests", unit="success"), wait_task("docs")))
    callback(run, "tests", json={"n": 1})
    stored = show(run)
    assert statuses(stored) == {"unit": "succeeded", "slow": "succeeded", "docs": "waiting"}
    assert results(stored)["slow"] == data({"n": 1})


# Repeats and conflicts

@pytest.mark.both
@pytest.mark.parametrize("topic", ["build", "tests"], ids=["ended", "remembered"])
@pytest.mark.parametrize("status", [None, "failed"])
@pytest.mark.parametrize("payload", [{"n": 2}, None], ids=["POST", "GET"])
def test_a_repeat_changes_nothing(chain, callback, clock, show, topic, status, payload):
    callback(chain, topic, status, json={"n": 1})
    clock.advance(minutes=1)
    before = show(chain)
    assert callback(chain, topic, status, json=payload).status_code == 200
    assert show(chain) == before
    callback(chain, "build", json={})
    assert results(show(chain))[topic] == data({"n": 1})


def ended(chain, callback, flask, clock):
    callback(chain, "build", json={})


def timed_out(chain, callback, flask, clock):
    clock.advance(minutes=6)


def skipped(chain, callback, flask, clock):
    callback(chain, "build", "failed")


def cancelled(chain, callback, flask, clock):
    flask("workflowrun", "cancel", chain["id"])


def remembered(chain, callback, flask, clock):
    callback(chain, "tests", json={})


@pytest.mark.parametrize("happens, topic, status, said", [
    (ended, "build", "failed", "succeeded"), (skipped, "build", "succeeded", "failed"),
    (timed_out, "build", "succeeded", "timedout"), (timed_out, "build", "failed", "timedout"),
    (skipped, "tests", "succeeded", "skipped"), (skipped, "approval", "failed", "skipped"),
    (cancelled, "build", "succeeded", "cancelled"), (cancelled, "tests", "failed", "cancelled"),
    (remembered, "tests", "failed", "succeeded")])
@pytest.mark.parametrize("payload", [{"n": 2}, None], ids=["POST", "GET"])
def test_a_topic_that_has_ended_otherwise_is_409_saying_how(
        define, start, callback, flask, clock, show, happens, topic, status, said, payload):
    run = start(define("release", wait_task("build", timeout=5),
                       wait_task("tests", build="success"), wait_task("approval", tests="success")))
    happens(run, callback, flask, clock)
    before = show(run)
    answer = callback(run, topic, status, json=payload)
    assert answer.status_code == 409
    assert said in answer.json["detail"]
    assert show(run) == before


@pytest.mark.both
def test_a_topic_with_one_task_ended_and_one_waiting_takes_a_callback(
        define, start, callback, clock, show):
    run = start(define("release", wait_task("fast", "tests", timeout=5),
                       wait_task("slow", "tests")))
    clock.advance(minutes=6)
    assert callback(run, "tests", "failed", json={"n": 1}).status_code == 200
    stored = show(run)
    assert statuses(stored) == {"fast": "timedout", "slow": "failed"}
    assert results(stored) == {"fast": [], "slow": data({"n": 1})}
    assert callback(run, "tests", "failed").status_code == 200
    answer = callback(run, "tests", "succeeded")
    assert answer.status_code == 409
    assert "timedout" in answer.json["detail"] and "failed" in answer.json["detail"]
    assert show(run) == stored


@pytest.mark.both
@pytest.mark.parametrize("topic, code", [("tests", 409), ("nothing", 404)])
def test_a_timeout_that_a_refused_callback_notices_stays(
        waiting, callback, clock, show, topic, code):
    clock.advance(minutes=6)
    assert callback(waiting, topic, json={}).status_code == code
    clock.advance(minutes=-6)
    stored = show(waiting)
    assert statuses(stored) == {"tests": "timedout"}
    assert (stored["status"], results(stored)) == ("failed", {"tests": []})


# Links, browsers and robots

def test_head_is_405_and_changes_nothing(client, waiting, show):
    answer = client.head(f"/api/v2/callback?workflowrun={waiting['id']}&topic=tests")
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))
    assert "HEAD" not in answer.headers["Allow"]
    assert show(waiting) == waiting


@pytest.mark.parametrize("header, value", [
    ("Sec-Purpose", "prefetch"), ("Sec-Purpose", "prefetch;prerender"), ("Purpose", "prefetch"),
    ("purpose", "Prefetch")])
def test_a_prefetch_is_503_and_changes_nothing(client, waiting, show, header, value):
    answer = client.get(f"/api/v2/callback?workflowrun={waiting['id']}&topic=tests",
                        headers={header: value})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "0")
    assert answer.content_type == "application/problem+json"
    assert show(waiting) == waiting


@pytest.mark.parametrize("header, value", [("Sec-Purpose", "navigate"), ("Purpose", "preview")])
def test_another_purpose_resolves(client, waiting, show, header, value):
    client.get(f"/api/v2/callback?workflowrun={waiting['id']}&topic=tests", headers={header: value})
    assert statuses(show(waiting)) == {"tests": "succeeded"}
