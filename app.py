"""The HTTP side: settings, the four views, errors turned into answers. It holds no rules."""
import hashlib
import json
import os
import time
from functools import lru_cache

from flask import Flask, Response, abort, current_app, request
from gunicorn.http.errors import ParseException
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from werkzeug.exceptions import (BadRequest, ClientDisconnected, HTTPException, MethodNotAllowed,
                                 NotFound as NoSuchPath, RequestEntityTooLarge,
                                 UnsupportedMediaType)
from werkzeug.http import HTTP_STATUS_CODES, parse_options_header
from werkzeug.middleware.proxy_fix import ProxyFix

import cli
import database
from errors import (Ambiguous, ConditionsNotMet, Conflict, NotFound, PayloadDiffers, Refused,
                    TriggerDisabled, Unusable)
from events import CLOUD_EVENT, binary_event
from models import TABLES, Workflow, WorkflowRun
from schemas import (CallbackQuery, DeliveryHeaders, TriggerQuery, WorkflowRunSchema, parse_object,
                     together)
from rules import Delivery

# Made once: a schema made anew for each request costs more than what it loads.
TRIGGER_QUERY, CALLBACK_QUERY = TriggerQuery(), CallbackQuery()
DELIVERY_HEADERS, WORKFLOW_RUN = DeliveryHeaders(), WorkflowRunSchema()
STATUS_CODES = {Ambiguous: 400, TriggerDisabled: 403, NotFound: 404, Conflict: 409,
                PayloadDiffers: 422}


class Settings(Schema):
    """The environment variables of contract section 6."""
    class Meta:
        unknown = EXCLUDE

    DATABASE_URL = fields.String(load_default="sqlite:///instance/signalbox.db")
    MAX_CONTENT_LENGTH = fields.Integer(load_default=1_048_576, validate=validate.Range(min=1))
    TRUSTED_PROXIES = fields.Integer(load_default=0, validate=validate.Range(min=0))


def utc_now():
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def create_app(environ=os.environ, clock=utc_now):
    """The WSGI application. Raises Unusable when a setting or the database cannot be used."""
    app = Flask(__name__, static_folder=None)
    try:
        app.config.update(Settings().load(environ), CLOCK=clock)
        database.connect(app.config["DATABASE_URL"], TABLES)
    except ValidationError as error:
        raise Unusable("; ".join(f"{name}={environ[name]!r}: {' '.join(messages)}"
                                 for name, messages in error.messages.items())) from error
    except (ValueError, TypeError) as error:
        raise Unusable(f"DATABASE_URL: {error}") from error
    app.json.sort_keys = False
    app.url_map.merge_slashes = False  # `//` would answer with a redirect, in HTML
    if proxies := app.config["TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies)
    for group in (cli.workflow, cli.workflowrun, cli.db):
        app.cli.add_command(group)
    add_error_handlers(app)

    app.before_request(require_exact_path)
    app.before_request(database.database.prepare)

    @app.post("/api/v2/event")
    def event():
        """Start a run from a CloudEvent (contract 4.2)."""
        query, event = together(load_trigger_query, load_event)
        arrived = {"event": event, **({"data": event["data"]} if "data" in event else {})}
        key = digest("event", event["source"], event["id"])
        return start(query["workflow"], Delivery("event", arrived, key))

    @app.post("/api/v2/callback")
    def post_callback():
        """Resolve a topic of a run with a payload (contract 4.3)."""
        require_media_type("application/json")
        query, payload = together(load_callback_query, load_payload)
        WorkflowRun.resolve(**query, results=[{"name": "data", "value": payload}], now=now())
        return no_content()

    @app.get("/api/v2/callback")
    def get_callback():
        """Resolve a topic of a run, without a payload (contract 4.4)."""
        refuse_prefetch()
        WorkflowRun.resolve(**load_callback_query(), results=[], now=now())
        return no_content()

    @app.post("/api/v2/webhook")
    def webhook():
        """Start a run from a webhook (contract 4.1)."""
        require_media_type("application/json")
        query, payload, sent_as = together(load_trigger_query, load_payload, load_delivery_headers)
        key = digest("webhook", *sent_as) if sent_as else None
        same_payload = bool(sent_as) and sent_as[0] == "idempotency_key"
        return start(query["workflow"], Delivery("webhook", {"data": payload}, key, same_payload))

    for rule in app.url_map.iter_rules():
        rule.methods.discard("HEAD")  # which Flask adds to every GET: it would resolve a topic
    return app


def now():
    return current_app.config["CLOCK"]()


def start(name, delivery):
    workflow, routed = Workflow.choose(name, delivery)
    return WORKFLOW_RUN.dump(WorkflowRun.start(workflow, delivery, routed, now()))


def digest(*parts):
    """A sender's id at a fixed length: ids have no limit, but a database's index has one."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# Reading a request

def require_exact_path():
    """Werkzeug takes slashes in front of a path away before it matches."""
    if request.url_rule and request.environ["PATH_INFO"] != request.url_rule.rule:
        raise NoSuchPath


def parameters():
    """The query string as a list of values by name."""
    try:
        return request.args.to_dict(flat=False)
    except UnicodeError as error:
        raise BadRequest("the query string has bytes that are not percent-encoded") from error


def load_trigger_query():
    return TRIGGER_QUERY.load(parameters())


def load_callback_query():
    query = CALLBACK_QUERY.load(parameters())
    return {"id": query["workflowrun"], "topic": query["topic"], "status": query["status"]}


def load_delivery_headers():
    names = [field.data_key for field in DELIVERY_HEADERS.fields.values()]
    given = {name: request.headers[name] for name in names if name in request.headers}
    return DELIVERY_HEADERS.load(given) if given else None


def load_payload():
    return parse_object(body())


def load_event():
    """The CloudEvent of the request, in either mode (HTTP binding 3)."""
    media_type = require_media_type("application/cloudevents+json", "application/json")
    if media_type == "application/json" and "ce-specversion" in request.headers:
        return CLOUD_EVENT.load(binary_event(request.headers, request.content_type, body()))
    return CLOUD_EVENT.load(parse_object(body()))


def require_media_type(*accepted):
    """The request's media type, one of the accepted ones in UTF-8, or 415."""
    media_type, charset = parsed_content_type(request.content_type)
    if media_type not in accepted or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(f"send {' or '.join(accepted)} in UTF-8, "
                                   f"not {request.content_type!r}")
    return media_type


@lru_cache  # senders spell it in a few ways only; parsing took 3 % of a request
def parsed_content_type(text):
    media_type, options = parse_options_header(text)
    unread = "" if "charset" in (text or "").lower() else "utf-8"  # Werkzeug drops what is malformed
    return media_type.lower(), options.get("charset", unread).lower()


def body():
    """The raw bytes of the request. Too many are answered 413, too few 400."""
    limit = current_app.config["MAX_CONTENT_LENGTH"]
    # One more is read: at its limit Werkzeug cuts a chunked body off without a word.
    request.max_content_length = limit + 1
    try:
        raw = request.get_data(cache=False)
    except (ParseException, ClientDisconnected) as error:
        raise BadRequest("the body was cut short or its chunks are malformed") from error
    if len(raw) > limit:
        raise RequestEntityTooLarge
    if len(raw) < (request.content_length or 0):
        raise BadRequest(f"the body was cut short: {len(raw)} of {request.content_length} bytes")
    return raw


def refuse_prefetch():
    purpose = request.headers.get("Sec-Purpose", "") + request.headers.get("Purpose", "")
    if "prefetch" in purpose.lower():
        abort(problem(503, "a prefetch resolves nothing; open the link", {"Retry-After": "0"}))


# Answering

def no_content():
    response = Response(status=200)
    del response.headers["Content-Type"]
    return response


def problem(status, detail, headers=None, **more):
    """A problem document (RFC 9457)."""
    document = {"type": "about:blank", "title": HTTP_STATUS_CODES[status], "status": status,
                "detail": detail, **more}
    return Response(json.dumps(document), status, headers, content_type="application/problem+json")


def add_error_handlers(app):
    limit = app.config["MAX_CONTENT_LENGTH"]

    @app.errorhandler(HTTPException)
    def http_error(error):
        if error.response is not None:
            return error.response
        details = {
            NoSuchPath: "nothing here; there are /api/v2/webhook, /api/v2/event, /api/v2/callback",
            MethodNotAllowed: "this path takes other methods; see Allow",
            RequestEntityTooLarge: f"the body may have {limit} bytes at most"}
        detail = details.get(type(error), error.description)
        headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
        return problem(error.code, detail, headers)

    @app.errorhandler(ValidationError)
    def invalid(error):
        errors = error.normalized_messages()
        detail = "; ".join(f"{field}: {messages[0]}" for field, messages in errors.items())
        return problem(400, detail, errors=errors)

    @app.errorhandler(Refused)
    def refused(error):
        return problem(STATUS_CODES[type(error)], str(error))

    @app.errorhandler(ConditionsNotMet)
    def skipped(error):
        return {"status": "skipped", "workflowRef": error.workflow_ref, "statusMessage": str(error)}

    def unavailable(error):
        app.logger.error("database unavailable: %s", error)
        return problem(503, "the database is busy or away; send it again", {"Retry-After": "1"})

    for kind in database.UNAVAILABLE:
        app.register_error_handler(kind, unavailable)
