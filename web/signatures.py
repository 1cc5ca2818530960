"""How a caller proves itself: tokens, senders' signatures, signed links. Pure functions."""
import base64
import hashlib
import hmac
import json
import re
import secrets

from itsdangerous import Signer

from runs.refusals import BadLink, Denied, Expired

TOLERANCE = 300  # seconds that a signature's timestamp may be off
NOBODY = secrets.token_hex(16)  # a secret that no sender has


def same(one, other):
    """Whether two texts are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"),
                               other.encode("utf-8", "surrogateescape"))


# Tokens (contract 7.1)

def has_token(tokens, headers, parameters):
    """Whether the request carries one of the tokens, in any of the three places."""
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    offered = [bearer.strip() if scheme.lower() == "bearer" else "",
               headers.get("x-access-token", ""), *parameters.get("access_token", [])]
    return any([same(offer, token) for offer in offered for token in tokens])


# Sender signatures (contract 7.2)

def verify_signature(secret, headers, body, now):
    """Check a sender's signature of the raw body, in whichever way it comes; one is enough.

    `now` is in milliseconds. Raises Denied.
    """
    reasons = []
    for header, verify in VERIFIERS.items():
        if header in headers:
            try:
                return verify(secret, headers, body, now / 1000)
            except Denied as error:
                reasons.append(str(error))
    raise Denied("; ".join(reasons) or "this workflow is started by signed requests only")


def verify_github(secret, headers, body, now):
    """X-Hub-Signature-256 (GitHub, "Validating webhook deliveries")."""
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not same(headers["X-Hub-Signature-256"], expected):
        raise Denied("X-Hub-Signature-256 does not fit the body and the secret")


def verify_standard(secret, headers, body, now):
    """webhook-id, webhook-timestamp and webhook-signature (Standard Webhooks 1.0)."""
    text = secret.removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True) or secret.encode()
    except ValueError:  # a secret made for another way of signing
        key = secret.encode()
    timestamp = headers.get("webhook-timestamp", "")
    signed = f"{headers.get('webhook-id', '')}.{timestamp}.".encode("latin-1") + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    offered = headers["webhook-signature"].split()
    if not any([same(signature, expected) for signature in offered]):
        raise Denied("no webhook-signature fits the body and the secret")
    require_fresh("webhook-timestamp", timestamp, now)


def verify_slack(secret, headers, body, now):
    """X-Slack-Signature (Slack, "Verifying requests from Slack")."""
    timestamp = headers.get("X-Slack-Request-Timestamp", "")
    signed = f"v0:{timestamp}:".encode("latin-1") + body
    expected = "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    if not same(headers["X-Slack-Signature"], expected):
        raise Denied("X-Slack-Signature does not fit the body and the secret")
    require_fresh("X-Slack-Request-Timestamp", timestamp, now)


VERIFIERS = {"X-Hub-Signature-256": verify_github, "webhook-signature": verify_standard,
             "X-Slack-Signature": verify_slack}


def is_signed(headers):
    return any(header in headers for header in VERIFIERS)


def require_fresh(header, timestamp, now):
    if not re.fullmatch(r"\d{1,12}", timestamp, re.ASCII):
        raise Denied(f"{header} is not a time in seconds")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise Denied(f"{header} is more than {TOLERANCE // 60} minutes off")


# Signed links (contract 7.3)

LINK = ("workflowrun", "topic", "status", "by", "expires")  # what a link's signature covers


def sign_link(keys, link):
    """The signature over a link's parameters, by the newest of the keys."""
    return signature_by(keys[0], link)


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
