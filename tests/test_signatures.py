"""Signed requests (contract 7.2), and the senders that say hello first (section 8)."""
import base64
import hashlib
import hmac
import json
from datetime import datetime, timezone

import pytest
from conftest import wait_task
from inside import close_database
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook

# GitHub, "Validating webhook deliveries", "Testing the webhook payload validation"
GITHUB_VECTOR = ("It's a Secret to Everybody", b"Hello, World!", 0, {
    "X-Hub-Signature-256":
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"})
# Standard Webhooks: the secret, id, time and body of its libraries' tests
STANDARD_VECTOR = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}', 1614265330, {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="})
# Slack, "Verifying requests from Slack", the example of "A recipe for security"
SLACK_VECTOR = ("8f742231b10e8888abcd99yyyzzz85a5", (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
    b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
    b"&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
    b"%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"), 1531420618, {
    "X-Slack-Request-Timestamp": "1531420618", "X-Slack-Signature":
        "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"})
VECTORS = pytest.mark.parametrize("secret, body, time, headers", [
    GITHUB_VECTOR, STANDARD_VECTOR, SLACK_VECTOR], ids=["GitHub", "Standard Webhooks", "Slack"])

WEBHOOK, EVENT, JSON = "/api/v2/webhook", "/api/v2/event", "application/json"
SECRET, OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_bm90IHRoZSBzYW1lIHNlY3JldCA="
NOW = 1_795_424_400  # when the clock of conftest.py starts
BODY, TOKEN = b'{"ref": "main"}', "token1"
CHALLENGE = b'{"token": "x", "challenge": "3eZbrw1a", "type": "url_verification"}'
BUILT = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "built"}


def sign_github(secret=SECRET, body=BODY, time=NOW, id="1"):
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": id}


def sign_standard(secret=SECRET, body=BODY, time=NOW, id="msg_1"):
    moment = datetime.fromtimestamp(int(time), timezone.utc)
    return {"webhook-id": id, "webhook-timestamp": str(time),
            "webhook-signature": Webhook(secret).sign(id, moment, body.decode())}


def sign_slack(secret=SECRET, body=BODY, time=NOW, id=None):
    signature = SignatureVerifier(secret).generate_signature(timestamp=str(time), body=body)
    return {"X-Slack-Request-Timestamp": str(time), "X-Slack-Signature": signature}


def by_hand_standard(key, time=str(NOW), body=BODY):
    """Any key and any text for a time, which the package would not take."""
    mac = hmac.new(key, f"1.{time}.".encode() + body, hashlib.sha256).digest()
    return {"webhook-id": "1", "webhook-timestamp": time.encode().decode("latin-1"),
            "webhook-signature": f"v1,{base64.b64encode(mac).decode()}"}


def by_hand_slack(key, time=str(NOW), body=BODY):
    mac = hmac.new(key, f"v0:{time}:".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": time.encode().decode("latin-1"),
            "X-Slack-Signature": f"v0={mac}"}


SIGNERS = {"GitHub": sign_github, "standardwebhooks": sign_standard, "slack_sdk": sign_slack}
CARRIERS = {sign_github: "X-Hub-Signature-256", sign_standard: "webhook-signature",
            sign_slack: "X-Slack-Signature"}
ANY_SIGNER = pytest.mark.parametrize("sign", SIGNERS.values(), ids=SIGNERS)
DATED = pytest.mark.parametrize("sign", [sign_standard, sign_slack], ids=list(SIGNERS)[1:])


@pytest.fixture
def environ(environ):
    return {**environ, "HOOK_SECRET": SECRET, "OTHER_SECRET": OTHER, "EMPTY_SECRET": ""}


@pytest.fixture
def tokens(environ):
    """Asked for before the client, this makes the service one with tokens."""
    environ["ACCESS_TOKENS"] = TOKEN


@pytest.fixture(params=["open", "tokens set"])
def either(request, environ):
    """Asked for before the client: once without tokens, once with them."""
    environ.update({"ACCESS_TOKENS": TOKEN} if request.param == "tokens set" else {})


@pytest.fixture
def send(client):
    """Send raw bytes: send(headers, BODY, workflow="signed")."""
    def send(headers=(), body=BODY, path=WEBHOOK, content_type=JSON, **query):
        return client.post(path, data=body, headers=dict(headers), content_type=content_type,
                           query_string=query)
    return send


@pytest.fixture
def stored(flask):
    return lambda: flask.json("workflowrun", "list", "--json")


@pytest.fixture
def signed(define):
    return define("signed", wait_task("tests"), secretEnv="HOOK_SECRET")


def taking(value):
    """Triggers that take payloads with this ref, webhook or event."""
    conditions = [{"field": "data.ref", "operation": "equals", "value": value}]
    return {"webhook": {"conditions": conditions}, "event": {"conditions": conditions}}


@pytest.fixture
def verify(environ, clock, send, signed):
    """Whether the service takes the signature; `time` is in seconds."""
    def verify(secret, headers, body, time):
        environ["HOOK_SECRET"], clock.now = secret, time * 1000
        return send(headers, body, workflow=signed).status_code != 401
    return verify


# The signature itself

@VECTORS
def test_a_published_vector_is_verified(verify, secret, body, time, headers):
    assert verify(secret, headers, body, time)
    assert not verify(secret + "A", headers, body, time)
    assert not verify(secret, headers, body + b" ", time)


def test_the_published_vector_is_what_the_standard_webhooks_package_signs():
    secret, body, time, headers = STANDARD_VECTOR
    assert sign_standard(secret, body, time, headers["webhook-id"]) == headers


SPOILED = {
    "empty": lambda text: "", "half": lambda text: text[:len(text) // 2],
    "a letter short": lambda text: text[:-1], "a letter more": lambda text: text + "0",
    "version only": lambda text: text[:text.index("=" if "=" in text[:8] else ",") + 1],
    "other version": lambda text: "v9" + text[2:], "first letter": lambda text: text[0],
    "last letter": lambda text: text[:-2] + ("A" if text[-2] != "A" else "B") + text[-1],
    "not ASCII": lambda text: text + "\u00e9",
    "a blank inside": lambda text: f"{text[:20]} {text[20:]}",
}


@ANY_SIGNER
@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_signature_that_is_not_the_whole_one_is_401(send, signed, stored, sign, spoil):
    headers = sign()
    headers[CARRIERS[sign]] = spoil(headers[CARRIERS[sign]])
    answer = send(headers, workflow=signed)
    assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
    assert answer.headers["WWW-Authenticate"]
    assert stored() == []


@ANY_SIGNER
def test_a_real_senders_signature_starts_a_run(either, send, signed, stored, sign):
    answer = send(sign(), workflow=signed)
    assert (answer.status_code, answer.json["workflowRef"]) == (200, "signed")
    assert stored() == [answer.json]


@ANY_SIGNER
def test_a_missing_signature_is_401(either, send, signed, stored, sign):
    rest = {name: value for name, value in sign().items() if name != CARRIERS[sign]}
    assert [send(headers, workflow=signed).status_code for headers in (rest, {})] == [401, 401]
    assert stored() == []


@ANY_SIGNER
@pytest.mark.parametrize("body", [
    BODY + b"\n", BODY[:-1], b'{"ref":"main"}', b'{"ref": "maim"}', b"", BODY + BODY],
    ids=["newline", "cut", "no space", "one letter", "empty", "twice"])
def test_a_signature_of_another_body_is_401(send, signed, stored, sign, body):
    assert send(sign(), body, workflow=signed).status_code == 401
    assert stored() == []


@ANY_SIGNER
def test_another_workflows_secret_is_401(send, define, signed, stored, sign):
    define("other", secretEnv="OTHER_SECRET")
    assert send(sign(OTHER), workflow=signed).status_code == 401
    assert [send(sign(key), workflow="other").status_code for key in (SECRET, OTHER)] == [401, 200]
    assert len(stored()) == 1


@pytest.mark.parametrize("sign, header", [
    (sign_standard, "webhook-id"), (sign_standard, "webhook-timestamp"),
    (sign_slack, "X-Slack-Request-Timestamp")], ids=["id", "time", "Slack's time"])
def test_the_id_and_the_time_are_signed_as_well(send, signed, stored, sign, header):
    rest = {name: value for name, value in sign().items() if name != header}
    for headers in (rest, {**rest, header: ""}, {**rest, header: str(NOW + 1)}):
        assert send(headers, workflow=signed).status_code == 401
    assert stored() == []


@DATED
@pytest.mark.parametrize("milliseconds, status", [
    (0, 200), (300_000, 200), (300_001, 401), (86_400_000, 401), (-300_000, 200), (-300_001, 401),
    (-10**12, 401)], ids=str)
def test_a_signature_is_good_for_five_minutes(
        send, signed, stored, clock, sign, milliseconds, status):
    clock.advance(milliseconds=milliseconds)
    assert send(sign(time=NOW), workflow=signed).status_code == status
    assert len(stored()) == (status == 200)


@pytest.mark.parametrize("time", [
    "", "now", "nan", "inf", "-inf", "1e9", "0x6b03f250", f"{NOW}.5", f"+{NOW}", f"-{NOW}",
    f"{NOW} {NOW}", f"{NOW},{NOW}", f"{NOW}000", "9" * 5000, f"{NOW // 1000}_{NOW % 1000}",
    "\u0661\u0667\u0669", "\u00b2"], ids=lambda time: ascii(time)[:24])
def test_a_time_that_is_no_number_is_401(send, signed, stored, time):
    for headers in (by_hand_slack(SECRET.encode(), time),
                    by_hand_standard(base64.b64decode(SECRET[6:]), time)):
        assert send(headers, workflow=signed).status_code == 401
    assert stored() == []
    assert send(by_hand_slack(SECRET.encode()), workflow=signed).status_code == 200


@pytest.mark.parametrize("others, status", [
    ("v1,{wrong} v1,{right}", 200), ("v1,{right} v1,{wrong}", 200), ("v1a,{wrong} v1,{right}", 200),
    ("v1 {wrong} , v1,{right}", 200), ("v1,{wrong} v1,{wrong}", 401), ("v1a,{right}", 401),
    ("v1,{right}v1,{wrong}", 401), ("v1,{right},v1,{wrong}", 401), ("{right}", 401), ("", 401)])
def test_one_right_signature_of_several_is_enough(send, signed, others, status):
    headers = sign_standard()
    right, wrong = headers["webhook-signature"][3:], sign_standard(OTHER)["webhook-signature"][3:]
    headers["webhook-signature"] = others.format(right=right, wrong=wrong)
    assert send(headers, workflow=signed).status_code == status


@pytest.mark.parametrize("right", SIGNERS.values(), ids=SIGNERS)
@pytest.mark.parametrize("wrong", SIGNERS.values(), ids=SIGNERS)
def test_one_right_kind_is_enough_beside_a_wrong_one(either, send, signed, right, wrong):
    headers = {**wrong(OTHER, time=NOW - 900), **right()}
    assert send(headers, workflow=signed).status_code == 200
    assert send({**right(OTHER), **wrong(OTHER)}, workflow=signed).status_code == 401


# The secret

UNPADDED = "whsec_" + base64.b64encode(b"twenty-two bytes long!").decode().rstrip("=")


@pytest.mark.parametrize("sign, secret", [
    (sign_github, "caf\u00e9 \u20ac"), (sign_slack, "caf\u00e9 \u20ac"), (sign_github, "="),
    (sign_standard, SECRET[6:]), (sign_standard, UNPADDED), (sign_github, "two words")],
    ids=["GitHub, not ASCII", "Slack, not ASCII", "GitHub, one sign", "Standard, no prefix",
         "Standard, no padding", "GitHub, two words"])
def test_a_secret_of_any_kind_works(environ, send, signed, sign, secret):
    environ["HOOK_SECRET"] = secret
    fake = {**sign_standard(OTHER), **sign_slack(OTHER)}
    assert send(sign(secret), workflow=signed).status_code == 200
    assert send({**fake, **sign(secret)}, workflow=signed).status_code == 200
    assert send(fake, workflow=signed).status_code == 401


MALFORMED = ["whsec_", "whsec_=", "whsec_====", "whsec_!!!!", "whsec_A", "====", "whsec_caf\u00e9"]


@pytest.mark.parametrize("secret", MALFORMED)
def test_a_malformed_secret_does_not_become_an_empty_key(environ, send, signed, stored, secret):
    environ["HOOK_SECRET"] = secret
    for headers in (by_hand_standard(b""), by_hand_slack(b""),
                    {**sign_github(""), **by_hand_standard(b"")}):
        answer = send(headers, workflow=signed)
        assert answer.status_code in (401, 503)
    assert stored() == []


@pytest.mark.parametrize("variable", ["UNSET_SECRET", "EMPTY_SECRET"])
@pytest.mark.parametrize("path", [WEBHOOK, EVENT])
def test_without_the_secret_it_is_503_and_the_log_names_the_variable(
        either, environ, send, define, stored, caplog, variable, path):
    """Who has no token gets 401 all the same: 503 would tell that there is such a workflow."""
    define("signed", secretEnv=variable)
    status = 401 if "ACCESS_TOKENS" in environ else 503
    for headers in (sign_github(""), by_hand_standard(b""), by_hand_slack(b""), sign_github()):
        caplog.clear()
        answer = send(headers, workflow="signed", path=path)
        assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
        assert variable not in answer.text
        [line] = [record.getMessage() for record in caplog.records]
        assert variable in line and "signed" in line
    token = {"x-access-token": TOKEN}
    assert send({**token, **sign_github()}, workflow="signed", path=path).status_code == 503
    assert stored() == []


@pytest.mark.parametrize("sign", [*SIGNERS.values(), dict], ids=[*SIGNERS, "none"])
def test_the_secret_is_never_told(environ, send, signed, flask, stored, caplog, sign):
    answers = [send(sign(), body, workflow=signed).text for body in (BODY, b"{}")]
    output = [flask("workflow", "show", signed).output, flask("workflow", "list", "--json").output,
              flask("workflowrun", "list", "--json").output, caplog.text, *answers]
    close_database()
    file = environ["DATABASE_URL"].removeprefix("sqlite:///")
    output.append(open(file, encoding="latin-1").read())
    for secret in (SECRET, SECRET[6:], hmac.new(SECRET.encode(), BODY, "sha256").hexdigest()):
        assert not any(secret in text for text in output)
    assert "HOOK_SECRET" in output[0]


# What has to be signed

def test_a_token_does_not_replace_the_signature(tokens, send, signed, stored):
    token = {"Authorization": f"Bearer {TOKEN}"}
    wrong = {**token, **sign_github(OTHER)}
    assert [send(headers, workflow=signed).status_code for headers in (token, wrong)] == [401, 401]
    assert stored() == []
    assert send({**token, **sign_github()}, workflow=signed).status_code == 200


@pytest.mark.parametrize("body, content_type, status", [
    (b"{", JSON, 400), (b"[]", JSON, 400), (b"\xff", JSON, 400),
    (b"{}", "text/html", 415)], ids=str)
@pytest.mark.parametrize("path", [WEBHOOK, EVENT])
def test_the_signature_is_checked_before_anything_is_parsed(
        either, send, signed, stored, path, body, content_type, status):
    for headers, expected in ((sign_github(), 401), (sign_github(body=body), status), ({}, 401)):
        answer = send(headers, body, path, content_type, workflow=signed)
        assert answer.status_code == expected
    assert stored() == []


@pytest.mark.parametrize("triggers, status", [
    ({"webhook": {"enabled": False}, "event": {"enabled": False}}, 403), (taking("v1"), 200)],
    ids=["disabled", "conditions not met"])
@pytest.mark.parametrize("path", [WEBHOOK, EVENT])
def test_trigger_and_conditions_are_told_to_signed_requests_only(
        either, send, define, stored, path, triggers, status):
    define("signed", secretEnv="HOOK_SECRET", triggers=triggers)
    body = json.dumps({**BUILT, "data": {"ref": "main"}}).encode()
    assert send({}, body, path, workflow="signed").status_code == 401
    assert send(sign_github(body=body), body, path, workflow="signed").status_code == status
    assert stored() == []


def event(**attributes):
    return json.dumps({**BUILT, "data": {"ref": "main"}, **attributes}).encode()


ROUTED = pytest.mark.parametrize("path, body", [
    (WEBHOOK, BODY), (EVENT, event()), (EVENT, event(subject="signed")),
    (EVENT, event(subject="/signed/1"))], ids=["webhook", "event", "subject", "subject's path"])


@ROUTED
@ANY_SIGNER
def test_a_workflow_that_was_not_named_has_to_be_signed_too(
        either, environ, send, define, stored, path, body, sign):
    """Where tokens are set, only a token lets a request be routed: signed as well as ever."""
    define("signed", secretEnv="HOOK_SECRET", triggers=taking("main"))
    define("other", secretEnv="OTHER_SECRET", triggers=taking("other"))
    token = {"x-access-token": TOKEN}
    unproved = [sign(SECRET, body)] if "ACCESS_TOKENS" in environ else []
    for headers in ({}, token, sign(OTHER, body), sign(SECRET, body + b" "), *unproved):
        assert send(headers, body, path).status_code == 401
    assert stored() == []
    run = send({**token, **sign(SECRET, body)}, body, path)
    assert (run.status_code, run.json["workflowRef"]) == (200, "signed")
    assert stored() == [run.json]


@pytest.mark.parametrize("name", ["signed", None], ids=["named", "routed"])
@pytest.mark.parametrize("path, body, headers", [
    (WEBHOOK, BODY, {"Idempotency-Key": "k"}), (WEBHOOK, BODY, {"webhook-id": "1"}),
    (WEBHOOK, BODY, {"X-GitHub-Delivery": "1"}), (EVENT, event(), {})], ids=str)
def test_a_repeat_has_to_be_signed_too(
        either, send, define, stored, name, path, body, headers):
    define("signed", secretEnv="HOOK_SECRET", triggers=taking("main"))
    query = {"workflow": name} if name else {}
    signature = {"X-Hub-Signature-256": sign_github(body=body)["X-Hub-Signature-256"],
                 "x-access-token": TOKEN}  # without a name, the signature alone is not enough
    run = send({**headers, **signature}, body, path, **query).json
    define("newcomer", triggers=taking("main"))
    for wrong in ({}, sign_slack(OTHER, body), {"x-access-token": TOKEN}):
        answer = send({**headers, **wrong}, body, path, **query)
        assert answer.status_code == 401 and run["id"] not in answer.text
    assert send({**headers, **signature}, body, path, **query).json == run
    assert stored() == [run]


@pytest.mark.parametrize("headers", [{}, sign_github(OTHER), sign_standard(OTHER),
                                     sign_slack(OTHER)], ids=["unsigned", *SIGNERS])
@pytest.mark.parametrize("path", [WEBHOOK, EVENT])
def test_an_unsigned_request_learns_nothing_about_the_conditions(
        either, send, define, stored, path, headers):
    """The same answer for payloads that no, one or two signed workflows would take."""
    define("one", secretEnv="HOOK_SECRET", triggers=taking("main"))
    define("two", secretEnv="OTHER_SECRET", triggers=taking("both"))
    define("three", secretEnv="HOOK_SECRET", triggers=taking("both"))
    answers = {}
    for ref in ("main", "both", "none"):
        body = json.dumps({**BUILT, "data": {"ref": ref}, "ref": ref}).encode()
        answer = send(headers, body, path)
        answers[ref] = answer.status_code, answer.data
    assert len(set(answers.values())) == 1 and answers["main"][0] == 401, answers
    assert stored() == []


def test_signed_workflows_do_not_close_an_open_one(send, signed, define, stored):
    define("signed", secretEnv="HOOK_SECRET", triggers=taking("v1"))
    define("free", triggers=taking("main"))
    assert [send(**query).status_code for query in ({}, {"workflow": "free"})] == [200, 200]
    assert {run["workflowRef"] for run in stored()} == {"free"}


# Senders that say hello first (section 8)

def ask(client, path, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.options(path, headers=headers)


@pytest.mark.parametrize("path", [WEBHOOK, EVENT, f"{WEBHOOK}?workflow=signed"])
@pytest.mark.parametrize("asked, allowed", [({}, "*"), ({"WebHook_Request_Rate": "120"}, "120")],
                         ids=["any rate", "120 a minute"])
def test_an_event_sender_may_ask_first(client, signed, stored, path, asked, allowed):
    answer = ask(client, path, WebHook_Request_Origin="events.example", **asked)
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["WebHook-Allowed-Origin"] == "events.example"
    assert answer.headers["WebHook-Allowed-Rate"] == allowed
    assert "POST" in answer.headers["Allow"].replace(" ", "").split(",")
    assert stored() == []


@pytest.mark.parametrize("path, asked", [
    (WEBHOOK, {}), (EVENT, {}), (EVENT, {"WebHook_Request_Rate": "1"}),
    ("/api/v2/callback", {"WebHook_Request_Origin": "events.example"}),
    (f"/{EVENT}", {"WebHook_Request_Origin": "events.example"})], ids=str)
def test_nothing_else_is_a_handshake(client, path, asked):
    answer = ask(client, path, **asked)
    assert answer.status_code == (404 if path.startswith("//") else 200)
    assert not [name for name, value in answer.headers if name.startswith("WebHook")]


@pytest.mark.parametrize("path", [WEBHOOK, EVENT])
def test_an_event_sender_that_asks_first_needs_a_token(tokens, client, path):
    origin = {"WebHook_Request_Origin": "events.example"}
    refused = ask(client, path, **origin)
    assert refused.status_code == 401
    assert not [name for name, value in refused.headers if name.startswith("WebHook")]
    assert ask(client, path, x_access_token=TOKEN, **origin).headers["WebHook-Allowed-Origin"]
    assert ask(client, f"{path}?access_token={TOKEN}", **origin).status_code == 200


PING = json.dumps({"zen": "Keep it logically awesome.", "hook_id": 1}).encode()
HELLOS = pytest.mark.parametrize("body, more, expected", [
    (CHALLENGE, {}, {"challenge": "3eZbrw1a"}),
    (PING, {"X-GitHub-Event": "ping"}, {"status": "skipped"})], ids=["Slack", "GitHub"])
WHATEVER = pytest.mark.parametrize("triggers", [
    {}, {"webhook": {"enabled": False}}, taking("main")], ids=["willing", "disabled", "not met"])


@HELLOS
@WHATEVER
@pytest.mark.parametrize("query", [{}, {"workflow": "release"}], ids=["no name", "named"])
def test_a_hello_is_answered_and_starts_nothing(
        send, define, stored, body, more, expected, triggers, query):
    define("release", triggers=triggers)
    answer = send(more, body, **query)
    assert (answer.status_code, answer.content_type) == (200, JSON)
    assert answer.json.items() >= expected.items()
    assert stored() == []
    assert send(more, body, workflow="nightly").status_code == 404
    assert send(more, body, content_type="text/html", **query).status_code == 415


@HELLOS
@WHATEVER
def test_a_hello_to_a_signed_workflow_is_signed(
        either, send, define, stored, body, more, expected, triggers):
    define("signed", secretEnv="HOOK_SECRET", triggers=triggers)
    for sign in SIGNERS.values():
        for headers in ({}, {"x-access-token": TOKEN}, sign(OTHER, body), sign(body=body + b" ")):
            assert send({**more, **headers}, body, workflow="signed").status_code == 401
        answer = send({**more, **sign(body=body)}, body, workflow="signed")
        assert answer.status_code == 200 and answer.json.items() >= expected.items()
    assert stored() == []


@HELLOS
@pytest.mark.parametrize("query", [{}, {"workflow": "release"}, {"workflow": "nightly"}],
                         ids=["no name", "known", "unknown"])
def test_a_hello_needs_a_token_where_others_do(
        tokens, send, define, stored, body, more, expected, query):
    define("release")
    for headers in ({}, {"x-access-token": "wrong"}, sign_github(body=body)):
        assert send({**more, **headers}, body, **query).status_code == 401
    answer = send({**more, "x-access-token": TOKEN}, body, **query)
    assert answer.status_code == (404 if query.get("workflow") == "nightly" else 200)
    assert stored() == []


@pytest.mark.parametrize("body, headers", [
    (b'{"type": "url_verification"}', {}), (b'{"challenge": "x"}', {}),
    (b'{"type": "event_callback", "challenge": "x"}', {}),
    (b'{"data": {"type": "url_verification", "challenge": "x"}}', {}),
    (b"{}", {"X-GitHub-Event": "push"}), (b'{"X-GitHub-Event": "ping"}', {})], ids=str)
def test_what_only_resembles_a_hello_starts_a_run(send, define, stored, body, headers):
    define("release")
    assert send(headers, body, workflow="release").json["workflowRef"] == "release"
    assert len(stored()) == 1


@HELLOS
def test_a_hello_is_for_webhooks_only(send, define, stored, body, more, expected):
    define("release")
    assert send(more, body, EVENT, workflow="release").status_code == 400
    assert stored() == []
