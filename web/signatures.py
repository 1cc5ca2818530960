"""How a caller proves itself: tokens, senders' signatures, signed links. Pure functions."""
import base64
import hashlib
import hmac
import json
import re
import secrets
from typing import NamedTuple
from urllib.parse import urlencode

from itsdangerous import Signer

from runs.refusals import BadLink, Denied, Expired

TOLERANCE = 300  # seconds that a signature's timestamp may be off
NOBODY = secrets.token_hex(16)  # a secret that no sender has


def same(one, other):
    """Whether two texts are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"),
                               other.encode("utf-8", "surrogateescape"))


# Tokens (contract 7.1)

def offered_token(tokens, headers, parameters):
    """The one of the (name or None, token) pairs that the request carries, or None.

    It may come in any of three places.
    """
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    offered = [bearer.strip() if scheme.lower() == "bearer" else "",
               headers.get("x-access-token", ""), *parameters.get("access_token", [])]
    found = [pair for offer in offered for pair in tokens if same(offer, pair[1])]
    return found[0] if found else None


# Sender signatures (contract 7.2)

class Signature(NamedTuple):
    """What a proof that let a sender in covers."""
    covers_body: bool = True
    time: str | None = None
    delivery_id: str | None = None  # this, and no unsigned one, makes repeats known


def secrets_in(text):
    """The secrets of a variable's text, newest first, without those that everybody knows."""
    words = [word.strip() for word in (text or "").split(",")]
    return [word for word in words if word and re.sub("^whsec_=*$", "", word)]


def verify_signature(known, headers, body, now, signature_header=None):
    """The Signature by which a sender has signed the raw body with one of the known secrets.

    `now` is in milliseconds; `signature_header` is the one that the definition names. Raises
    Denied.
    """
    verifiers, unfit = {signature_header: of_body, **VERIFIERS}, []
    for header in [header for header in verifiers if header and header in headers]:
        found = [verifiers[header](secret, header, headers, body) for secret in known]
        for signature in filter(None, found):
            if signature.time is None or is_fresh(signature.time, now / 1000):
                return signature
            unfit.append(f"{header} is for no time within {TOLERANCE // 60} minutes from now")
        if not any(found):
            unfit.append(f"{header} does not fit the body and the secret")
    raise Denied("; ".join(unfit) or "this workflow is started by signed requests only")


def of_body(secret, header, headers, body):
    """The HMAC of the body; one that a signature with a time has covered is no body by itself."""
    macs = [re.sub("^(sha256|v1)=", "", mac.strip()) for mac in headers[header].split(",")]
    if fits(macs, secret.encode(), body) and not WITH_TIME.match(body):
        return Signature()


def standard(secret, header, headers, body):
    """Standard Webhooks 1.0; Svix, whose it was at first, calls the same headers svix-…"""
    kind = header.removesuffix("signature")
    identity, time = headers.get(f"{kind}id", ""), headers.get(f"{kind}timestamp", "")
    macs = [mac[3:] for mac in headers[header].split() if mac.startswith("v1,")]
    if (key := standard_key(secret)) and fits(macs, key, body, f"{identity}.{time}."):
        return Signature(time=time, delivery_id=identity)


def standard_key(secret):
    text = secret.removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:  # a secret made for another way of signing
        key = b""
    return key or (not secret.startswith("whsec_") and secret.encode())


def slack(secret, header, headers, body):
    """Slack, "Verifying requests from Slack"."""
    time = headers.get("X-Slack-Request-Timestamp", "")
    macs = [headers[header].removeprefix("v0=")] if headers[header].startswith("v0=") else []
    if fits(macs, secret.encode(), body, f"v0:{time}:"):
        return Signature(time=time)


def stripe(secret, header, headers, body):
    """Stripe, "Verify webhook signatures manually"."""
    parts = [part.strip().partition("=")[::2] for part in headers[header].split(",")]
    time = next((value for name, value in parts if name == "t"), "")
    macs = [value for name, value in parts if name == "v1"]
    if fits(macs, secret.encode(), body, f"{time}."):
        return Signature(time=time)


def the_secret(secret, header, headers, body):
    if same(headers[header], secret):
        return Signature(covers_body=False)


#: Each header that can carry a proof, and how it is checked: a new sender is a line.
VERIFIERS = {
    "X-Hub-Signature-256": of_body,  # GitHub, Gitea, Forgejo
    "X-Hub-Signature": of_body,  # Bitbucket, Jira
    "X-Gitea-Signature": of_body,
    "X-Gogs-Signature": of_body,
    "X-Forgejo-Signature": of_body,
    "X-Grafana-Alerting-Signature": of_body,
    "circleci-signature": of_body,
    "X-PagerDuty-Signature": of_body,
    "Linear-Signature": of_body,
    "Sentry-Hook-Signature": of_body,
    "X-Shopify-Hmac-Sha256": of_body,
    "webhook-signature": standard,
    "svix-signature": standard,
    "X-Slack-Signature": slack,
    "Stripe-Signature": stripe,
    "X-Gitlab-Token": the_secret,
    "X-Buildkite-Token": the_secret,
}


def is_signed(headers, own_header=None):
    """Whether a header that can carry a proof is there; who sends none is refused unread."""
    return any(header in headers for header in (*VERIFIERS, own_header or ""))


#: How what a signature with a time covers begins, if sent as a body: no JSON or form begins so.
WITH_TIME = re.compile(rb"v0:\d+:|(?:[^{=&]*\.)?\d{9,12}\.")


def fits(macs, key, body, prefix=""):
    """Whether one of the texts is the whole HMAC-SHA256 of prefix and body, in hex or base64."""
    mac = hmac.new(key, prefix.encode("latin-1"), hashlib.sha256)
    mac.update(body)
    wanted = [mac.hexdigest(), base64.b64encode(mac.digest()).decode()]
    return any([same(one, other) for one in macs for other in wanted])


def is_fresh(timestamp, now):
    return (re.fullmatch(r"\d{1,12}", timestamp, re.ASCII)
            and abs(now - int(timestamp)) <= TOLERANCE)


# What the service itself signs (contract 10)

def sign_standard(keys, identity, timestamp, body):
    """The headers by which a receiver checks the text (Standard Webhooks 1.0), one signature a key.
    """
    signed = f"{identity}.{timestamp}.{body}".encode()
    macs = [hmac.digest(standard_key(key) or key.encode(), signed, "sha256") for key in keys]
    return {"webhook-id": identity, "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs)}


# Signed links (contract 7.3)

THIS_MACHINE = "http://127.0.0.1:8000"  # what they begin with, unless PUBLIC_URL says otherwise

LINK = ("workflowrun", "topic", "status", "by", "expires")  # what a link's signature covers


def callback_url(settings, query):
    return f"{settings['PUBLIC_URL'].rstrip('/')}/api/v2/callback?{urlencode(query)}"


def callback_link(settings, workflowrun, topic, expires, status=None, by=None):
    """A signed URL that lets whoever has it answer; `expires` is in seconds."""
    link = {"workflowrun": workflowrun, "topic": topic, "status": status, "by": by,
            "expires": str(expires)}
    link = {name: value for name, value in link.items() if value is not None}
    newest = settings["SECRET_KEY"][0]
    return callback_url(settings, {**link, "signature": signature_by(newest, link)})


def verified_link(keys, parameters, now):
    """What the link of these parameters ({name: [values]}) says, by name, checked.

    `now` is in milliseconds. Raises BadLink, Expired.
    """
    link = {name: values[0] for name, values in parameters.items()
            if name in LINK and len(values) == 1}
    signature, *more = parameters["signature"]
    if more or not any([same(signature, signature_by(key, link)) for key in keys]):
        raise BadLink("this link was changed, or is signed with a key that is no longer in use")
    if now >= int(link["expires"]) * 1000:
        raise Expired("this link has expired; ask for a new one")
    return link


def signature_by(key, link):
    signer = Signer(key, salt="signalbox.callback", key_derivation="hmac",
                    digest_method=hashlib.sha256)
    return signer.get_signature(json.dumps([link.get(name) for name in LINK])).decode()
