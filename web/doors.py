"""Who calls (contract 7): one Caller made once a request, before anything of it is parsed."""
import contextlib
from typing import NamedTuple

from flask import abort, current_app
from werkzeug.exceptions import (BadRequest, Forbidden, RequestEntityTooLarge,
                                 ServiceUnavailable)

from models import Workflow
from runs.refusals import Denied
from runs.words import LINK
from storage import database
from web import signatures
from web.answers import CALLBACK, problem
from web.asked import current_request
from web.reading import body, is_binary_event, parameters_in


class Caller(NamedTuple):
    """Who calls, proved: by a token or a link, by a signature, or let in as anybody is.

    `workflow` is the one that the request names, if there is one.
    """
    has_token: bool = False
    link: dict | None = None  # what the signed link says, by name
    workflow: Workflow | None = None
    signature: signatures.Signature | None = None  # by which that workflow lets the caller in
    token_name: str | None = None

    @property
    def by(self):
        """The name to record with what this caller resolves, or None."""
        return self.link.get("by") if self.link else self.token_name

    def may_resolve(self, task):
        return task.resolvers is None or (LINK if self.link else self.token_name) in task.resolvers

    def signature_for(self, workflow):
        """The Signature by which the workflow lets this caller in; None if it has or needs none."""
        if self.workflow:
            return self.signature
        if workflow.content.get("secret_env"):
            with contextlib.suppress(Denied):
                return accepted_signature(workflow, self.has_token)

    def may_start(self, workflow):
        """Whether this caller, who named no workflow, has signed the request, if this one asks."""
        return not workflow.content.get("secret_env") or bool(self.signature_for(workflow))


def identify():
    """Make the request's Caller. Raises Denied, or aborts with 413 or 503: nothing else is
    answered to a caller who has proved nothing."""
    asked = current_request()
    asked.config = config = current_app.config
    asked.parameters, is_utf8 = parameters_in(asked.query_string)
    opened = config["DATABASE"]
    database.initialize(opened)
    opened.prepare()
    asked.caller = proved(asked)
    if not is_utf8:
        raise BadRequest("the query string has bytes that are not percent-encoded")


def proved(asked):
    """The Caller of the request; `is_known` says from then on what a stranger is told."""
    parameters, is_callback = asked.parameters, asked.path == CALLBACK
    if is_callback and "signature" in parameters:
        return Caller(link=signatures.verified_link(setting("SECRET_KEY"), parameters, now()))
    tokens, workflow, signature = asked.config["SETTINGS"]["ACCESS_TOKENS"], None, None
    token = signatures.offered_token(tokens, asked.headers, parameters) if tokens else None
    has_token = token is not None
    asked.is_known = has_token or not tokens
    name = "" if is_callback or asked.method != "POST" else parameters.get("workflow", [""])[0]
    if name:
        if (asked.content_length or 0) > setting("MAX_CONTENT_LENGTH"):
            raise RequestEntityTooLarge  # whatever is signed: it tells a stranger nothing
        workflow = Workflow.known(name) if name.isprintable() else None
    own = workflow and workflow.content.get("signature_header")
    if name and (asked.is_known or signatures.is_signed(asked.headers, own)):
        signature = check_sender(workflow, has_token)
    elif not asked.is_known:
        raise Denied("no signature of a workflow that it names")
    return Caller(has_token, workflow=workflow, signature=signature, token_name=token and token[0])


def check_sender(workflow, has_token):
    """The Signature by which a workflow with a secret lets the sender in; a token is not enough.

    For a caller without a token a workflow that needs no signature, or is unknown, takes as long,
    whichever headers it sends.
    """
    is_known, variable = current_request().is_known, workflow and workflow.content.get("secret_env")
    if is_known and not variable:
        return None
    missing = variable and not secrets_of(workflow) and (
        f"set {variable} and restart: it is the secret of workflow {workflow.name}, which cannot "
        "start without it")
    if missing and is_known:
        abort(problem(503, "this workflow cannot check signatures now", {"Retry-After": "60"},
                      reason=missing))
    try:
        return accepted_signature(workflow, has_token)
    except (BadRequest, Denied, RequestEntityTooLarge, ServiceUnavailable) as error:
        is_usual = signatures.is_signed(current_request().headers)  # with any workflow's name
        if is_known or is_usual and not isinstance(error, (BadRequest, Denied)):
            raise
        reason = missing or getattr(error, "description", error)
        raise Denied(f"no signature: {reason}") from error


def accepted_signature(workflow, has_token):
    """The Signature of this request that the workflow (None: a secret of nobody's) accepts.

    Raises Denied; also where the headers say what starts, which a signed body does not cover.
    """
    content = workflow.content if workflow else {}
    known = secrets_of(workflow) if content.get("secret_env") else []
    known += [signatures.NOBODY] * (2 - len(known))  # two while one is changed take as long
    signature = signatures.verify_signature(known, current_request().headers, body(), now(),
                                            content.get("signature_header"))
    if signature.covers_body and is_binary_event() and not has_token:
        raise Denied("a signature of the body does not cover an event's ce- headers: send it in "
                     "structured mode, or with a token")
    return signature


def secrets_of(workflow):
    return signatures.secrets_in(current_request().config["ENVIRON"].get(
        workflow.content["secret_env"]))


def refuse_unasked():
    """Nobody wants what a browser prefetches; and what another site's page sends, or asks for as an
    image or a script, comes from somebody who never saw this one."""
    asked = current_request()
    headers = asked.headers
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    foreign = site not in ("same-origin", "none")  # none: typed, or opened from elsewhere
    if asked.method == "GET":
        if "prefetch" in (headers.get("Sec-Purpose", "") + headers.get("Purpose", "")).lower():
            abort(problem(503, "a prefetch resolves nothing; open the link", {"Retry-After": "0"}))
        foreign = foreign and headers.get("Sec-Fetch-Dest", "document") != "document"
    elif not site:
        foreign = origin and origin != f"{asked.scheme}://{asked.host}"
    if foreign:
        raise Forbidden("another site's page has sent this; open the link itself")


def setting(name):
    return current_request().config["SETTINGS"][name]


def now():
    return current_request().config["CLOCK"]()
