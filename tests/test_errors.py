"""Hostile requests, broken databases, bugs: every refusal is a problem document (contract 4.7)."""
import io
import json
import logging
import re
import sqlite3
from time import process_time

import pytest
from conftest import statuses, wait_task
from inside import close_database

from app import create_app
from web.logs import Line, request_line

LIMIT = 1_048_576
JSON, CLOUDEVENT = "application/json", "application/cloudevents+json"
LEAK = re.compile(r"traceback|file \"|line \d+, in|\.py\b|/tmp/|/work/|/dev/shm|site-packages"
                  r"|sqlite|peewee"
                  r"|\b(select|insert|update|begin)\b.*\b(from|into|set|immediate)\b", re.I)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signalbox.db"


@pytest.fixture
def run(define, start):
    """The one run there is before a hostile request, waiting on the topic `tests`."""
    return start(define("release", wait_task("tests")))


@pytest.fixture
def unchanged(flask, run):
    """Assert that nothing was stored since: unchanged()."""
    def unchanged():
        assert flask.json("workflowrun", "list", "--json") == [run]
    return unchanged


@pytest.fixture
def send(client, run):
    """Send bytes to an endpoint as its usual sender would: send("event", b"{}")."""
    queries = {"webhook": {"workflow": "release"}, "event": {"workflow": "release"},
               "callback": {"workflowrun": run["id"], "topic": "tests"}}

    def send(endpoint, body, content_type=JSON, **options):
        return client.post(f"/api/v2/{endpoint}", data=body, content_type=content_type,
                           **{"query_string": queries[endpoint], **options})
    return send


def assert_problem(answer, code=None):
    """The answer is a problem document that tells nothing about the inside."""
    assert answer.status_code == code or code is None and 400 <= answer.status_code < 500
    assert answer.content_type == "application/problem+json"
    if answer.request.method == "HEAD":
        return
    problem = answer.json
    assert problem.keys() - {"errors"} == {"type", "title", "status", "detail"}
    assert problem["status"] == answer.status_code
    assert all(isinstance(problem[key], str) and problem[key] for key in problem.keys()
               - {"status", "errors"})
    assert not LEAK.search(answer.text), answer.text


def wrapped(endpoint, value):
    """A request's body that is fine, if it were not for the value in it."""
    event = b'"specversion": "1.0", "id": "1", "source": "/ci", "type": "t", '
    return b'{%s"data": %s}' % (event if endpoint == "event" else b"", value)


def nested(levels, opened=b"[", closed=b"]"):
    """That many levels, of which the request's object is the first."""
    return opened * (levels - 1) + b"1" * (opened != b"[") + closed * (levels - 1)


# What a body may hold

HOSTILE_VALUES = {
    "raw NUL": b'"\0"',
    "NUL outside of text": b"\0",
    "raw lone surrogate": b'"\xed\xa0\x80"',
    "escaped lone surrogate": rb'"\ud800"',
    "escaped low surrogate": rb'"\uDC00"',
    "escaped surrogates in the wrong order": rb'"\udc00\ud800"',
    "escaped surrogate as a key": rb'{"\ud800": 1}',
    "201 arrays": nested(201),
    "201 objects": nested(201, b'{"a":', b"}"),
    "10,000 arrays": nested(10_000),
    "10,000 objects": nested(10_000, b'{"a":', b"}"),
    "10,000 arrays left open": b"[" * 10_000,
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"[-Infinity]",
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "1.0e999999999999": b"1.0e999999999999",
    "a float of 400 digits": b"9" * 400 + b".0",
    "an integer of 4,301 digits": b"9" * 4301,
    "a negative integer of 4,301 digits": b"-" + b"9" * 4301,
    "bad UTF-8": b'"\xff"',
    "overlong UTF-8": b'"\xc0\x80"',
    "UTF-8 cut short": b'"\xc3"',
    "a text left open": b'"text',
    "single quotes": b"'text'",
    "a comment": b"1 /* one */",
    "a leading zero": b"01",
    "a hexadecimal number": b"0x10",
}
FINE_VALUES = {
    "escaped NUL": rb'"\u0000"',
    "a surrogate pair": rb'"\ud83d\ude00"',
    "a surrogate that is only spelled": rb'"\\ud800"',
    "200 arrays": nested(200),
    "200 objects": nested(200, b'{"a":', b"}"),
    "brackets in a text": b'"' + b"[" * 10_000 + b'"',
    "10,000 arrays beside each other": b"[" + b"[]," * 9_999 + b"[]]",
    "an integer of 4,300 digits": b"9" * 4300,
    "a negative integer of 4,300 digits": b"-" + b"9" * 4300,
    "1e308": b"1e308",
    "1e-400": b"1e-400",
}
ENDPOINTS = pytest.mark.parametrize("endpoint", ["webhook", "event", "callback"])


@ENDPOINTS
@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES)
def test_a_malformed_value_is_400(send, unchanged, endpoint, value):
    assert_problem(send(endpoint, wrapped(endpoint, value)), 400)
    unchanged()


@pytest.mark.both
@ENDPOINTS
@pytest.mark.parametrize("value", FINE_VALUES.values(), ids=FINE_VALUES)
def test_an_unusual_value_is_taken(send, show, run, endpoint, value):
    answer = send(endpoint, wrapped(endpoint, value))
    assert answer.status_code == 200, answer.text[:300]
    if endpoint == "callback":
        assert statuses(show(run)) == {"tests": "succeeded"}
    else:
        assert show(answer.json) == answer.json


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES)
def test_a_malformed_value_of_a_binary_event_is_400(send, unchanged, value):
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/ci", "ce-type": "t"}
    assert_problem(send("event", b'{"data": %s}' % value, headers=headers), 400)
    unchanged()


# The rest of a request

def content_length(value, **environ):
    """Options of a request whose Content-Length is not the one of its body."""
    return {"environ_overrides": {"CONTENT_LENGTH": value, **environ}}


GUNICORN = {"wsgi.input_terminated": True}  # its input ends by itself, perhaps too early
CHUNKED = {"environ_overrides": {"HTTP_TRANSFER_ENCODING": "chunked", **GUNICORN}}
LONG, TOO_LONG = b'{"data": "' + b"a" * (LIMIT - 12) + b'"}', b'{"data": "' + b"a" * LIMIT + b'"}'
UTF_16 = '{"data": 1}'.encode("utf-16")
BLANKS = b" " * 3 * LIMIT
HOSTILE_REQUESTS = {  # what it is: (status, body, options of the request)
    "empty": (400, b"", {}),
    "blank": (400, b" \n", {}),
    "array": (400, b"[{}]", {}),
    "text": (400, b'"text"', {}),
    "null": (400, b"null", {}),
    "number": (400, b"1", {}),
    "two objects": (400, b"{}{}", {}),
    "a form": (400, b"status=failed", {}),
    "NUL behind it": (400, b"{}\0", {}),
    "UTF-16": (400, UTF_16, {}),
    "UTF-16 as it says": (415, UTF_16, {"content_type": f"{JSON}; charset=utf-16"}),
    "UTF-32": (400, '{"data": 1}'.encode("utf-32"), {}),
    "UTF-7": (415, b"{}", {"content_type": f"{JSON}; charset=utf-7"}),
    "an unknown charset": (415, b"{}", {"content_type": f"{JSON}; charset=x-unknown"}),
    "NUL in the content type": (415, b"{}", {"content_type": f"{JSON}\0"}),
    "a content type of 10,000 characters": (415, b"{}", {"content_type": f"a/{'b' * 10_000}"}),
    "no content type, no JSON": (415, b"x", {"content_type": None}),
    "cut short": (400, b'{"data": 1}', content_length("12")),
    "cut short behind gunicorn": (400, b'{"data": 1}', content_length("12", **GUNICORN)),
    "cut short to nothing": (400, b"", content_length("12")),
    "Content-Length of 20 digits": (413, b"{}", content_length("9" * 20)),
    "Content-Length below zero": (400, b"{}", content_length("-2")),
    "Content-Length that is none": (400, b"{}", content_length("two")),
    "one byte too many": (413, LONG + b" ", {}),
    "too long": (413, TOO_LONG, {}),
    "too long in chunks": (413, TOO_LONG, CHUNKED),
    "megabytes of blanks": (413, b"{}" + BLANKS, {}),
    "megabytes of blanks in chunks": (413, b"{}" + BLANKS, CHUNKED),
    "megabytes of blanks in front": (413, BLANKS + b"{}", CHUNKED),
}


@ENDPOINTS
@pytest.mark.parametrize("code, body, options", HOSTILE_REQUESTS.values(), ids=HOSTILE_REQUESTS)
def test_a_hostile_request_is_refused(send, unchanged, endpoint, code, body, options):
    assert_problem(send(endpoint, body, **options), code)
    unchanged()


@pytest.mark.both
@pytest.mark.parametrize("options", [{}, CHUNKED], ids=["whole", "chunked"])
def test_a_body_of_exactly_the_limit_is_taken(send, show, options):
    answer = send("webhook", LONG, **options)
    assert answer.status_code == 200
    assert show(answer.json)["params"][0]["value"] == {"data": "a" * (LIMIT - 12)}


HOSTILE_TEXTS = {
    "NUL": "%00", "NUL behind it": "release%00", "a lone surrogate": "%ED%A0%80",
    "a raw lone surrogate": "\xed\xa0\x80", "bad UTF-8": "%FF", "bad raw UTF-8": "\xff",
    "10,000 characters": "a" * 10_000, "256 characters": "a" * 256, "nothing": "",
    "another parameter": "a&{name}=b", "the same again": "release&{name}=release",
    "SQL": "'%20OR%201=1%20--", "a path": "../../etc/passwd", "a format": "%25s%7B0%7D",
}
QUERIES = {
    "webhook": ("POST", "workflow", "", b"{}"),
    "event": ("POST", "workflow", "", wrapped("event", b"1")),
    "run of a callback": ("POST", "workflowrun", "&topic=tests", b"{}"),
    "topic of a callback": ("POST", "topic", "&workflowrun={id}", b"{}"),
    "status of a callback": ("POST", "status", "&topic=tests&workflowrun={id}", b"{}"),
    "run of a link": ("GET", "workflowrun", "&topic=tests", None),
    "topic of a link": ("GET", "topic", "&workflowrun={id}", None),
    "status of a link": ("GET", "status", "&topic=tests&workflowrun={id}", None),
}


@pytest.mark.both
@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
@pytest.mark.parametrize("method, name, rest, body", QUERIES.values(), ids=QUERIES)
def test_a_hostile_parameter_is_refused(client, run, unchanged, method, name, rest, body, text):
    endpoint = "callback" if rest else "event" if len(body) > 2 else "webhook"
    query = f"{name}={text.format(name=name)}{rest.format(**run)}"
    answer = client.open(f"/api/v2/{endpoint}", method=method, data=body,
                         content_type=JSON if body else None,
                         environ_overrides={"QUERY_STRING": query})
    certain = name == "status" or len(text) > 255 or not text or "&" in text or "%00" in text
    assert_problem(answer, 400 if certain else None)
    unchanged()


@pytest.mark.parametrize("header, value", [
    ("ce-subject", "%00"), ("ce-subject", "%ED%A0%80"), ("ce-subject", "\xed\xa0\x80"),
    ("ce-subject", "\0"), ("ce-subject", ""), ("ce-id", ""), ("ce-source", "%25%25"),
    ("ce-time", "9" * 10_000), ("ce-x-y", "1"), ("ce-", "1"), ("ce-data", "1")], ids=ascii)
def test_a_hostile_header_of_an_event_is_400(send, unchanged, header, value):
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/ci", "ce-type": "t"}
    assert_problem(send("event", b"{}", headers={**headers, header: value}), 400)
    unchanged()


@pytest.mark.both
@pytest.mark.parametrize("key", ["", '""', '"\0"', '"\xed\xa0\x80"', "k" * 10_000], ids=ascii)
def test_a_hostile_idempotency_key_is_400(send, unchanged, key):
    assert_problem(send("webhook", b"{}", headers={"Idempotency-Key": key}), 400)
    unchanged()


def test_a_hostile_media_type_costs_no_time(send, unchanged):
    event = b'{"datacontenttype": "a/b' + b"; " * 24 + b'("}'
    started = process_time()
    assert_problem(send("event", event, CLOUDEVENT), 400)
    assert process_time() - started < 0.5
    unchanged()


# Paths and methods

@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
@pytest.mark.parametrize("path", [
    "/", "//", "/api/v2", "/api/v2/", "/api/v2/webhook/", "/api/v2//webhook",
    "/api/v2/callback/", "/api/v2/Callback", "/api/v1/webhook", "/api/v2/webhook/../event",
    "/api/v2/webhook\0", "/api/v2/\xff", "/static/x", "/../../etc/passwd", "/" + "a" * 10_000],
    ids=lambda path: ascii(path[:30]))
def test_an_unknown_path_is_404(client, run, unchanged, method, path):
    query = f"workflow=release&workflowrun={run['id']}&topic=tests"
    answer = client.open(method=method, data=b"{}" if method == "POST" else None,
                         content_type=JSON if method == "POST" else None,
                         environ_overrides={"PATH_INFO": path, "QUERY_STRING": query})
    assert_problem(answer, 404)
    unchanged()


@pytest.mark.parametrize("endpoint, method", [
    *[(endpoint, method) for endpoint in ("webhook", "event", "callback")
      for method in ("HEAD", "PUT", "PATCH", "DELETE", "TRACE", "FOO")],
    ("webhook", "GET"), ("event", "GET")])
def test_a_wrong_method_is_405_with_allow(client, run, unchanged, endpoint, method):
    query = f"workflow=release&workflowrun={run['id']}&topic=tests"
    answer = client.open(f"/api/v2/{endpoint}?{query}",
                         environ_overrides={"REQUEST_METHOD": method})
    assert_problem(answer, 405)
    allowed = set(answer.headers["Allow"].split(", "))
    assert allowed - {"OPTIONS"} == ({"GET", "POST"} if endpoint == "callback" else {"POST"})
    unchanged()


# Bugs and a busy database

def test_a_bug_is_a_500_without_details(environ, path, run, unchanged, app):
    def broken():
        raise RuntimeError(f"SELECT secret FROM {path}")
    client = create_app(environ, broken).test_client()
    for answer in (
            client.post("/api/v2/webhook?workflow=release", json={}),
            client.post("/api/v2/event?workflow=release", content_type=JSON,
                        data=wrapped("event", b"1")),
            client.post(f"/api/v2/callback?workflowrun={run['id']}&topic=tests", json={}),
            client.get(f"/api/v2/callback?workflowrun={run['id']}&topic=tests")):
        assert_problem(answer, 500)
        assert "secret" not in answer.text
    unchanged()


@pytest.mark.parametrize("endpoint", ["webhook", "event", "callback", "link"])
def test_a_busy_database_is_503_with_retry_after(send, callback, run, unchanged, path, endpoint):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    answer = (callback(run, "tests") if endpoint == "link"
              else send(endpoint, wrapped(endpoint, b"1")))
    other.execute("ROLLBACK"), other.close()
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    unchanged()


def test_a_database_that_is_away_is_503_until_it_is_back(client, path, tmp_path, run):
    close_database()
    path.rename(tmp_path / "away")
    path.mkdir()
    answer = client.post("/api/v2/webhook?workflow=release", json={})
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    close_database(), path.rmdir()
    (tmp_path / "away").rename(path)
    assert client.post("/api/v2/webhook?workflow=release", json={}).status_code == 200


# How much is answered and logged

@pytest.fixture
def log():
    """What the service logs, as its log file has it: log()."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Line("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("signalbox")
    level = logger.level
    logger.addHandler(handler), logger.setLevel(logging.INFO)
    yield lambda: stream.getvalue().splitlines()
    logger.removeHandler(handler), logger.setLevel(level)


def event(**more):
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/ci", "type": "t", **more},
                      ensure_ascii=False).encode()


WORST = "a=?" * 300 + "%"
LARGE_REQUESTS = {  # (endpoint, body, options)
    "bad names of an event": ("event", event(**{f"A{number}": 1 for number in range(50_000)}), {}),
    "a name of 1 MB": ("event", event(**{"A" * 10**6: 1}), {}),
    "names of emoji": ("event", event(**{"\U0001f600" * 900 + str(n): 1 for n in range(60)}), {}),
    "names of control characters": ("event", event(**{"\x01\x9b" * 500 + str(n): 1
                                                      for n in range(60)}), {}),
    "a version of 1 MB": ("event", event(specversion="1" * 10**6), {}),
    "names that turn the line around": ("event", event(**{"\u202e\u2028" * 99: 1}), {}),
    "a media type": ("webhook", b"{}", {"content_type": f"a/{'b' * 8000}"}),
    "a workflow's name": ("webhook", b"{}", {"query_string": {"workflow": "\u202e" * 255}}),
    "a workflow's name of emoji": ("webhook", b"{}", {"query_string": {
        "workflow": "\U0001f600" * 255}}),
    "a topic with a line's end": ("callback", b"{}", {"query_string": {
        "workflowrun": "1\n2026 INFO task succeeded by=ceo", "topic": "x\x9b31m"}}),
    "a query's worst text": ("callback", b"{}", {"query_string": WORST}),
    "a query's worst text as a status": ("callback", b"{}", {"query_string": {
        "workflowrun": "1", "topic": "a", "status": WORST}}),
    "a number": ("webhook", b'{"a": %s}' % (b"9" * 500_000), {}),
}


@pytest.mark.parametrize("endpoint, body, options", LARGE_REQUESTS.values(), ids=LARGE_REQUESTS)
def test_a_refusal_has_16_kb_and_its_log_line_2(send, log, unchanged, endpoint, body, options):
    answer = send(endpoint, body, **options)
    assert_problem(answer)
    assert len(answer.data) <= 16_384
    errors = answer.json.get("errors", {})
    assert len(errors) <= 20
    assert all(len(text) <= 300 for texts in errors.values() for text in texts)
    [line] = log()
    assert len(line.encode()) <= 2048 and line.isprintable()
    assert f" status={answer.status_code} reason=" in line and "succeeded by=ceo" not in line
    unchanged()


@pytest.mark.parametrize("text", [WORST, "\u202e" * 50, "\x9b31m", "\U0001f600" * 1000,
                                  "a\r\n2026 INFO run=1", "%s%(a)s{0}", "\ud7ff\ue000"],
                         ids=lambda text: ascii(text[:9]))
def test_a_comment_is_logged_in_one_line_and_changes_no_answer(client, run, log, show, text):
    answer = client.post(f"/api/v2/callback?workflowrun={run['id']}&topic=tests",
                         data={"status": "succeeded", "comment": text})
    assert answer.status_code == 200
    assert statuses(show(run)) == {"tests": "succeeded"}
    lines = log()
    assert len(lines) == 2 and all(line.isprintable() for line in lines)
    assert all(len(line.encode()) <= 2048 for line in lines)


@pytest.mark.parametrize("query", [
    WORST, "a=?" * 2700, "?" * 8000, "&" * 8000, "=" * 8000, "workflow=" + "%" * 8000,
    "&workflow=a" * 700, "topic=" + "%25" * 2600, "access_token" * 600], ids=lambda text: text[:9])
def test_what_the_log_shows_of_a_query_takes_linear_time(query):
    times = []
    for text in (query, query * 10):
        started = process_time()
        request_line("GET", "/", text)
        times.append(process_time() - started)
    assert times[1] < 0.1


REASONS = {  # what was sent, what its one line has
    "unknown workflow": ("webhook", {"query_string": {"workflow": "relase"}},
                         ["WARNING refused status=404", "no workflow is named", "workflow=relase"]),
    "no object": ("webhook", {"data": b"[]"},
                  ["refused status=400", "body: must be a JSON object", "workflow=release"]),
    "media type": ("event", {"content_type": "text/html"}, ["refused status=415", "text/html"]),
    "unknown path": ("nothing", {}, ["refused status=404", "nothing is here"]),
    "unknown topic": ("callback", {"query_string": {"workflowrun": "1", "topic": "x"}},
                      ["refused status=404", "run=1 topic=x"]),
    "skipped": ("webhook", {"query_string": {"workflow": "picky"}},
                ["INFO skipped status=200", "data.ref", "workflow=picky"]),
    "a ping": ("webhook", {"headers": {"X-GitHub-Event": "ping"}},
               ["INFO skipped status=200", "a ping starts nothing", "workflow=release"]),
    "a subject's workflow": ("event", {
        "query_string": {}, "content_type": "application/cloudevents+json", "data": json.dumps({
            "specversion": "1.0", "id": "1", "source": "/", "type": "t", "subject": "/off/1"})},
        ["refused status=403", "workflow=off"]),
    "a found workflow": ("webhook", {
        "query_string": {}, "data": b'{"ref": "main"}', "headers": {"Idempotency-Key": "first"}},
        ["refused status=422", "workflow=picky"]),
    "off": ("webhook", {"query_string": {"workflow": "off"}}, ["refused status=403", "off"]),
    "a token in a value": ("webhook", {"query_string": {"workflow": "x;access_token=S3cret"}},
                           ["refused status=404", "workflow=…"]),
    "a link in a value": ("callback", {"query_string": {
        "workflowrun": "https://a/?b=c&signature=S3cret", "topic": "x"}}, ["run=… topic=x"]),
}


@pytest.mark.parametrize("endpoint, options, shown", REASONS.values(), ids=REASONS)
def test_a_refused_or_skipped_request_leaves_one_line_that_says_why(
        client, define, log, run, endpoint, options, shown):
    define("off", triggers={"webhook": {"enabled": False}, "event": {"enabled": False}})
    define("picky", triggers={"webhook": {"conditions": [
        {"field": "data.ref", "operation": "equals", "value": "main"}]}})
    client.post("/api/v2/webhook", json={"ref": "main", "other": 1},
                headers={"Idempotency-Key": "first"})
    before = len(log())
    client.post(f"/api/v2/{endpoint}", **{"data": b"{}", "content_type": JSON,
                                          "query_string": {"workflow": "release"}, **options})
    [line] = log()[before:]
    assert all(text in line for text in shown) and "S3cret" not in line, line


def test_a_busy_database_is_told_in_one_line(callback, log, run, path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert callback(run, "tests").status_code == 503
    other.execute("ROLLBACK"), other.close()
    line = log()[-1]
    assert "ERROR refused status=503 reason='database unavailable: " in line


def test_a_bug_is_told_in_one_line_with_its_traceback(environ, app, log, run):
    def broken():
        raise RuntimeError("no clock")
    client = create_app(environ, broken).test_client()
    before = len(log())
    client.post("/api/v2/webhook?workflow=release", json={})
    [line] = log()[before:]
    assert "ERROR failed status=500" in line and "Traceback" in line and "no clock" in line


def test_a_large_bodys_turn_ends_once_however_often_flask_ends_the_request(app, define):
    define("release")
    with app.test_client() as client:  # it keeps the request's context until the next
        for number in range(3):
            assert client.post("/api/v2/webhook?workflow=release",
                               json={"text": "x" * 100_000}).status_code == 200
            assert client.get("/nothing").status_code == 404
