"""The HTTP side: settings, the four views, who may call them. It holds no rules."""
import hashlib
import json
import os
import re
import sys
import time
from functools import lru_cache
from urllib.parse import parse_qs

from flask import Flask, abort, current_app, g, request
from gunicorn.http.errors import ParseException
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from werkzeug.exceptions import (BadRequest, ClientDisconnected, Forbidden, NotFound as NoSuchPath,
                                 RequestEntityTooLarge, UnsupportedMediaType)
from werkzeug.http import parse_options_header
from werkzeug.middleware.proxy_fix import ProxyFix

import cli
import database
import security
from answers import (CALLBACK, FORM, JSON, add_error_handlers, add_headers, no_content, page,
                     problem, wants_page)
from errors import Refused, Unusable
from events import CLOUD_EVENT, binary_event
from models import TABLES, Workflow, WorkflowRun
from rules import Delivery
from schemas import (STATUSES, CallbackForm, CallbackQuery, DeliveryHeaders, TriggerQuery,
                     WorkflowRunSchema, parse_form, together)
from strictjson import parse_object

# Made once: a schema made anew for each request costs more than what it loads.
TRIGGER_QUERY, CALLBACK_QUERY, CALLBACK_FORM = TriggerQuery(), CallbackQuery(), CallbackForm()
DELIVERY_HEADERS, WORKFLOW_RUN = DeliveryHeaders(), WorkflowRunSchema()
EVENT = "application/cloudevents+json"


class Words(fields.String):
    """A comma-separated list of printable ASCII words, at least one."""

    def _deserialize(self, value, attr, data, **kwargs):
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not words or not all(re.fullmatch("[!-~]+", word) for word in words):
            raise ValidationError("must be one or more words of printable ASCII, comma-separated")
        return words


def whole_number(default, least):
    message = f"must be a whole number, at least {least}"
    return fields.Integer(load_default=default, error_messages={"invalid": message},
                          validate=validate.Range(min=least, error=message))


class Settings(Schema):
    """The environment variables of contract section 6."""
    class Meta:
        unknown = EXCLUDE

    DATABASE_URL = fields.String(load_default="sqlite:///instance/signalbox.db")
    MAX_CONTENT_LENGTH = whole_number(1_048_576, least=1)
    TRUSTED_PROXIES = whole_number(0, least=0)
    ACCESS_TOKENS = Words(load_default=[])
    SECRET_KEY = Words(load_default=[])
    CONFIRM_LINKS = fields.Boolean(load_default=True, truthy={"1"}, falsy={"0"},
                                   error_messages={"invalid": "must be 1 or 0"})
    PUBLIC_URL = fields.Url(load_default="http://127.0.0.1:8000", schemes={"http", "https"},
                            require_tld=False, error_messages={"invalid": "must be an http URL"},
                            validate=validate.ContainsNoneOf("?#", error="must end with a path"))


def utc_now():
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def create_app(environ=os.environ, clock=utc_now):
    """The WSGI application. Raises Unusable when a setting or the database cannot be used."""
    app = Flask(__name__, static_folder=None)
    try:
        settings = Settings().load(environ)
        database.database.initialize(database.engine(settings["DATABASE_URL"], TABLES))
        if "FLASK_RUN_FROM_CLI" not in environ or "run" in sys.argv:
            database.make_ready()  # a command does so itself, if it needs the database
    except ValidationError as error:
        raise Unusable("; ".join(f"{name}: {' '.join(messages)}"
                                 for name, messages in error.messages.items())) from error
    except (ValueError, TypeError) as error:
        raise Unusable(f"DATABASE_URL: {error}") from error
    app.config.update(SETTINGS=settings, ENVIRON=environ, CLOCK=clock)
    app.json.sort_keys = False
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.url_map.merge_slashes = False  # `//` would answer with a redirect, in HTML
    if proxies := settings["TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies)
    for command in (cli.workflow, cli.workflowrun, cli.db, cli.status):
        app.cli.add_command(command)
    app.before_request(require_proof)
    app.before_request(require_exact_path)
    app.before_request(database.database.prepare)
    app.after_request(add_headers)
    add_error_handlers(app)

    @app.post("/api/v2/event")
    def event():
        """Start a run from a CloudEvent (contract 4.2)."""
        check_named_workflow()
        query, event = together(load_trigger_query, load_event)
        key = digest("event", event["source"], event["id"])
        return start(query["workflow"], Delivery.of_event(event, key))

    @app.post(CALLBACK)
    def post_callback():
        """Resolve a topic of a run with a payload, or with a person's form (contract 4.3, 8)."""
        if require_media_type(JSON, FORM) == JSON:
            query, payload = together(load_callback_query, load_payload)
            WorkflowRun.resolve(**query, results=results(data=payload), now=now())
            return no_content()
        refuse_foreign_form()
        query, form = together(load_callback_query, load_form)
        query["status"] = form["status"] or query["status"]
        WorkflowRun.resolve(**query, results=results(comment=form["comment"]), now=now())
        return callback_page(query)

    @app.get(CALLBACK)
    def get_callback():
        """Resolve a topic of a run, without a payload; ask a person first (contract 4.4, 8)."""
        refuse_prefetch()
        query = load_callback_query()
        if setting("CONFIRM_LINKS") and (g.link or wants_page()):
            return callback_page(query)
        WorkflowRun.resolve(**query, results=results(), now=now())
        return no_content()

    @app.post("/api/v2/webhook")
    def webhook():
        """Start a run from a webhook (contract 4.1)."""
        check_named_workflow()
        require_media_type(JSON)
        query, payload, sent_as = together(load_trigger_query, load_payload, load_delivery_headers)
        if hello := handshake(query["workflow"], payload):
            return hello
        key = digest("webhook", *sent_as) if sent_as else None
        same_payload = bool(sent_as) and sent_as[0] == "idempotency_key"
        return start(query["workflow"], Delivery("webhook", {"data": payload}, key, same_payload))

    for rule in app.url_map.iter_rules():
        rule.methods.discard("HEAD")  # which Flask adds to every GET: it would resolve a topic
    return app


def now():
    return current_app.config["CLOCK"]()


def setting(name):
    return current_app.config["SETTINGS"][name]


def start(name, delivery):
    """The WorkflowRun that the delivery starts, or has started before."""
    if name is not None:
        workflow, routed = g.workflow or Workflow.named(name), False
    else:
        try:
            workflow, routed = Workflow.choose(delivery)
        except Refused:
            if Workflow.any_signed(delivery.trigger) and not has_token():
                g.proved = False  # or the answer would tell what the signed workflows wait for
            raise
        check_sender(workflow)
    return WORKFLOW_RUN.dump(WorkflowRun.start(workflow, delivery, routed, now()))


def handshake(name, payload):
    """The answer to a sender that only asks whether somebody is there (contract 8), or None."""
    if payload.get("type") == "url_verification" and "challenge" in payload:
        hello = {"challenge": payload["challenge"]}
    elif request.headers.get("X-GitHub-Event") == "ping":
        hello = {"status": "skipped", "statusMessage": "a ping starts nothing",
                 **({"workflowRef": name} if name else {})}
    else:
        return None
    if name and not g.workflow:
        Workflow.named(name)  # raises NotFound
    if not g.proved:
        raise security.Denied("a handshake without a token, or a workflow whose secret signs it")
    return hello


def digest(*parts):
    """A sender's id at a fixed length: ids have no limit, but a database's index has one."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def callback_page(query):
    """The page for a person: what will happen, or what has happened (contract 8)."""
    run = WorkflowRun.find(query["id"], now())
    tasks = run.tasks_on(query["topic"])
    if not tasks:
        raise run.unknown(query["topic"])
    statuses = [query["status"]] if "status" in g.parameters else STATUSES
    return page(200, run=run, tasks=tasks, topic=query["topic"], statuses=statuses,
                asks=request.method == "GET" and any(task.outcome is None for task in tasks))


# Who may call (contract 7)

def require_proof():
    """Let in who has a token or a link; whoever signs its request may still prove itself."""
    g.proved, g.link, g.workflow = not setting("ACCESS_TOKENS"), None, None
    try:
        g.parameters = request.args.to_dict(flat=False)
    except UnicodeError as error:
        g.parameters = parse_qs(request.query_string.decode("latin-1"), keep_blank_values=True)
        g.proved = g.proved or has_token()
        raise BadRequest("the query string has bytes that are not percent-encoded") from error
    is_callback = request.path == CALLBACK
    if is_callback and "signature" in g.parameters:
        g.proved = False
        check_link()
    g.proved = g.proved or bool(g.link) or has_token()
    signs = not is_callback and request.method == "POST" and security.is_signed(request.headers)
    if not g.proved and not signs:
        raise security.Denied("neither a token nor a signature")


def has_token():
    return security.has_token(setting("ACCESS_TOKENS"), request.headers, g.parameters)


def check_link():
    link = {name: values[0] for name, values in g.parameters.items()
            if name in security.LINK and len(values) == 1}
    signature, *more = g.parameters["signature"]
    security.verify_link(setting("SECRET_KEY"), link, "" if more else signature, now())
    g.link = link


def check_named_workflow():
    """Check the sender's signature before anything is parsed, where ?workflow says whose it is."""
    name = g.parameters.get("workflow", [""])[0]
    if name and name.isprintable():
        g.workflow = Workflow.known(name)
        check_sender(g.workflow)


def check_sender(workflow):
    """The sender of a workflow with a secret must have signed the body; a token is not enough.

    For a caller without a token a workflow that needs no signature, or is unknown, takes as long.
    """
    variable = workflow and workflow.content.get("secret_env")
    if g.proved and not variable:
        return
    g.proved = False
    secret = current_app.config["ENVIRON"].get(variable) if variable else security.NOBODY
    if not secret:
        current_app.logger.error("set %s and restart: it is the secret of workflow %s, which "
                                 "cannot start without it", variable, workflow.name)
        abort(problem(503, "this workflow cannot check signatures now", {"Retry-After": "60"}))
    security.verify_signature(secret, request.headers, body(), now())
    g.proved = True


def refuse_foreign_form():
    """A form that another site posts comes from somebody who never saw the page."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    foreign = site not in ("same-origin", "none") if site else (
        origin and origin.partition("://")[2] != request.host)
    if foreign:
        raise Forbidden("this form was sent by another site; open the link itself")


def refuse_prefetch():
    purpose = request.headers.get("Sec-Purpose", "") + request.headers.get("Purpose", "")
    if "prefetch" in purpose.lower():
        abort(problem(503, "a prefetch resolves nothing; open the link", {"Retry-After": "0"}))


# Reading a request

def require_exact_path():
    """Werkzeug takes slashes in front of a path away before it matches."""
    if request.url_rule and request.environ["PATH_INFO"] != request.url_rule.rule:
        raise NoSuchPath


def require_media_type(*accepted):
    """The request's media type, one of the accepted ones in UTF-8, or 415."""
    media_type, charset = parsed_content_type(request.content_type)
    if media_type not in accepted or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(f"send 'Content-Type: {' or '.join(accepted)}', in UTF-8; this "
                                   f"came as {request.content_type!r}")
    return media_type


@lru_cache  # senders spell it in a few ways only; parsing took 3 % of a request
def parsed_content_type(text):
    media_type, options = parse_options_header(text)
    unread = "" if "charset" in (text or "").lower() else "utf-8"  # Werkzeug drops a malformed one
    return media_type.lower(), options.get("charset", unread).lower()


def body():
    """The raw bytes of the request. Too many are answered 413, too few 400."""
    limit = setting("MAX_CONTENT_LENGTH")
    # One more is read: at its limit Werkzeug cuts a chunked body off without a word.
    request.max_content_length = limit + 1
    try:
        raw = request.get_data()
    except (ParseException, ClientDisconnected) as error:
        raise BadRequest("the body was cut short or its chunks are malformed") from error
    except RequestEntityTooLarge:
        raw = None
    if raw is None or len(raw) > limit:
        raise RequestEntityTooLarge(f"the body may have {limit} bytes at most")
    if len(raw) < (request.content_length or 0):
        raise BadRequest(f"the body was cut short: {len(raw)} of {request.content_length} bytes")
    return raw


def load_trigger_query():
    return TRIGGER_QUERY.load(g.parameters)


def load_callback_query():
    query = CALLBACK_QUERY.load(g.parameters)
    return {"id": query["workflowrun"], "topic": query["topic"], "status": query["status"]}


def load_delivery_headers():
    names = [field.data_key for field in DELIVERY_HEADERS.fields.values()]
    given = {name: request.headers[name] for name in names if name in request.headers}
    return DELIVERY_HEADERS.load(given) if given else None


def load_payload():
    return parse_object(body())


def load_event():
    """The CloudEvent of the request, in either mode (HTTP binding 3)."""
    if require_media_type(EVENT, JSON) == JSON and "ce-specversion" in request.headers:
        return CLOUD_EVENT.load(binary_event(request.headers, request.content_type, body()))
    return CLOUD_EVENT.load(parse_object(body()))


def load_form():
    """A person's answer; where the link names a status, the form must not name another."""
    form = CALLBACK_FORM.load(parse_form(body()))
    linked = g.parameters.get("status")
    if not linked and not form["status"]:  # nor does a form that no button sent approve anything
        raise ValidationError("is required", "status")
    if linked and form["status"] and [form["status"]] != [text.lower() for text in linked]:
        raise ValidationError(f"this link is for {linked[0]}", "status")
    return form


def results(**given):
    """A task's results: what was given, and whom a signed link was made for."""
    given["by"] = (g.link or {}).get("by")
    return [{"name": name, "value": value} for name, value in given.items() if value is not None]
