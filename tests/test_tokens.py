"""Who may call with a token, and what everybody else learns (contract 7.1)."""
import hmac
import io
import json
import re
import sqlite3
import sys
from http.client import HTTPException
from urllib.parse import quote

import pytest
from conftest import wait_task
from inside import Unusable, close_database, database
from server import GUNICORN, Server, wait_until

from app import create_app

OLD, NEW = "old-Token.1", "new/Token+2="
PROBLEM, FORM = "application/problem+json", "application/x-www-form-urlencoded"
WEBHOOK, EVENT, CALLBACK = (f"/api/v2/{name}" for name in ("webhook", "event", "callback"))
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "User-Agent": "Mozilla/5.0"}
FORM_HEADERS = {"Content-Type": FORM, "Accept": "*/*"}
ORIGIN = {"WebHook-Request-Origin": "events.example", "WebHook-Request-Rate": "120"}
CHALLENGE = {"type": "url_verification", "challenge": "3eZbrw1a"}
MAIN = {"webhook": {"conditions": [{"field": "data.ref", "operation": "equals", "value": "main"}]}}
LIMIT = 1000


@pytest.fixture
def environ(environ):
    return {**environ, "ACCESS_TOKENS": f"{OLD}, {NEW}", "MAX_CONTENT_LENGTH": str(LIMIT),
            "HOOK_SECRET": "a secret"}


@pytest.fixture
def known(define):
    """The workflows that a stranger must not notice."""
    define("release", wait_task("tests"), triggers=MAIN)
    define("signed", wait_task("tests"), secretEnv="HOOK_SECRET")
    define("unset", wait_task("tests"), secretEnv="UNSET_SECRET")
    define("own", wait_task("tests"), secretEnv="HOOK_SECRET", signatureHeader="X-Own")
    define("off", triggers={"webhook": {"enabled": False}, "event": {"enabled": False}})


@pytest.fixture
def stored(flask):
    """All runs there are: stored()."""
    return lambda: flask.json("workflowrun", "list", "--json")


def call(client, path, method="POST", json=None, headers=None, **query):
    """A request; a JSON body unless it is a GET."""
    if method == "POST" and json is None:
        json = {}
    return client.open(path, method=method, query_string=query, json=json, headers=headers)


def learned(answer):
    """Everything that the caller sees."""
    return answer.status_code, sorted(answer.headers.items()), answer.data


# With a token

PLACES = {
    "Authorization": lambda token: {"headers": {"Authorization": f"Bearer {token}"}},
    "bearer in small letters": lambda token: {"headers": {"Authorization": f"bearer {token}"}},
    "BEARER in capitals": lambda token: {"headers": {"Authorization": f"BEARER {token}"}},
    "x-access-token": lambda token: {"headers": {"x-access-token": token}},
    "query string": lambda token: {"access_token": token},
}
IN_ANY_PLACE = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)


@IN_ANY_PLACE
@pytest.mark.parametrize("token", [OLD, NEW])
def test_each_token_is_good_in_each_place_on_each_endpoint(client, known, show, place, token):
    run = call(client, WEBHOOK, workflow="release", json={"ref": "main"}, **place(token))
    event = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "built"}
    assert call(client, EVENT, workflow="release", json=event, **place(token)).status_code == 200
    topic = {"workflowrun": run.json["id"], "topic": "tests"}
    assert call(client, CALLBACK, **topic, **place(token)).status_code == 200
    assert call(client, CALLBACK, "GET", **topic, **place(token)).status_code == 200
    assert show(run.json)["status"] == "succeeded"


WRONG = {"none": "", "another": "guess", "one letter short": NEW[:-1], "its first letter": NEW[0],
         "one letter longer": NEW + "=", "other case": OLD.upper(), "both at once": f"{OLD},{NEW}",
         "the setting as it stands": f"{OLD}, {NEW}", "not ASCII": "\u00e9", "quoted": f'"{OLD}"'}


@pytest.mark.parametrize("token", WRONG.values(), ids=WRONG)
def test_any_other_token_is_401_in_each_place(client, known, stored, token):
    for place in PLACES.values():
        answer = call(client, WEBHOOK, workflow="release", json={"ref": "main"}, **place(token))
        assert (answer.status_code, answer.content_type) == (401, PROBLEM)
        assert answer.json.items() >= {"status": 401, "title": "Unauthorized"}.items()
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert stored() == []


@pytest.mark.parametrize("headers", [
    {"Authorization": OLD}, {"Authorization": f"Basic {OLD}"}, {"Authorization": f"Bearer{OLD}"},
    {"Authorization": f"Token {OLD}"}, {"X-Token": OLD}, {"Cookie": f"access_token={OLD}"}],
    ids=str)
def test_a_token_anywhere_else_is_401(client, known, stored, headers):
    form = client.post(WEBHOOK, data={"access_token": OLD})
    answer = call(client, WEBHOOK, workflow="release", json={"access_token": OLD}, headers=headers)
    assert (form.status_code, answer.status_code) == (401, 401)
    assert stored() == []


def test_one_right_token_is_enough_beside_a_wrong_one(client, known):
    answer = call(client, WEBHOOK, workflow="release", json={"ref": "main"}, access_token="guess",
                  headers={"Authorization": "Bearer guess", "x-access-token": NEW})
    assert answer.status_code == 200


def test_a_token_is_rotated_by_naming_both_for_a_while(environ, clock):
    accepted = {}
    for setting in (OLD, f"{NEW},{OLD}", NEW):
        client = create_app({**environ, "ACCESS_TOKENS": setting}, clock).test_client()
        accepted[setting] = [token for token in (OLD, NEW) if call(
            client, WEBHOOK, workflow="none", access_token=token).status_code == 404]
        close_database()
    assert accepted == {OLD: [OLD], f"{NEW},{OLD}": [OLD, NEW], NEW: [NEW]}


@IN_ANY_PLACE
def test_tokens_are_compared_in_constant_time(client, monkeypatch, place):
    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest",
                        lambda *pair: compared.append(set(pair)) or compare(*pair))
    for token in (OLD, NEW, "guess"):
        call(client, "/", "GET", **place(token))
        for known in (OLD, NEW):  # both, whichever fits
            assert {token.encode(), known.encode()} in compared


def test_a_caller_with_a_token_learns_what_is_wrong(client, known):
    asked = [(WEBHOOK, {"workflow": "nightly"}), (WEBHOOK, {"workflow": "off"}), ("/", {}),
             (CALLBACK, {}), (CALLBACK, {"workflowrun": "1", "topic": "x"})]
    statuses = [call(client, path, access_token=OLD, **query).status_code for path, query in asked]
    assert statuses == [404, 403, 404, 400, 404]
    assert call(client, WEBHOOK, "GET", access_token=OLD).headers["Allow"]


@pytest.mark.parametrize("query", [
    "access_token=", "access_token", f"access_token={OLD}&access_token={OLD}",
    "access_token=&access_token=x"])
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens set", "open"])
def test_an_access_token_that_is_empty_or_given_twice_is_400(environ, clock, query, tokens):
    if not tokens:
        del environ["ACCESS_TOKENS"]
    client = create_app(environ, clock).test_client()
    for path in (WEBHOOK, EVENT, CALLBACK):
        answer = client.post(f"{path}?{query}", json={}, headers={"x-access-token": NEW})
        assert (answer.status_code, answer.headers["Cache-Control"]) == (400, "private, no-store")
        assert "access_token" in answer.json["errors"]
    close_database()


@pytest.mark.parametrize("method, path, query", [
    ("POST", WEBHOOK, "workflow=release"), ("POST", WEBHOOK, "workflow=nightly"), ("GET", "/", ""),
    ("GET", CALLBACK, "workflowrun=1&topic=x"), ("PUT", EVENT, ""), ("OPTIONS", EVENT, ""),
    ("POST", EVENT, "workflow=release&x=\udcff")],
    ids=["webhook", "unknown workflow", "unknown path", "unknown run", "method", "OPTIONS", "raw"])
@pytest.mark.parametrize("name", ["access_token", "access%5Ftoken"])
def test_no_cache_keeps_an_answer_to_a_token_in_the_url(client, known, method, path, query, name):
    for token in (NEW, "guess", ""):
        raw = f"{query}&{name}={quote(token, safe='')}".encode("utf-8", "surrogateescape")
        answer = client.open(path, method=method, json={"ref": "main"}, environ_overrides={
            "QUERY_STRING": raw.decode("latin-1")})
        assert answer.headers.get("Cache-Control") == "private, no-store"


def test_no_cache_keeps_a_503_to_a_token_in_the_url_and_its_line_names_the_workflow(
        environ, clock, caplog):
    """Also from a service whose database has been away since its start."""
    away = create_app({**environ, "DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}, clock)
    answer = away.test_client().post(f"{WEBHOOK}?workflow=release&access_token={NEW}", json={})
    assert (answer.status_code, answer.headers.get("Cache-Control")) == (503, "private, no-store")
    assert "workflow=release" in caplog.text and NEW not in caplog.text


def test_a_query_string_that_is_not_utf8_is_400_for_a_caller_with_a_token(client):
    answers = [client.post(WEBHOOK, json={}, headers={"x-access-token": token},
                           environ_overrides={"QUERY_STRING": "x=\xff"}) for token in (NEW, "x")]
    assert [answer.status_code for answer in answers] == [400, 401]


# Without one

REQUESTS = {
    "unknown path": ("GET", "/nothing", {}),
    "root": ("GET", "/", {}),
    "wrong method": ("PUT", WEBHOOK, {}),
    "GET of the webhook": ("GET", WEBHOOK, {"query_string": {"workflow": "release"}}),
    "two slashes": ("POST", "//api/v2/webhook", {"json": {}}),
    "HEAD of a callback": ("HEAD", CALLBACK, {}),
    "OPTIONS": ("OPTIONS", CALLBACK, {}),
    "handshake of an event sender": ("OPTIONS", EVENT, {"headers": ORIGIN}),
    "handshake of a webhook sender": ("OPTIONS", WEBHOOK, {"headers": ORIGIN}),
    "known workflow": ("POST", WEBHOOK, {"query_string": {"workflow": "release"}, "json": {}}),
    "signed workflow": ("POST", WEBHOOK, {"query_string": {"workflow": "signed"}, "json": {}}),
    "secret unset": ("POST", WEBHOOK, {"query_string": {"workflow": "unset"}, "json": {}}),
    "unknown workflow": ("POST", WEBHOOK, {"query_string": {"workflow": "nightly"}, "json": {}}),
    "no workflow named": ("POST", WEBHOOK, {"json": {"ref": "main"}}),
    "malformed JSON": ("POST", WEBHOOK, {"data": b"{", "content_type": "application/json"}),
    "content type": ("POST", WEBHOOK, {"data": b"{}", "content_type": "text/plain"}),
    "event": ("POST", EVENT, {"json": {"specversion": "0.3"}}),
    "missing parameters": ("POST", CALLBACK, {"json": {}}),
    "unknown run": ("POST", CALLBACK, {"query_string": {"workflowrun": "1", "topic": "x"},
                                       "json": {}}),
    "a person's form": ("POST", CALLBACK, {"query_string": {"workflowrun": "1", "topic": "x"},
                                           "json": {}, "headers": {"Sec-Fetch-Site": "none"}}),
    "prefetch": ("GET", CALLBACK, {"headers": {"Sec-Purpose": "prefetch"}}),
    "Slack's challenge": ("POST", WEBHOOK, {"json": CHALLENGE}),
    "GitHub's ping": ("POST", WEBHOOK, {"json": {}, "headers": {"X-GitHub-Event": "ping"}}),
    "empty parameter": ("POST", WEBHOOK, {"query_string": "workflow=", "json": {}}),
    "bytes in the query": ("POST", WEBHOOK, {"json": {}, "environ_overrides": {
        "QUERY_STRING": "workflow=\xff"}}),
}


@pytest.mark.parametrize("method, path, more", REQUESTS.values(), ids=REQUESTS)
def test_a_stranger_gets_one_and_the_same_answer(client, known, stored, method, path, more):
    answer = client.open(path, method=method, **more)
    usual = client.open("/nothing", method="HEAD" if method == "HEAD" else "GET")
    assert learned(answer) == learned(usual)
    assert usual.status_code == 401 and usual.headers["WWW-Authenticate"] == "Bearer"
    assert stored() == []


@pytest.mark.parametrize("path, query", [
    (CALLBACK, "workflowrun=a%26access_token={}"), (CALLBACK, "workflowrun=x;access_token={}"),
    (CALLBACK, "workflowrun={run}&topic=a%3Faccess_token={}"), (WEBHOOK, "workflow=a%23{}"),
    (CALLBACK, "workflow=release&correlate=a&amp;access_token={}"),
    (CALLBACK, "workflow=a%26{}&correlate=a%3D{}"), (EVENT, "workflow=a%25{}")], ids=str)
def test_no_answer_repeats_a_token_of_a_broken_url(client, known, path, query):
    run = call(client, WEBHOOK, workflow="release", json={"ref": "main"}, access_token=OLD).json
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": "t"}
    for more in ("", "&topic=a"):
        answer = client.post(f"{path}?{query.format(OLD, OLD, run=run['id'])}{more}", json=event,
                             headers={"x-access-token": OLD})
        assert answer.status_code in (400, 404) and OLD not in answer.text


@pytest.mark.parametrize("method, headers", [("GET", BROWSER), ("POST", BROWSER),
                                             ("POST", FORM_HEADERS)], ids=str)
def test_a_stranger_with_a_browser_gets_the_page_with_401(client, known, show, method, headers):
    run = call(client, WEBHOOK, workflow="release", json={"ref": "main"}, access_token=OLD).json
    pages = [client.open(CALLBACK, method=method, headers=headers, data="status=succeeded",
                         query_string={"workflowrun": id, "topic": "tests"})
             for id in (run["id"], "unknown")]
    assert {(page.status_code, page.mimetype) for page in pages} == {(401, "text/html")}
    assert {page.headers["WWW-Authenticate"] for page in pages} == {"Bearer"}
    one, other = (re.sub('nonce="[^"]*"', "", page.text) for page in pages)
    assert one == other and "<form" not in one
    assert show(run)["tasks"][0]["status"] == "waiting"


FAKES = {"GitHub": {"X-Hub-Signature-256": "sha256=" + "0" * 64},
         "Standard Webhooks": {"webhook-id": "1", "webhook-timestamp": "1795424400",
                               "webhook-signature": f"v1,{'A' * 43}="},
         "Slack": {"X-Slack-Request-Timestamp": "1795424400",
                   "X-Slack-Signature": f"v0={'0' * 64}"},
         "a workflow's own": {"X-Own": "0" * 64}, "none": {}}
NAMED = ["release", "signed", "own", "off", "nightly", "", "%", "n" * 300]
BODIES = {"conditions hold": b'{"ref": "main"}', "do not hold": b'{"ref": "v1"}',
          "malformed": b"{", "challenge": json.dumps(CHALLENGE).encode()}


@pytest.mark.parametrize("fake", FAKES.values(), ids=FAKES)
def test_a_wrong_signature_learns_nothing_about_a_name(client, known, stored, fake):
    """Neither whether the workflow exists, nor its trigger or conditions, nor what is malformed."""
    seen = {learned(client.post(f"{path}?workflow={quote(name)}", data=body, headers=fake,
                                content_type=content_type))[::2]
            for path in (WEBHOOK, EVENT) for name in NAMED for body in BODIES.values()
            for content_type in ("application/json", "text/plain")}
    assert [status for status, data in seen] == [401]
    assert stored() == []


@pytest.mark.parametrize("fake", FAKES.values(), ids=FAKES)
def test_a_wrong_signature_learns_nothing_about_conditions(client, define, known, stored, fake):
    define("secret", secretEnv="HOOK_SECRET", triggers={"webhook": {"conditions": [
        {"field": "data.ref", "operation": "equals", "value": "secret"}]}})
    define("unset", secretEnv="UNSET_SECRET", triggers={"webhook": {"enabled": False}})
    define("signed", secretEnv="HOOK_SECRET", triggers={"webhook": {"enabled": False}})
    bodies = [*BODIES.values(), b'{"ref": "secret"}']
    seen = {body: learned(client.post(WEBHOOK, data=body, headers=fake,
                                      content_type="application/json"))[::2] for body in bodies}
    assert {status for status, data in seen.values()} == {401}
    del seen[BODIES["challenge"]]  # which workflow's secret signs it may be asked for
    assert len(set(seen.values())) == 1, seen
    assert stored() == []


@pytest.mark.parametrize("fake", FAKES.values(), ids=FAKES)
def test_a_wrong_signature_costs_as_much_work_for_any_name(
        client, known, monkeypatch, fake):
    digests, new, statements = [], hmac.new, []
    monkeypatch.setattr(hmac, "new", lambda *args: digests.append(args) or new(*args))
    database.connection().set_trace_callback(statements.append)
    spent = {}
    for name in ("release", "signed", "off", "nightly"):
        call(client, WEBHOOK, workflow=name, headers=fake)
        spent[name] = len(digests), len(statements)
        digests.clear(), statements.clear()
    assert len(set(spent.values())) == 1, spent


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
@pytest.mark.parametrize("name", ["release", "signed", "nightly"])
def test_an_oversized_body_is_413_and_read_no_further(client, known, stored, name, chunked):
    answers = []
    for headers in ({"x-access-token": NEW}, FAKES["GitHub"], {}):
        body = io.BytesIO(b" " * (2 * LIMIT))
        length = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""} if chunked else {}
        answers.append(client.post(f"{WEBHOOK}?workflow={name}", headers=headers, data=body.read(),
                                   content_type="application/json", environ_overrides=length))
    statuses = [answer.status_code for answer in answers]
    assert statuses == [413, 413, 401 if chunked else 413]  # what is not signed is not read
    assert stored() == []


SEEN = {  # what a caller sends: what the log says of it
    "nothing": ({}, "no token"), "a wrong one": ({"x-access-token": "guess"}, "a wrong token"),
    "a wrong bearer": ({"Authorization": "Bearer guess"}, "a wrong token"),
    "a good one in the wrong place": ({"Authorization": f"Basic {OLD}"}, "a wrong token"),
    "an empty one": ({"Authorization": "Bearer "}, "a wrong token"),
    "a cookie": ({"Cookie": f"access_token={OLD}"}, "no token"),
}


@pytest.mark.parametrize("headers, said", SEEN.values(), ids=SEEN)
@pytest.mark.parametrize("path", [WEBHOOK, CALLBACK, "/nothing"])
def test_the_log_tells_a_wrong_token_from_none(client, known, caplog, path, headers, said):
    caplog.clear()
    answer = client.post(f"{path}?workflow=release", json={}, headers=headers)
    assert answer.status_code == 401
    [line] = caplog.messages
    assert f"reason='{said}, and no" in line and len(line) < 300
    assert "guess" not in caplog.text and OLD not in caplog.text


@pytest.mark.parametrize("query", ["workflow=release&access_token=guess", "access_token=",
                                   "access_token=guess&x=\xff"])
def test_a_wrong_token_in_the_url_is_told_without_its_value(client, caplog, query):
    client.post(WEBHOOK, json={}, environ_overrides={"QUERY_STRING": query})
    [line] = caplog.messages
    assert "a wrong token" in line and "guess" not in line


@pytest.mark.parametrize("path, query", [(WEBHOOK, {"workflow": "signed"}), (WEBHOOK, {}),
                                         (EVENT, {"workflow": "signed"})], ids=str)
@pytest.mark.parametrize("fake", [{}, {"X-Hub-Signature-256": "sha256=0"}], ids=["none", "wrong"])
def test_who_has_a_token_is_not_told_to_send_one(client, define, path, query, fake):
    define("signed", wait_task("tests"), secretEnv="HOOK_SECRET",
           triggers={**MAIN, "event": MAIN["webhook"]})
    event = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "built", "ref": "main"}
    answer = call(client, path, json=event, headers={"x-access-token": OLD, **fake}, **query)
    assert answer.status_code == 401
    assert "token" not in answer.json["detail"] and "sign" in answer.json["detail"]


# The setting

@pytest.mark.parametrize("value", [" ", ",", " , ", "two words", "caf\u00e9", "a,b c", "a\tb"])
def test_a_token_list_that_cannot_be_used_stops_the_start(environ, clock, value):
    with pytest.raises(Unusable, match="ACCESS_TOKENS") as refused:
        create_app({**environ, "ACCESS_TOKENS": value}, clock)
    assert not any(word in str(refused.value) for word in ("words ", "caf") if word in value)


def test_commands_need_no_token(flask, define, known, client):
    run = call(client, WEBHOOK, workflow="release", json={"ref": "main"}, access_token=OLD).json
    assert flask("workflowrun", "cancel", run["id"]).exit_code == 0
    for command in (["workflow", "list"], ["workflow", "show", "release"], ["workflowrun", "list"],
                    ["workflowrun", "show", run["id"]], ["workflow", "delete", "release"]):
        result = flask(*command)
        assert result.exit_code == 0 and OLD not in result.output


# What is written down

PLAIN, ODD = "alphaToken", 'bravoToken"charlieToken#&%?=deltaToken'  # the second one is legal too
SECRETS = ["alphaToken", "bravoToken", "charlieToken", "deltaToken", "signingKey", "hookKey"]
URLS = {  # what follows /api/v2/callback?workflowrun=1&topic=x
    "last": f"&access_token={PLAIN}", "first of several": f"&access_token={PLAIN}&x=1",
    "encoded name": f"&access%5Ftoken={PLAIN}", "more encoded": f"&%61ccess_toke%6E={PLAIN}",
    "encoded value": f"&access_token={quote(ODD, safe='')}", "beside raw bytes": f"&x=%FF&y=%2"
    f"&access_token={PLAIN}", "twice": f"&access_token={PLAIN}&access_token={PLAIN}",
    "with a fragment": f"&access_token={PLAIN}#&access_token={PLAIN}",
    "raw number sign": f"&access_token=x#{PLAIN}", "raw quotes": f'&access_token="{PLAIN}"',
    "second question mark": f"?access_token={PLAIN}",
    "in a status": f"&status=succeeded%20access_token:{PLAIN}",
}
MALFORMED = {
    "HTTP version": f"GET /?access_token={PLAIN} HTTP/9.9\r\n",
    "no version": f"GET /?access_token={PLAIN}\r\n",
    "method": f"G?T /?access_token={PLAIN} HTTP/1.1\r\nHost: test\r\n",
    "space": f"GET /?access_token={PLAIN} x HTTP/1.1\r\nHost: test\r\n",
    "long line": f"GET /?access_token={PLAIN}{'x' * 9000} HTTP/1.1\r\nHost: test\r\n",
    "space in a name": f"GET / HTTP/1.1\r\nHost: test\r\nAuthorization : Bearer {PLAIN}\r\n",
    "NUL": f"GET / HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {PLAIN}\0\r\n",
    "fold": f"GET / HTTP/1.1\r\nHost: test\r\nx-access-token: {PLAIN}\r\n folded\r\n",
    "length": f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\nx-access-token: {PLAIN}\r\n",
    "no colon": f"GET / HTTP/1.1\r\nHost: test\r\nAuthorization Bearer {PLAIN}\r\n",
}


@pytest.fixture(scope="module", params=["gunicorn", "flask run"])
def server(request, tmp_path_factory):
    command = GUNICORN if request.param == "gunicorn" else [sys.executable, "-m", "flask", "run"]
    server = Server(tmp_path_factory.mktemp("service"), command, ACCESS_TOKENS=f"{PLAIN},{ODD}",
                    SECRET_KEY="signingKey", HOOK_SECRET="hookKey")
    server.environ["FLASK_RUN_PORT"] = str(server.port)
    with server:
        server.define("release", wait_task("tests"))
        server.define("signed", wait_task("tests"), secretEnv="HOOK_SECRET")
        yield server


@pytest.fixture
def written(server):
    """The lines with a secret in them, in the database or what this test added to the log.

    A request's own line may come after its answer; `last` is what the last one has.
    """
    size = server.log_file.stat().st_size

    def written(last, *secrets):
        wait_until(lambda: last in server.log_file.read_bytes()[size:].decode("latin-1"), last)
        files = server.database.parent.glob(f"{server.database.name}*")  # -wal is one of them
        lines = [line for file in files for line in file.read_text("latin-1").split("\0")]
        lines += server.log_file.read_bytes()[size:].decode("latin-1").splitlines()
        return [line for line in lines if any(secret in line for secret in [*SECRETS, *secrets])]
    return written


@pytest.mark.server
@pytest.mark.parametrize("end", URLS.values(), ids=URLS)
def test_no_token_in_a_url_is_written_down(server, written, end):
    path = f"{CALLBACK}?workflowrun=1&topic=x{end}"
    for method in ("GET", "POST"):
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nReferer: http://test{path}\r\n"
        server.raw(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
    assert written("refused status=") == []


@pytest.mark.server
@pytest.mark.parametrize("head", MALFORMED.values(), ids=MALFORMED)
def test_no_token_of_a_malformed_request_is_written_down(server, written, head):
    try:
        server.raw(f"{head}\r\n".encode())
    except (OSError, HTTPException):
        pass  # its answer need not be HTTP either
    assert server.get("/afterwards").status == 401
    assert written("refused status=401") == []


@pytest.mark.server
def test_no_token_in_a_header_is_written_down(server, written):
    for headers in ({"Authorization": f"Bearer {PLAIN}"}, {"x-access-token": ODD}):
        server.run("release", {"n": 1}, **headers, Idempotency_Key="k")
    assert written("run started") == []


@pytest.mark.server
def test_no_signature_or_secret_is_written_down(server, written):
    run = server.run("release", {"n": 1}, x_access_token=PLAIN)
    url = server.flask("workflowrun", "link", run["id"], "--topic", "tests").stdout.strip()
    link, signature = url[url.index("/api"):], re.search("signature=([^&]+)", url)[1]
    digest = hmac.new(b"hookKey", b'{"ref": "main"}', "sha256").hexdigest()
    assert [server.webhook("signed", {"ref": "main"}, X_Hub_Signature_256=f"sha256={sign}").status
            for sign in (digest, digest[:-8] + "00000000")] == [200, 401]
    for path in (link, link.replace("signature", "sign%61ture"), link + "&x=%FF", link + "0"):
        assert server.get(path, Referer=f"http://127.0.0.1{path}").status in (200, 401)
    assert server.post(link, {}).status == 200
    assert written("task succeeded", signature, digest[:-8]) == []
    shown = server.flask("workflow", "show", "signed").stdout
    assert "HOOK_SECRET" in shown and "hookKey" not in shown + json.dumps(server.stored())


@pytest.mark.server
def test_no_token_is_written_down_when_the_service_fails(server, written):
    server.define("broken")
    with sqlite3.connect(server.database) as other:
        other.execute("UPDATE workflow SET definition = '{' WHERE name = 'broken'")
    other.close()
    path = f"{WEBHOOK}?access_token={PLAIN}&workflow=broken"
    assert server.post(path, {}, x_access_token=ODD).status == 500
    assert written("Traceback") == []
    assert server.flask("workflow", "delete", "broken").returncode in (0, 1)


# What somebody writes may hold a URL, and that a secret

@pytest.mark.parametrize("text", [
    "see http://h/?access_token=T0psecret", "http://h/x&signature=T0psecret",
    "http://h/#access_token=T0psecret", "http://h/?access_token%3DT0psecret", "a;token=T0psecret",
    "http://h/？access_token＝T0psecret"])
def test_a_comment_and_a_filled_topic_show_no_secret_in_the_log(
        client, define, caplog, stored, text):
    caplog.set_level("INFO")
    define("filled", {"name": "a", "type": "eventwait",
                      "params": [{"name": "topic", "value": "t $(params.data.text)"}]})
    token = {"x-access-token": NEW}
    run = client.post(f"{WEBHOOK}?workflow=filled", json={"text": text}, headers=token).json
    topic = run["tasks"][0]["params"][0]["value"]
    assert text in topic
    answer = client.post(CALLBACK, query_string={"workflowrun": run["id"], "topic": topic},
                         data={"status": "succeeded", "comment": text}, headers=token)
    assert answer.status_code == 200
    lines = [record.getMessage() for record in caplog.records]
    assert any("task succeeded" in line for line in lines)
    assert not [line for line in lines if "T0psecret" in line]
