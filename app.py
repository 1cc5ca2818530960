"""The application: its settings, and the four views. Each reads, calls one method, answers."""
import os
import re
import sys
import time
from difflib import get_close_matches

from flask import Blueprint, Flask
from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate
from werkzeug.middleware.proxy_fix import ProxyFix

import cli
import storage
import upkeep
from models import STEPS, TABLES, Workflow, WorkflowRun
from runs.refusals import ConditionsNotMet, Unusable
from runs.words import ANSWERS, LINK
from web import answers, doors, reading
from web.asked import Asked, current_request
from web.reading import together
from web.signatures import THIS_MACHINE

api = Blueprint("api", __name__, url_prefix="/api/v2")


@api.post("/event")
def event():
    """Start a run from a CloudEvent (contract 4.2)."""
    query, delivery = reading.event()
    return start(query["workflow"], delivery)


@api.post("/callback")
def post_callback():
    """Resolve a topic of a run with a payload, or with a person's form (contract 4.3, 8)."""
    asked = current_request()
    if not asked.is_json:
        doors.refuse_unasked()
        if asked.mimetype == answers.FORM:
            query, form = together(reading.callback_query, reading.form)
            query = naming_its_run({**query, "status": form["status"] or query["status"]})
            resolve(query, comment=form["comment"])
            return callback_page(query)
    query, payload = together(reading.callback_query, reading.payload)
    resolve(naming_its_run(query), data=payload)
    return ""


@api.get("/callback")
def get_callback():
    """Resolve a topic of a run, without a payload; ask a person first (contract 4.4, 8).

    Without a topic it shows the run.
    """
    doors.refuse_unasked()
    if query := reading.look_query():
        run = WorkflowRun.find(naming_its_run(query)["workflowrun"], doors.now())
        return answers.page(200, "run.html", run=run) if answers.wants_page() else answers.run(run)
    query = naming_its_run(reading.callback_query())
    if doors.setting("CONFIRM_LINKS") and (current_request().caller.link or answers.wants_page()):
        return callback_page(query)
    resolve(query)
    return ""


@api.post("/webhook")
def webhook():
    """Start a run from a webhook (contract 4.1)."""
    if not current_request().is_json:
        doors.refuse_unasked()
    query, delivery = reading.webhook()
    return (handshake(query["workflow"], delivery.arrived["data"])
            or start(query["workflow"], delivery))


def start(name, delivery):
    """The WorkflowRun that the delivery starts, or has started before."""
    asked = current_request()
    caller = asked.caller
    if name is not None:
        workflow, routed = caller.workflow or Workflow.named(name), False
    else:
        workflow, routed = upkeep.route(delivery, caller.may_start, reading.identified)
        asked.routed_to = workflow.name
    delivery = reading.identified(delivery, workflow)
    return answers.run(WorkflowRun.start(workflow, delivery, routed, doors.now(), caller.by))


def handshake(name, payload):
    """The answer to a sender that only asks whether somebody is there (contract 8), or None.

    Raises NotFound, and ConditionsNotMet for a ping.
    """
    asked = current_request()
    is_challenge = payload.get("type") == "url_verification" and "challenge" in payload
    is_ping = asked.environ.get("HTTP_X_GITHUB_EVENT") == "ping"
    if name and (is_challenge or is_ping) and not asked.caller.workflow:
        Workflow.named(name)
    if is_challenge:
        return {"challenge": payload["challenge"]}
    if is_ping:
        raise ConditionsNotMet(name, "a ping starts nothing")


def naming_its_run(query):
    """The query with the run's id, also where it has its workflow and the value kept with it."""
    correlate = query["correlate"]
    return {**query, "workflowrun": upkeep.correlated(query["workflow"], correlate)
            } if correlate else query


def resolve(query, **given):
    """Resolve a topic with these results, and the name of who did."""
    caller = current_request().caller
    given["by"] = caller.by
    results = [{"name": name, "value": value} for name, value in given.items() if value is not None]
    WorkflowRun.resolve(query["workflowrun"], query["topic"], query["status"], results,
                        caller.may_resolve, doors.now(), caller.token_name)


def callback_page(query):
    """The page for a person: what will happen, or what has happened (contract 8)."""
    asked, run = current_request(), WorkflowRun.find(query["workflowrun"], doors.now())
    tasks = run.tasks_on(query["topic"])
    mine = list(filter(asked.caller.may_resolve, tasks))
    statuses = [query["status"]] if "status" in asked.parameters else ANSWERS
    asks = asked.method == "GET" and any(task.outcome is None for task in mine or tasks)
    return answers.page(200, run=run, tasks=tasks, topic=query["topic"], statuses=statuses,
                        asks=asks, mine=mine)


def words(text):
    """The words of a comma-separated list: printable ASCII, at least one."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found or not all(re.fullmatch("(?!whsec_=*$)[!-~]+", word) for word in found):
        raise ValidationError("must be one or more words of printable ASCII, comma-separated, and "
                              "none whsec_ alone")
    return found


def tokens(text):
    """Such words as (name, token) pairs; NAME:TOKEN, or a token that has no name."""
    pairs = [re.fullmatch("(?:([^:]+):)?([^:]+)", word) for word in words(text)]
    if not all(pair and pair[1] != LINK for pair in pairs):
        raise ValidationError("each must be TOKEN or NAME:TOKEN, neither empty nor with a colon in "
                              f"it, and NAME not {LINK}")
    return [pair.groups() for pair in pairs]


GUARDS = ("ACCESS_TOKENS", "SECRET_KEY")  # without them doors are open, or links not there


class Settings(Schema):
    """The environment variables of contract section 6."""
    DATABASE_URL = fields.String(load_default="sqlite:///instance/signalbox.db")
    MAX_CONTENT_LENGTH = fields.Integer(load_default=1_048_576, validate=validate.Range(1))
    TRUSTED_PROXIES = fields.Integer(load_default=0, validate=validate.Range(0))
    ACCESS_TOKENS = fields.String(load_default=[], post_load=tokens)
    SECRET_KEY = fields.String(load_default=[], post_load=words)
    NOTIFY_SECRET = fields.String(load_default=[], post_load=words)
    CONFIRM_LINKS = fields.Boolean(load_default=True, truthy={"1"}, falsy={"0"},
                                   error_messages={"invalid": "must be 1 or 0"})
    HOST = fields.String(load_default="127.0.0.1")
    PORT = fields.Integer(load_default=8000, validate=validate.Range(0, 65_535))
    WEB_CONCURRENCY = fields.Integer(load_default=2, validate=validate.Range(1))
    THREADS = fields.Integer(load_default=16, validate=validate.Range(1))
    PUBLIC_URL = fields.Url(load_default=THIS_MACHINE, schemes={"http", "https"},
                            require_tld=False, error_messages={"invalid": "must be an http URL"},
                            validate=validate.ContainsNoneOf("?#", error="must end with a path"))

    @pre_load
    def leave_out_empty(self, environ, **kwargs):
        """An empty variable counts as unset; one that is nearly a guard's would go unseen."""
        given = {name: value for name, value in environ.items() if value}
        for name in given.keys() - set(GUARDS):
            near = get_close_matches(name.upper().replace("-", "_"), GUARDS, n=1, cutoff=0.9)
            if near and near[0] not in given:
                raise ValidationError(f"nothing reads it; rename it to {near[0]}", name)
        return given


def address(settings):
    """Where the service listens, as a URL and gunicorn write it."""
    host, port = settings["HOST"], settings["PORT"]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def utc_now():
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def create_app(environ=os.environ, clock=utc_now):
    """The WSGI application. Raises Unusable when the database cannot be used, or settings, of which
    it names all."""
    try:
        settings = Settings(unknown=EXCLUDE).load(environ)
        opened = storage.open_database(settings["DATABASE_URL"], TABLES, STEPS)
        storage.database.initialize(opened)
        if "FLASK_RUN_FROM_CLI" not in environ or "run" in sys.argv:  # commands do so themselves
            opened.prepare()
    except storage.AWAY:
        pass  # whoever needs it tries again, and says what is wrong
    except ValidationError as error:
        raise Unusable("; ".join(f"{name}: {' '.join(messages)}"
                                 for name, messages in error.messages.items())) from error
    except (ValueError, TypeError) as error:
        raise Unusable(f"DATABASE_URL: {error}") from error
    app = Flask(__name__, static_folder=None)
    app.config.update(SETTINGS=settings, ENVIRON=environ, CLOCK=clock, DATABASE=opened)
    app.request_class, app.response_class = Asked, answers.Answer
    app.json.sort_keys = False
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.url_map.merge_slashes = False  # `//` would answer with a redirect, in HTML
    if proxies := settings["TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies)
    app.before_request(doors.identify)
    app.teardown_request(reading.end_turn)
    app.after_request(answers.add_headers)
    app.log_exception = answers.log_exception
    for error, handler in answers.ERROR_HANDLERS.items():
        app.register_error_handler(error, handler)
    app.register_blueprint(api)
    for rule in app.url_map.iter_rules():
        rule.methods.discard("HEAD")  # which Flask adds to every GET: it would resolve a topic
    for command in cli.COMMANDS:
        app.cli.add_command(command)
    return app
