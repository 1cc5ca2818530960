"""Every answer that is not a view's own: errors in one shape, and the page that a person sees."""
import json
import secrets

from flask import Response, current_app, g, render_template, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound as NoSuchPath
from werkzeug.http import HTTP_STATUS_CODES

from runs.refusals import (Ambiguous, BadLink, ConditionsNotMet, Conflict, Denied, Expired,
                           NotFound, PayloadDiffers, Refused, TriggerDisabled)
from runs.words import in_words
from storage import UNAVAILABLE, why

CALLBACK = "/api/v2/callback"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
STATUS_CODES = {Ambiguous: 400, TriggerDisabled: 403, NotFound: 404, Conflict: 409,
                PayloadDiffers: 422}


def no_content():
    response = Response(status=200)
    del response.headers["Content-Type"]
    return response


def problem(status, detail, headers=None, **more):
    """A problem document (RFC 9457), or the page that says the same to a person."""
    if request.path == CALLBACK and wants_page():
        response = page(status, title=HTTP_STATUS_CODES[status], detail=detail)
    else:
        document = {"type": "about:blank", "title": HTTP_STATUS_CODES[status], "status": status,
                    "detail": detail, **more}
        text = json.dumps(document) + "\n"  # a terminal's prompt starts on a line of its own
        response = Response(text, status, content_type="application/problem+json")
    response.headers.extend(headers or {})
    return response


def wants_page():
    """Whether a person's browser asks (contract 8)."""
    accept = request.accept_mimetypes
    return accept["text/html"] > accept[JSON] or request.mimetype == FORM


def page(code, **shown):
    """A page that works without scripts, loads nothing, cannot be framed and is never kept."""
    nonce = secrets.token_urlsafe()
    response = Response(render_template("callback.html", nonce=nonce, in_words=in_words, **shown),
                        code)
    response.headers.update({
        "Cache-Control": "no-store", "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": f"default-src 'none'; style-src 'nonce-{nonce}'; "
                                   "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"})
    return response


def add_headers(response):
    """What answers carry whichever view made them."""
    if response.calculate_content_length() == 0:
        response.headers.pop("Content-Type", None)
    asked = response.status_code == 200 and request.headers.get("WebHook-Request-Origin")
    if request.method == "OPTIONS" and asked and request.path != CALLBACK:
        response.headers["WebHook-Allowed-Origin"] = asked  # CloudEvents Web Hooks 4
        response.headers["WebHook-Allowed-Rate"] = request.headers.get("WebHook-Request-Rate", "*")
    if "access_token" in g.get("parameters", ()):
        response.headers["Cache-Control"] = "private, no-store"
    return response


def denied(error):
    """401, or 410 for an expired link. Whatever is missing, the answer is the same: only the log
    says what it was."""
    if isinstance(error, BadLink):
        detail = str(error)
    else:
        detail = "send a token, or sign this with the secret of the workflow that it names"
        current_app.logger.warning("refused: %s", error)
    if isinstance(error, Expired):
        return problem(410, detail)
    return problem(401, detail, {"WWW-Authenticate": "Bearer"})


def http_error(error):
    if error.response is not None:
        return error.response
    detail = {NoSuchPath: "nothing is here; there are /api/v2/webhook, event and callback",
              MethodNotAllowed: "this path takes other methods; see Allow",
              }.get(type(error), error.description)
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return problem(error.code, detail, headers)


def invalid(error):
    errors = error.normalized_messages()
    detail = "; ".join(f"{field}: {messages[0]}" for field, messages in errors.items())
    return problem(400, detail, errors=errors)


def refused(error):
    return problem(STATUS_CODES[type(error)], str(error))


def skipped(error):
    return {"status": "skipped", "workflowRef": error.workflow_ref, "statusMessage": str(error)}


def unavailable(error):
    current_app.logger.error("database unavailable: %s", why(error))
    return problem(503, "the database is busy or away; send it again", {"Retry-After": "1"})


#: Each error, wherever it was raised, and what makes its answer.
ERROR_HANDLERS = {HTTPException: http_error, ValidationError: invalid, Refused: refused,
                  ConditionsNotMet: skipped, Denied: denied,
                  **dict.fromkeys(UNAVAILABLE, unavailable)}
