"""Both tables of senders (contract 7.2, 4.1): each with the shape that its documentation or library
gives it, and a twin that is refused. docs/senders.md says which setting each of them needs."""
import base64
import hashlib
import hmac
import json
import re
from datetime import datetime, timezone
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from conftest import sql, wait_task
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook

WEBHOOK, EVENT = "/api/v2/webhook", "/api/v2/event"
JSON, FORM, TEXT = "application/json", "application/x-www-form-urlencoded", "text/plain"
NOW = 1_795_424_400  # when the clock of conftest.py starts
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of every kind: Stripe's are named so too
OTHER = "whsec_bm90IHRoZSBzYW1lIHNlY3JldCA="
TOKEN = "token1"


def mac(secret, body):
    return hmac.new(secret.encode(), body, "sha256")


def hex_of(secret, body):
    return mac(secret, body).hexdigest()


def base64_of(secret, body):
    return base64.b64encode(mac(secret, body).digest()).decode()


def of_body(header, form="{}", encode=hex_of):
    """A signature of the body alone: of_body("X-Hub-Signature", "sha256={}")."""
    return lambda secret, body, time=NOW, id="1": {header: form.format(encode(secret, body))}


def standard(kind="webhook"):
    """By the package standardwebhooks. Svix's own package (`svix.webhooks`) signs with it, and
    needs seven more to be installed, so it is this one here, under Svix's headers."""
    def sign(secret, body, time=NOW, id="msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"):
        moment = datetime.fromtimestamp(time, timezone.utc)
        return {f"{kind}-id": id, f"{kind}-timestamp": str(time),
                f"{kind}-signature": Webhook(secret).sign(id, moment, body.decode())}
    return sign


def slack(secret, body, time=NOW, id=None):
    signature = SignatureVerifier(secret).generate_signature(timestamp=str(time), body=body)
    return {"X-Slack-Request-Timestamp": str(time), "X-Slack-Signature": signature}


def stripe(secret, body, time=NOW, id=None):
    """By the recipe that docs.stripe.com gives ("Verify webhook signatures manually"): the package
    has 31 MB. STRIPE_VECTOR is its own."""
    text = hex_of(secret, f"{time}.".encode() + body)
    return {"Stripe-Signature": f"t={time},v1={text},v0={'6ffbb59b' * 8}"}


#: What `stripe.WebhookSignature.generate_signature_header` (16.1.0) makes of body, secret and time.
STRIPE_VECTOR = "t=1795424400,v1=32c1cf7428ed2418e6e2d18acf431358c201277cb0a3e6871b435cad56597ead"


def the_secret(header):
    return lambda secret, body, time=NOW, id="1": {header: secret}


class Sender(NamedTuple):
    """What a sender sends; `repeat` is where it carries the id of a delivery, if anywhere."""
    sign: object
    body: bytes
    headers: dict = {}
    content_type: str = JSON
    content: dict = {}  # of the definition
    repeat: str | None = None


def dump(value):
    return json.dumps(value).encode()


PUSH = dump({"ref": "refs/heads/main", "after": "d6fde92930d4715a2b49857d24b940956b26d2d3"})
SENDERS = {
    # docs.github.com, "Validating webhook deliveries" and "Webhook events and payloads"
    "GitHub": Sender(of_body("X-Hub-Signature-256", "sha256={}"), PUSH, {
        "X-GitHub-Event": "push", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature": f"sha1={'0' * 40}"}, repeat="X-GitHub-Delivery"),
    "GitHub's form": Sender(of_body("X-Hub-Signature-256", "sha256={}"), urlencode(
        {"payload": PUSH.decode()}).encode(), {"X-GitHub-Delivery": "1"}, FORM,
        repeat="X-GitHub-Delivery"),
    # docs.gitea.com, "Webhooks"; what it sends for GitHub's sake says the same once more
    "Gitea": Sender(of_body("X-Gitea-Signature"), PUSH, {
        "X-Gitea-Event": "push", "X-Gitea-Delivery": "f6266f16-1bf3-46a5-9ea4-602e06ead473",
        "X-GitHub-Delivery": "f6266f16-1bf3-46a5-9ea4-602e06ead473",
        "X-Hub-Signature": f"sha1={'0' * 40}"}, repeat="X-GitHub-Delivery"),
    "Gogs": Sender(of_body("X-Gogs-Signature"), PUSH, {
        "X-Gogs-Event": "push", "X-GitHub-Delivery": "f6266f16"}, repeat="X-GitHub-Delivery"),
    "Forgejo": Sender(of_body("X-Forgejo-Signature"), PUSH, {
        "X-Forgejo-Event": "push", "X-GitHub-Delivery": "f6266f16"}, repeat="X-GitHub-Delivery"),
    # support.atlassian.com, "Manage webhooks" and "Event payloads"
    "Bitbucket": Sender(of_body("X-Hub-Signature", "sha256={}"), dump({"push": {"changes": []}}), {
        "X-Event-Key": "repo:push", "X-Hook-UUID": "2f4b9d0c", "X-Attempt-Number": "1",
        "X-Request-UUID": "a9f0c6e7-9f0b-4c8e-9d9e-2f7b1c3d4e5f"}, repeat="X-Request-UUID"),
    # developer.atlassian.com, Jira "Webhooks"
    "Jira": Sender(of_body("X-Hub-Signature", "sha256={}"), dump(
        {"timestamp": 1525698237764, "webhookEvent": "jira:issue_updated"}), {
        "X-Atlassian-Webhook-Identifier": "33b1d1c2"}, repeat="X-Atlassian-Webhook-Identifier"),
    # grafana.com, "Configure webhook notifications", "HMAC signature"
    "Grafana": Sender(of_body("X-Grafana-Alerting-Signature"), dump(
        {"receiver": "My Super Webhook", "status": "firing", "orgId": 1, "alerts": []})),
    # circleci.com, "Outbound webhooks", "Payload signature"
    "CircleCI": Sender(of_body("circleci-signature", "v1={},v2=later"), dump(
        {"id": "3888f21b-eaa7-38e3-8f3d-75a63bba8895", "type": "workflow-completed"}),
        {"circleci-event-type": "workflow-completed"}, content={"delivery_id": "data.id"},
        repeat="data.id"),
    # docs.pagerduty.com, "Verifying signatures": one for each secret that there is meanwhile
    "PagerDuty": Sender(of_body("X-PagerDuty-Signature", f"v1={'0' * 64},v1={{}}"), dump(
        {"event": {"id": "5ac64822-4adc-4fda-ade0-410becf0de4f",
                   "event_type": "incident.priority_updated"}}),
        content={"delivery_id": "data.event.id"}, repeat="data.event.id"),
    # linear.app, "Webhooks"
    "Linear": Sender(of_body("Linear-Signature"), dump(
        {"action": "create", "type": "Comment", "webhookTimestamp": 1676056940508}), {
        "Linear-Delivery": "234d1a4e-b617-4388-90fe-adc3633d6b72", "Linear-Event": "Comment"},
        "application/json; charset=utf-8", repeat="Linear-Delivery"),
    # docs.sentry.io, "Webhooks"
    "Sentry": Sender(of_body("Sentry-Hook-Signature"), dump(
        {"action": "created", "installation": {"uuid": "7a485448"}}), {
        "Sentry-Hook-Resource": "issue", "Request-ID": "5f0c"}),
    # shopify.dev, "Deliver webhooks through HTTPS"
    "Shopify": Sender(of_body("X-Shopify-Hmac-Sha256", encode=base64_of), dump({"id": 820982911}), {
        "X-Shopify-Topic": "orders/create", "X-Shopify-Shop-Domain": "shop.myshopify.com",
        "X-Shopify-Webhook-Id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043"},
        repeat="X-Shopify-Webhook-Id"),
    # developer.clickup.com, "Webhook signature": the one that the definition names
    "signatureHeader": Sender(of_body("X-Signature"), dump({"event": "taskCreated"}),
                              content={"signature_header": "x-signature"}),
    # The package standardwebhooks; GitLab's signing tokens are the same
    "Standard Webhooks": Sender(standard(), PUSH, repeat="webhook-id"),
    "Svix": Sender(standard("svix"), PUSH, repeat="svix-id"),
    "Slack's event": Sender(slack, dump(  # The package slack_sdk; docs.slack.dev, "Events API"
        {"type": "event_callback", "event_id": "Ev0PV52K21", "event": {"type": "message"}}), {
        "X-Slack-Retry-Num": "1"}, content={"delivery_id": "data.event_id"},
        repeat="data.event_id"),
    "Slack's command": Sender(slack, b"token=gIkuvaNzQIHg97ATvDxqgjtO&command=%2Fdeploy&text="
                              b"&trigger_id=13345224609.738474920.8088930838d88f008e0", {}, FORM,
                              content={"delivery_id": "data.trigger_id"},
                              repeat="data.trigger_id"),
    "Slack's button": Sender(slack, urlencode({"payload": json.dumps(
        {"type": "block_actions", "trigger_id": "1.2.3", "actions": []})}).encode(), {}, FORM,
        content={"delivery_id": "data.trigger_id"}, repeat="data.trigger_id"),
    "Stripe": Sender(stripe, dump(  # docs.stripe.com, "The Event object"
        {"id": "evt_1NG8Du2eZvKYlo2CUI79vXWy", "object": "event", "type": "setup_intent.created"}),
        {}, "application/json; charset=utf-8", {"delivery_id": "data.id"}, "data.id"),
    # docs.gitlab.com, "Webhooks": the key stays the same when it sends again
    "GitLab": Sender(the_secret("X-Gitlab-Token"), dump({"object_kind": "push"}), {
        "X-Gitlab-Event": "Push Hook", "X-Gitlab-Event-UUID": "13792a34-cac6-4fda-95a8",
        "Idempotency-Key": "f5e57383-7e7e-4e5a-a2c1-c2c9b9f4a1d6"}, repeat="Idempotency-Key"),
    "older GitLab": Sender(the_secret("X-Gitlab-Token"), dump({"object_kind": "push"}), {
        "X-Gitlab-Event-UUID": "13792a34"}, repeat="X-Gitlab-Event-UUID"),
    # buildkite.com, "Webhooks", "HTTP headers"
    "Buildkite": Sender(the_secret("X-Buildkite-Token"), dump(
        {"event": "build.finished", "build": {"id": "f62a1b4d-10f9"}}), {
        "X-Buildkite-Event": "build.finished", "X-Buildkite-Request": "f1a2"},
        content={"delivery_id": "data.build.id"}, repeat="data.build.id"),
}
#: Senders that sign nothing that is checked here: a token in their header or URL lets them in.
UNSIGNED = {
    # docs.aws.amazon.com, SNS "HTTP/HTTPS headers" and "Notification JSON format"
    "SNS": Sender(None, dump({"Type": "Notification", "MessageId": "22b80b92", "Message": "x"}), {
        "x-amz-sns-message-type": "Notification",
        "x-amz-sns-message-id": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"},
        "text/plain; charset=UTF-8", repeat="x-amz-sns-message-id"),
    # prometheus.io, Alertmanager "webhook_config"
    "Alertmanager": Sender(None, dump({"version": "4", "groupKey": "{}:{}", "status": "firing",
                                       "alerts": [{"status": "firing"}]})),
    # docs.travis-ci.com, "Configuring webhook notifications"
    "Travis": Sender(None, urlencode({"payload": '{"id": 1, "state": "passed"}'}).encode(), {},
                     FORM, {"delivery_id": "data.id"}, "data.id"),
    # twilio.com, "Twilio's request to your webhook URL"
    "Twilio": Sender(None, b"MessageSid=SM1&Body=&From=%2B15017122661&To=%2B15558675310", {},
                     "application/x-www-form-urlencoded; charset=UTF-8",
                     {"delivery_id": "data.MessageSid"}, "data.MessageSid"),
    # Healthchecks.io "Webhooks", Home Assistant's `rest_command`, Argo's notifications: no type
    "no Content-Type": Sender(None, b'{"check": "backup", "state": "down"}', {}, None),
    "a type of its own": Sender(None, b'{"a": 1}', {}, "application/vnd.acme.v2+json"),
}
SIGNED = pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS)
ALL = pytest.mark.parametrize("sender", {**SENDERS, **UNSIGNED}.values(),
                              ids={**SENDERS, **UNSIGNED})
OF_BODY = pytest.mark.parametrize("sender", [
    sender for sender in SENDERS.values() if "Token" not in str(sender.sign(SECRET, b""))],
    ids=[name for name, sender in SENDERS.items() if "Token" not in str(sender.sign(SECRET, b""))])


@pytest.fixture
def environ(environ):
    return {**environ, "HOOK_SECRET": SECRET}


@pytest.fixture(params=["open", "tokens set"])
def either(request, environ):
    """Asked for before the client: once without tokens, once with them."""
    environ.update({"ACCESS_TOKENS": TOKEN} if request.param == "tokens set" else {})


@pytest.fixture
def made_for(define, environ):
    """Define the workflow `hooked` for a sender."""
    def made_for(sender, **keys):
        if sender.sign:
            keys["secretEnv"] = "HOOK_SECRET"
        define("hooked", wait_task("tests"), **keys)
        (text,), = sql(environ["DATABASE_URL"], "SELECT definition FROM workflow")
        content = json.dumps({**json.loads(text), **sender.content})
        sql(environ["DATABASE_URL"], "UPDATE workflow SET definition = ?", content)
        return "hooked"
    return made_for


@pytest.fixture
def send(client):
    """Send as the sender does: send(sender, OTHER, body=b"{}", Idempotency_Key="k")."""
    def send(sender, secret=SECRET, body=None, time=NOW, path=f"{WEBHOOK}?workflow=hooked", **more):
        body = sender.body if body is None else body
        signature = sender.sign(secret, sender.body, time) if sender.sign else {}
        more = {name.replace("_", "-"): value for name, value in more.items()}
        return client.post(path, data=body, content_type=sender.content_type,
                           headers={**sender.headers, **signature, **more})
    return send


@pytest.fixture
def stored(flask):
    return lambda: flask.json("workflowrun", "list", "--json")


def payload(run):
    return run["params"][0]["value"]


# Each sender, and its twin

@SIGNED
def test_a_sender_with_the_secret_starts_a_run(either, made_for, send, stored, sender):
    made_for(sender)
    answer = send(sender)
    assert (answer.status_code, answer.json["workflowRef"]) == (200, "hooked")
    if sender.content_type != FORM:
        assert payload(answer.json) == json.loads(sender.body)
    assert stored() == [answer.json]


@SIGNED
def test_a_sender_with_another_secret_is_401(either, made_for, send, stored, sender):
    made_for(sender)
    assert send(sender, OTHER).status_code == 401
    assert send(sender._replace(sign=lambda *args: {})).status_code == 401
    assert stored() == []


@OF_BODY
def test_a_sender_whose_body_was_changed_is_401(either, made_for, send, stored, sender):
    made_for(sender)
    assert send(sender, body=sender.body + b" ").status_code == 401
    assert stored() == []


@pytest.mark.parametrize("name", ["Standard Webhooks", "Svix", "Slack's event", "Stripe"])
@pytest.mark.parametrize("off, status", [(300, 200), (301, 401), (-300, 200), (-301, 401)])
def test_a_time_that_is_covered_is_good_for_five_minutes(
        made_for, send, stored, name, off, status):
    made_for(SENDERS[name])
    assert send(SENDERS[name], time=NOW + off).status_code == status
    assert len(stored()) == (status == 200)


@ALL
def test_what_a_sender_repeats_is_a_repeat_where_it_carries_an_id(made_for, send, stored, sender):
    made_for(sender)
    first, again = send(sender).json, send(sender).json
    assert (first == again) == bool(sender.repeat)
    assert len(stored()) == (1 if sender.repeat else 2)


@ALL
def test_another_id_is_another_delivery(made_for, send, stored, sender):
    made_for(sender)
    first = send(sender).json
    if (sender.repeat or "data.").startswith("data."):
        return
    other = {sender.repeat.replace("-", "_"): "another"}
    if sender.repeat in ("webhook-id", "svix-id"):  # which is signed
        sign = SENDERS["Standard Webhooks" if sender.repeat == "webhook-id" else "Svix"].sign
        other = {}
        sender = sender._replace(sign=lambda *args: sign(*args, id="another"))
    assert send(sender, **other).json["id"] != first["id"]
    assert len(stored()) == 2


@pytest.mark.parametrize("secret, body, headers", [
    # GitHub's and Bitbucket's documentation have the same secret with two bodies
    ("It's a Secret to Everybody", b"Hello, World!", {"X-Hub-Signature-256":
     "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}),
    ("It's a Secret to Everybody", b"Hello World!", {"X-Hub-Signature":
     "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"}),
    # CircleCI's "Payload signature"
    ("secret", b"hello world", {"circleci-signature":
     "v1=734cc62f32841568f45715aeb9f4d7891324e6d948e4c6c60c0621cdac48623a"}),
    ("hunter123", b"an-important-request-payload", {"circleci-signature":
     "v1=9be2242094a9a8c00c64306f382a7f9d691de910b4a266f67bd314ef18ac49fa"}),
    ("whsec_x", b"{}", {"Stripe-Signature": STRIPE_VECTOR})],
    ids=["GitHub", "Bitbucket", "CircleCI", "CircleCI again", "Stripe"])
def test_a_published_example_is_accepted(environ, made_for, client, secret, body, headers):
    """Accepted, and then 415 where it is no JSON."""
    environ["HOOK_SECRET"] = secret
    made_for(SENDERS["GitHub"])
    for text, status in ((body, 200 if body == b"{}" else 415), (body + b" ", 401)):
        answer = client.post(f"{WEBHOOK}?workflow=hooked", data=text, headers=headers,
                             content_type=TEXT)
        assert answer.status_code == status


# How a signature of the body is written

WRITTEN = {"hex": "{hex}", "sha256=": "sha256={hex}", "v1=": "v1={hex}", "base64": "{base64}",
           "sha256= base64": "sha256={base64}", "in a list": "v0=1, v1={wrong} ,v1={hex}",
           "first of a list": "{base64},{wrong}"}
WRITTEN_WRONGLY = {
    "empty": "", "prefix only": "sha256=", "cut": "{cut}", "in capitals": "SHA256={hex}",
    "twice the prefix": "sha256=sha256={hex}", "another list": "v1={wrong} v1={hex}",
    "quoted": '"{hex}"', "sha1": "sha1={hex}", "no padding": "{unpadded}"}


@pytest.mark.parametrize("header", ["X-Hub-Signature-256", "X-Gitea-Signature", "Linear-Signature"])
@pytest.mark.parametrize("text, status", [
    *((text, 200) for text in WRITTEN.values()), *((text, 401) for text in
                                                   WRITTEN_WRONGLY.values())],
    ids=[*WRITTEN, *WRITTEN_WRONGLY])
def test_a_signature_of_the_body_may_be_written(made_for, send, header, text, status):
    sender = SENDERS["GitHub"]
    right = {"hex": hex_of(SECRET, sender.body), "base64": base64_of(SECRET, sender.body),
             "wrong": hex_of(OTHER, sender.body)}
    text = text.format(**right, cut=right["hex"][:-1], unpadded=right["base64"][:-1])
    made_for(sender)
    assert send(sender._replace(sign=lambda *args: {header: text})).status_code == status


# Secrets

@SIGNED
def test_two_secrets_are_good_while_one_is_being_changed(
        environ, made_for, send, stored, sender):
    made_for(sender)
    environ["HOOK_SECRET"] = f"\n{OTHER} ,, {SECRET}\r\n"
    assert [send(sender, secret).status_code for secret in (SECRET, OTHER)] == [200, 200]
    environ["HOOK_SECRET"] = f" {OTHER}\n"
    assert [send(sender, secret).status_code for secret in (SECRET, OTHER)] == [401, 200]
    assert stored()


KNOWN_TO_ALL = ["", " ", "\n", ",", " , ", "whsec_", " whsec_\n", "whsec_,", "whsec_==",
                "whsec_ , whsec_="]


@pytest.mark.parametrize("name", SENDERS)
def test_what_everybody_knows_is_no_secret(either, environ, made_for, send, stored, caplog, name):
    made_for(SENDERS[name])
    fakes = [SENDERS[name].sign("whsec_", b"")] if "ndard" not in name and name != "Svix" else [{}]
    for secret in KNOWN_TO_ALL:
        environ["HOOK_SECRET"] = secret
        caplog.clear()
        for fake in [*fakes, {"X-Gitlab-Token": ""}, {"X-Gitlab-Token": secret.strip()}]:
            answer = send(SENDERS[name]._replace(sign=lambda *args: fake))
            assert answer.status_code == (401 if "ACCESS_TOKENS" in environ else 503), secret
        assert "HOOK_SECRET" in caplog.text and "hooked" in caplog.text, secret
    assert stored() == []


@pytest.mark.parametrize("name, status", [
    ("GitHub", 200), ("Slack's event", 200), ("Stripe", 200), ("GitLab", 200)])
def test_a_whsec_that_is_not_base64_serves_the_other_kinds(
        environ, made_for, send, client, name, status):
    environ["HOOK_SECRET"] = secret = "whsec_not!base64"
    sender = SENDERS[name]
    made_for(sender)
    assert send(sender, secret).status_code == status
    for key in (secret, secret[6:], ""):
        text = f"1.{NOW}.".encode() + sender.body
        fake = {"webhook-id": "1", "webhook-timestamp": str(NOW),
                "webhook-signature": f"v1,{base64_of(key, text)}"}
        assert send(sender._replace(sign=lambda *args: fake)).status_code == 401


@pytest.mark.parametrize("size, chunked", [(10, False), (2_000_000, False), (2_000_000, True)])
def test_a_named_header_tells_no_stranger_that_there_is_a_workflow(
        environ, request, size, chunked):
    environ["ACCESS_TOKENS"] = TOKEN
    client, made_for = (request.getfixturevalue(name) for name in ("client", "made_for"))
    made_for(SENDERS["signatureHeader"])
    length = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""} if chunked else {}
    seen = {(answer.status_code, answer.data, str(answer.headers)) for answer in [client.post(
        f"{WEBHOOK}?workflow={name}", data=b" " * size, content_type=JSON, headers=headers,
        environ_overrides=length)
        for name in ("hooked", "nightly") for headers in ({}, {"X-Signature": "guess"})]}
    assert len(seen) == 1


# What is covered

@pytest.mark.parametrize("name", ["Standard Webhooks", "Svix"])
@pytest.mark.parametrize("routed", [False, True], ids=["named", "routed"])
def test_a_covered_id_counts_and_no_other(made_for, send, stored, name, routed):
    """A captured request that is sent again with a key that nobody signed starts nothing."""
    sender = SENDERS[name]
    made_for(sender, triggers={"webhook": {"conditions": [
        {"field": "data.ref", "operation": "equals", "value": "refs/heads/main"}]}})
    path = WEBHOOK if routed else f"{WEBHOOK}?workflow=hooked"
    run = send(sender, path=path).json
    for more in ({"Idempotency_Key": "a"}, {"Idempotency_Key": "b"}, {"X_GitHub_Delivery": "1"},
                 {"Idempotency_Key": "a", "X_Request_UUID": "2"}):
        assert send(sender, path=path, **more).json == run
    assert stored() == [run]


@pytest.mark.parametrize("kind, other", [("svix", "webhook"), ("webhook", "svix")])
def test_a_covered_id_is_the_same_under_the_other_names(made_for, send, stored, kind, other):
    """Svix's headers and Standard Webhooks' carry the same signature: they can be renamed."""
    sender = SENDERS["Standard Webhooks"]._replace(sign=standard(kind))
    made_for(sender)
    run = send(sender).json
    renamed = {name.replace(kind, other): value for name, value in
               standard(kind)(SECRET, sender.body).items()}
    assert send(sender._replace(sign=lambda *args: renamed)).json == run
    assert stored() == [run]


@pytest.mark.parametrize("name", [name for name, sender in SENDERS.items()
                                  if sender.content.get("delivery_id") and name != "Buildkite"])
def test_an_id_in_a_signed_body_goes_before_an_unsigned_key(made_for, send, stored, name):
    made_for(SENDERS[name])
    run = send(SENDERS[name]).json
    assert send(SENDERS[name], Idempotency_Key="a").json == run
    assert stored() == [run]


def test_a_key_that_is_not_covered_counts_where_no_id_is(made_for, send, stored):
    sender = SENDERS["Grafana"]
    made_for(sender)
    runs = [send(sender, Idempotency_Key=key).json["id"] for key in ("a", "b", "a")]
    assert runs[0] == runs[2] != runs[1]
    other = sender._replace(body=dump({"status": "resolved"}))
    assert send(other, Idempotency_Key="a").status_code == 422


@pytest.mark.parametrize("name", ["Standard Webhooks", "Slack's event", "Slack's command",
                                  "Stripe"])
@pytest.mark.parametrize("content_type", [FORM, TEXT, JSON, None])
def test_what_is_signed_with_its_time_is_no_body_that_was_signed(
        made_for, send, clock, stored, name, content_type):
    """Or a captured request could be sent again for ever: the time as a part of the body."""
    sender = SENDERS[name]
    made_for(sender)
    signature = sender.sign(SECRET, sender.body)
    prefix = {"Stand": f"msg_2KWPBgLlAfxdpx2AI54pPJ85f4W.{NOW}.", "Slack": f"v0:{NOW}:",
              "Strip": f"{NOW}."}[name[:5]]
    text = next(value for key, value in signature.items() if key.lower().endswith("signature"))
    text = re.search("[0-9a-f]{64}|$", text)[0]
    if name == "Standard Webhooks":  # whose key is not the secret's text: as if it were
        text = base64_of(SECRET, prefix.encode() + sender.body)
    clock.advance(minutes=60)
    for header in ("X-Hub-Signature-256", "Linear-Signature", "X-Shopify-Hmac-Sha256"):
        answer = send(sender._replace(sign=lambda *args: {header: text}, content_type=content_type),
                      body=prefix.encode() + sender.body)
        assert answer.status_code == 401
    assert stored() == []


# Binary events

ATTRIBUTES = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/ci", "ce-type": "built"}


@OF_BODY
def test_a_signature_of_the_body_lets_no_binary_event_in(either, made_for, send, stored, sender):
    """Its attributes are in headers that nobody signed. With a token as well, he may."""
    made_for(sender, triggers={"event": {"conditions": [
        {"field": "event.type", "operation": "equals", "value": "built"}]}})
    sender = sender._replace(headers={**sender.headers, **ATTRIBUTES}, content_type=JSON, body=PUSH)
    for path in (EVENT, f"{EVENT}?workflow=hooked"):
        assert send(sender, path=path).status_code == 401
        assert send(sender._replace(content_type=None), path=path).status_code == 401
    assert stored() == []


def test_with_a_token_as_well_a_binary_event_may_be_signed(environ, request):
    environ["ACCESS_TOKENS"] = TOKEN
    made_for, send = (request.getfixturevalue(name) for name in ("made_for", "send"))
    sender = SENDERS["GitHub"]._replace(headers=ATTRIBUTES)
    made_for(sender)
    path = f"{EVENT}?workflow=hooked"
    assert send(sender, path=path).status_code == 401
    assert send(sender, path=path, x_access_token=TOKEN).status_code == 200
    assert send(sender, OTHER, path=path, x_access_token=TOKEN).status_code == 401


def test_the_secret_itself_lets_a_binary_event_in(made_for, send):
    sender = SENDERS["GitLab"]._replace(headers=ATTRIBUTES)
    made_for(sender)
    assert send(sender, path=f"{EVENT}?workflow=hooked").status_code == 200


def test_a_structured_event_is_signed_as_a_whole(made_for, send, stored):
    event = dump({"specversion": "1.0", "id": "1", "source": "/ci", "type": "built"})
    sender = SENDERS["Standard Webhooks"]._replace(
        body=event, content_type="application/cloudevents+json", headers=ATTRIBUTES)
    made_for(sender)
    run = send(sender, path=f"{EVENT}?workflow=hooked")
    assert run.status_code == 200 and stored() == [run.json]


# Delivery ids (contract 4.1), the first of which counts

IDS = ["Idempotency-Key", "data.event_id", "webhook-id", "svix-id", "X-GitHub-Delivery",
       "X-Gitlab-Event-UUID", "X-Request-UUID", "X-Atlassian-Webhook-Identifier",
       "Linear-Delivery", "X-Shopify-Webhook-Id", "x-amz-sns-message-id"]
OPEN = Sender(None, b"{}", content={"delivery_id": "data.event_id"})


def carrying(**ids):
    """An unsigned request with these ids, by where they stand."""
    event_id = ids.pop("data.event_id", None)
    return OPEN._replace(headers=ids, body=dump({"event_id": event_id} if event_id else {}))


@pytest.mark.parametrize("place", IDS)
def test_the_same_id_is_a_repeat_and_its_neighbours_below_do_not_count(
        made_for, send, stored, place):
    made_for(OPEN)
    below = IDS[IDS.index(place) + 1:]
    run = send(carrying(**{place: "k"}, **dict.fromkeys(below, "1"))).json
    more = dict.fromkeys(below, "2")
    if place == "Idempotency-Key":
        assert send(carrying(**{place: "k"}, **more)).status_code == 422  # the payload differs
        more["data.event_id"] = "1"
    assert send(carrying(**{place: "k"}, **more)).json == run
    assert send(carrying(**{place: "l"}, **more)).json["id"] != run["id"]
    assert len(stored()) == 2


def test_the_same_value_in_another_place_is_another_delivery(made_for, send, stored):
    made_for(OPEN)
    assert len({send(carrying(**{place: "k"})).json["id"] for place in IDS}) == len(IDS)


@pytest.mark.parametrize("value, repeats", [
    ("Ev1", True), (7, True), (1.5, True), (0, True), ("", False), (True, False), (None, False),
    (["a"], False), ({"a": 1}, False)], ids=str)
def test_an_id_in_the_payload_is_text_or_a_number(made_for, send, stored, value, repeats):
    made_for(OPEN)
    sender = OPEN._replace(body=dump({"event_id": value}))
    send(sender), send(sender)
    assert len(stored()) == (1 if repeats else 2)
    assert send(OPEN._replace(body=dump({"event_id": "1", "n": 2}))).status_code == 200


@pytest.mark.parametrize("one, other", [(b"1", b"1.0"), (b"0", b"-0.0"), (b"100", b"1e2"),
                                        (b"1.5", b"15e-1"), (b'"a"', b'"\\u0061"')])
def test_equal_ids_in_two_spellings_are_one_delivery(made_for, send, stored, one, other):
    made_for(OPEN)
    for value in one, other:
        send(OPEN._replace(body=b'{"event_id": %s}' % value))
    assert len(stored()) == 1


def test_a_number_is_not_the_text_of_it(made_for, send, stored):
    made_for(OPEN)
    send(OPEN._replace(body=b'{"event_id": 1}')), send(OPEN._replace(body=b'{"event_id": "1"}'))
    assert len(stored()) == 2


def test_a_routed_repeat_is_known_by_the_id_in_its_payload(made_for, send, stored, define):
    """Before conditions are looked at: the definition may have changed meanwhile."""
    def when(value):
        return {"webhook": {"conditions": [
            {"field": "data.n", "operation": "equals", "value": value}]}}
    made_for(OPEN, triggers=when(1))
    sender = OPEN._replace(body=b'{"event_id": "e", "n": 1}')
    run = send(sender, path=WEBHOOK).json
    assert run["workflowRef"] == "hooked"
    made_for(OPEN, triggers=when(2))
    assert send(sender, path=WEBHOOK).json == run
    assert stored() == [run]


def test_ids_that_earlier_versions_stored_are_still_known(made_for, send, environ, stored):
    """They stored the digest of ["webhook", FIELD, value]."""
    made_for(OPEN)
    for header, field in (("Idempotency-Key", "idempotency_key"), ("webhook-id", "webhook_id"),
                          ("X-GitHub-Delivery", "github_delivery")):
        run = send(carrying(**{header: "k"})).json
        (key,), = sql(environ["DATABASE_URL"],
                      "SELECT delivery_key FROM workflow_run WHERE id = ?", run["id"])
        assert key == hashlib.sha256(dump(["webhook", field, "k"])).hexdigest()


# Forms and forgotten types

@pytest.mark.parametrize("body, expected", [
    ("payload=%7B%22a%22%3A+1%7D&other=1", {"a": 1}), ("payload=1", {"payload": "1"}),
    ("payload=%5B%5D&x=", {"payload": "[]", "x": ""}), ("payload=%7B&x", {"payload": "{", "x": ""}),
    ("payload=%7B%7D&payload=%7B%7D", {"payload": ["{}", "{}"]}),
    ("a=1&a=2&b=%C3%A9", {"a": ["1", "2"], "b": "é"}), ("a+b=c+d", {"a b": "c d"}),
    ("text=é", {"text": "é"})], ids=str)
def test_a_form_is_the_object_that_it_holds_or_of_its_fields(
        made_for, send, stored, body, expected):
    made_for(OPEN)
    run = send(OPEN._replace(body=body.encode(), content_type=FORM)).json
    assert payload(run) == expected
    assert stored() == [run]


@pytest.mark.parametrize("content_type, body, status, said", [
    (FORM, b'{"a": 1}', 415, "application/json"), (FORM, b' \n{"a": "b=c"}', 415, "curl"),
    (FORM, b"", 400, "is empty"), (FORM, b"a=%FF", 400, "UTF-8"), (FORM, b"\xff", 400, "UTF-8"),
    (FORM, b"&".join([b"a=1"] * 1001), 400, "too many"), (None, b"", 415, "and a body"),
    (None, b"hello", 415, "is no JSON"), (TEXT, b"hello", 415, "text/plain"),
    (TEXT, b"[]", 400, "object"), (JSON, b"", 400, "send a JSON object")], ids=str)
def test_what_cannot_be_read_is_refused_with_what_to_send(
        made_for, send, stored, content_type, body, status, said):
    made_for(OPEN)
    answer = send(OPEN._replace(body=body, content_type=content_type))
    assert answer.status_code == status
    assert said in answer.json["detail"] and "None" not in answer.json["detail"]
    assert stored() == []


@pytest.mark.parametrize("path", [WEBHOOK, EVENT, "/api/v2/callback"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
def test_a_compressed_body_is_415_everywhere(client, path, encoding):
    answer = client.post(path, data=b"{}", content_type=JSON,
                         headers={"Content-Encoding": encoding})
    assert answer.status_code == 415 and encoding in answer.json["detail"]
    answer = client.post(path, data=b"a=1", content_type=FORM,
                         headers={"Content-Encoding": encoding})
    assert answer.status_code == 415 and encoding in answer.text


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_that_says_it_is_as_it_is_is_read(made_for, send, encoding):
    made_for(OPEN)
    assert send(OPEN, Content_Encoding=encoding).status_code == 200


FOREIGN = [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
           {"Origin": "https://localhost"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("content_type, body", [(FORM, b"a=1"), (TEXT, b"{}"), (None, b"{}")])
def test_what_another_sites_page_sent_is_403_unless_declared_as_json(
        made_for, send, stored, headers, content_type, body):
    made_for(OPEN)
    sender = OPEN._replace(body=body, content_type=content_type, headers=headers)
    assert send(sender).status_code == 403 and stored() == []
    assert send(sender._replace(body=b"{}", content_type=JSON)).status_code == 200


@pytest.mark.parametrize("headers", [
    {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.a.proxy"}], ids=str)
def test_what_a_page_of_our_own_sent_is_taken(made_for, send, headers):
    made_for(OPEN)
    sender = OPEN._replace(body=b"a=1", content_type=FORM, headers=headers)
    assert send(sender).status_code == 200
