"""Every answer that is not a view's own: errors in one shape, and the page that a person sees."""
import json
import logging
import re
import secrets
import threading

from flask import Response, render_template
from markupsafe import Markup
from marshmallow import ValidationError
from werkzeug.exceptions import (HTTPException, MethodNotAllowed, NotFound as NoSuchPath,
                                 RequestEntityTooLarge)
from werkzeug.http import HTTP_STATUS_CODES

from runs.refusals import (Ambiguous, BadLink, ConditionsNotMet, Conflict, Denied, Expired,
                           NotAllowed, NotFound, PayloadDiffers, Refused, Unusable)
from runs.words import MARKS, SKIPPED, in_utc, in_words, masked
from schemas import dump_run, present
from storage import AWAY, why
from web import logs
from web.asked import current_request

log = logging.getLogger("signalbox")

CALLBACK = "/api/v2/callback"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
STATUS_CODES = {Ambiguous: 400, NotAllowed: 403, NotFound: 404, Conflict: 409, PayloadDiffers: 422}
MOST_ERRORS, LONGEST_ERROR, LONGEST_DETAIL = 20, 300, 500  # so an answer has at most 16 KB (4.7)
SHOWN = {"workflow": "workflow", "workflowrun": "run", "topic": "topic", "correlate": "correlate"}
COMPACT = json.JSONEncoder(separators=(",", ":"))  # json.dumps() makes one a call
connection = threading.local()  # `close`: the server's, to end this thread's connection afterwards


class Answer(Response):
    default_mimetype = None  # what has no content has no type


def run(found):
    """The WorkflowRun as JSON."""
    return Answer(COMPACT.encode(dump_run(found)) + "\n", content_type=JSON)


def note(level, word, status, reason, exc_info=None):
    """The one log line that says why a request was refused or skipped (contract 4.7)."""
    asked = current_request()
    known = {"workflow": asked.routed_to} if asked.routed_to else {}
    known |= {name: values[0] for name, values in asked.parameters.items() if name in SHOWN}
    said = "".join(f" {SHOWN[name]}={logs.plain(known[name], 100)}" for name in known)
    log.log(level, "%s status=%d reason=%r%s", word, status, masked(reason), said,
            exc_info=exc_info)


def short(text, most):
    return text if len(text) <= most else text[:most - 1] + "…"


def problem(status, detail, headers=None, reason=None, **more):
    """A problem document (RFC 9457), or the page that says the same to a person.

    The reason is for the log, if it differs from the detail.
    """
    if status != 500:  # of which log_exception has told
        level = logging.ERROR if status > 500 and reason else logging.WARNING
        note(level, "refused", status, reason or detail)
    detail = short(detail, LONGEST_DETAIL)
    if current_request().path == CALLBACK and wants_page():
        response = page(status, title=HTTP_STATUS_CODES[status], detail=detail)
    else:
        document = {"type": "about:blank", "title": HTTP_STATUS_CODES[status], "status": status,
                    "detail": detail, **more}
        text = json.dumps(document) + "\n"  # a terminal's prompt starts on a line of its own
        response = Answer(text, status, content_type="application/problem+json")
    response.headers.extend(headers or {})
    return response


def wants_page():
    """Whether a person's browser asks (contract 8)."""
    asked = current_request()
    accept, agent = asked.accept_mimetypes, asked.headers.get("User-Agent", "")
    return (accept["text/html"] > accept[JSON] and agent.startswith("Mozilla/")
            or asked.mimetype == FORM)


#: Where a text's address ends that a sentence goes on after.
ADDRESS = re.compile(r"""(https?://[^\s<>"']*[^\s<>"'.,;:!?)\]}])""", re.I)


def linked(text):
    """HTML of the text, in which http addresses are links, and nothing else is."""
    link = Markup('<a href="{0}" rel="noreferrer">{0}</a>')
    return Markup("").join(link.format(part) if number % 2 else part
                           for number, part in enumerate(ADDRESS.split(text)))


def page(code, template="callback.html", **shown):
    """A page that works without scripts, loads nothing, cannot be framed and is never kept."""
    nonce = secrets.token_urlsafe()
    html = render_template(template, nonce=nonce, in_words=in_words, in_utc=in_utc, linked=linked,
                           MARKS=MARKS, **shown)
    response = Answer(html, code, mimetype="text/html")
    response.headers.update({
        "Cache-Control": "no-store", "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": f"default-src 'none'; style-src 'nonce-{nonce}'; "
                                   "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"})
    return response


def add_headers(response):
    """What answers carry whichever view made them."""
    asked = current_request()
    if not asked.has_read_body and (asked.content_length or "Transfer-Encoding" in asked.headers):
        # Or what was not read would be taken for the next request.
        getattr(connection, "close", lambda: None)()
    if asked.method == "OPTIONS" and response.status_code == 200:
        origin = asked.headers.get("WebHook-Request-Origin")
        if origin and asked.path != CALLBACK:  # CloudEvents Web Hooks 4
            rate = asked.headers.get("WebHook-Request-Rate", "*")
            response.headers["WebHook-Allowed-Origin"] = origin[:255]  # a host's name has no more
            response.headers["WebHook-Allowed-Rate"] = rate[:255]
    if "access_token" in asked.parameters:
        response.headers["Cache-Control"] = "private, no-store"
    return response


def denied(error):
    """401, or 410 for an expired link. Whatever is missing, the answer is the same: only the log
    says what it was."""
    asked, detail, reason = current_request(), str(error), str(error)
    if isinstance(error, Expired):
        return problem(410, detail)
    if asked.is_known:
        detail = "sign this with the secret of the workflow; nothing else starts it"
    elif not isinstance(error, BadLink):
        detail = "send a token, or sign this with the secret of the workflow that it names"
        is_offered = ("access_token" in asked.parameters or "Authorization" in asked.headers
                      or "x-access-token" in asked.headers)
        reason = f"{'a wrong' if is_offered else 'no'} token, and {reason}"
    return problem(401, detail, {"WWW-Authenticate": "Bearer"}, reason=reason)


def http_error(error):
    limit = current_request().config["SETTINGS"]["MAX_CONTENT_LENGTH"]
    detail = {NoSuchPath: "nothing is here; there are /api/v2/webhook, event and callback",
              MethodNotAllowed: "this path takes other methods; see Allow",
              RequestEntityTooLarge: f"the body may have {limit} bytes at most",
              }.get(type(error), error.description)
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return problem(error.code, detail, headers)


def invalid(error):
    errors, size = {}, 0
    for field, messages in error.normalized_messages().items():
        field, message = short(field, LONGEST_ERROR), short(messages[0], LONGEST_ERROR)
        size += len(json.dumps([field, message]))
        if len(errors) == MOST_ERRORS or size > 9000:
            break
        errors[field] = [message]
    detail = "; ".join(f"{field}: {messages[0]}" for field, messages in errors.items())
    return problem(400, detail, errors=errors)


def refused(error):
    return problem(STATUS_CODES[type(error)], str(error))


def skipped(error):
    note(logging.INFO, SKIPPED, 200, str(error))
    return present({"status": SKIPPED, "workflowRef": error.workflow_ref,
                    "statusMessage": str(error)})


def unavailable(error):
    return problem(503, "the database is busy or away; send it again", {"Retry-After": "1"},
                   reason=f"database unavailable: {why(error)}")


def log_exception(exc_info):
    """What Flask tells of a bug, without the path: a secret may stand in it."""
    note(logging.ERROR, "failed", 500, exc_info[0].__name__, exc_info)


#: Each error, wherever it was raised, and what makes its answer.
ERROR_HANDLERS = {HTTPException: http_error, ValidationError: invalid, Refused: refused,
                  ConditionsNotMet: skipped, Denied: denied,
                  **dict.fromkeys((*AWAY, Unusable), unavailable)}
