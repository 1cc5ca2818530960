"""Who calls (contract 7): one Caller made once a request, before anything of it is parsed."""
from typing import NamedTuple
from urllib.parse import parse_qs

from flask import abort, current_app, g, request
from werkzeug.exceptions import BadRequest, Forbidden

from models import Workflow
from runs.refusals import Denied
from runs.words import LINK
from storage import database
from web import signatures
from web.answers import CALLBACK, problem
from web.reading import (body, current_request, is_binary_event, parameters_in,
                         refuse_oversize)


OWN_SITE = ("same-origin", "none")  # none: typed, or opened from outside a browser


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
        """The Signature by which the workflow lets this caller in, or None."""
        if self.workflow:
            return self.signature
        try:
            return accepted_signature(workflow, self.has_token)
        except Denied:
            return None

    def may_start(self, workflow):
        """Whether this caller, who named no workflow, has signed the request, if this one asks."""
        return not workflow.content.get("secret_env") or bool(self.signature_for(workflow))


def identify():
    """Make the request's Caller. Raises Denied, or aborts with 413 or 503: nothing else is
    answered to a caller who has proved nothing."""
    config, asked = current_app.config, current_request()
    headers, path = asked.headers, asked.path
    opened, tokens = config["DATABASE"], config["SETTINGS"]["ACCESS_TOKENS"]
    database.use(opened)
    opened.prepare()
    try:
        g.parameters = parameters = parameters_in(asked.query_string)
    except UnicodeError as error:
        g.parameters = parse_qs(asked.query_string.decode("latin-1"), keep_blank_values=True)
        if tokens and not signatures.offered_token(tokens, headers, g.parameters):
            reason = f"{token_at_fault(g.parameters)}, and a query that cannot be read"
            raise Denied(reason) from error
        raise BadRequest("the query string has bytes that are not percent-encoded") from error
    if path == CALLBACK and "signature" in parameters:
        link = signatures.verified_link(setting("SECRET_KEY"), parameters, now())
        g.caller = Caller(link=link)
        return
    token = signatures.offered_token(tokens, headers, parameters) if tokens else None
    has_token = token is not None
    g.is_known = is_known = has_token or not tokens
    workflow = signature = None
    if path != CALLBACK and asked.method == "POST":
        name = parameters.get("workflow", [""])[0]
        workflow = Workflow.known(name) if name and name.isprintable() else None
        if name:
            refuse_oversize()  # whatever is signed: it tells a stranger nothing
        own = workflow and workflow.content.get("signature_header")
        if name and (is_known or signatures.is_signed(headers, own)):
            signature = check_sender(workflow, has_token, is_known)
            is_known = True
    if not is_known:
        raise Denied(f"{token_at_fault(parameters)}, and no signature of a workflow that it names")
    g.caller = Caller(has_token, workflow=workflow, signature=signature,
                      token_name=token and token[0])


def token_at_fault(parameters):
    is_offered = ("access_token" in parameters or "Authorization" in request.headers
                  or "x-access-token" in request.headers)
    return "a wrong token" if is_offered else "no token"


def check_sender(workflow, has_token, is_known):
    """The Signature by which a workflow with a secret lets the sender in; a token is not enough.

    For a caller without a token a workflow that needs no signature, or is unknown, takes as long,
    whichever headers it sends.
    """
    variable = workflow and workflow.content.get("secret_env")
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
    except (BadRequest, Denied) as error:
        if is_known:
            raise
        reason = missing or getattr(error, "description", error)
        raise Denied(f"{token_at_fault(g.parameters)}, and no signature: {reason}") from error


def accepted_signature(workflow, has_token):
    """The Signature of this request that the workflow (None: a secret of nobody's) accepts.

    Raises Denied; also where the headers say what starts, which a signed body does not cover.
    """
    content = workflow.content if workflow else {}
    known = secrets_of(workflow) if content.get("secret_env") else []
    signature = signatures.verify_signature(known or [signatures.NOBODY], request.headers, body(),
                                            now(), content.get("signature_header"))
    if signature.covers_body and is_binary_event() and not has_token:
        raise Denied("a signature of the body does not cover an event's ce- headers: send it in "
                     "structured mode, or with a token")
    return signature


def secrets_of(workflow):
    return signatures.secrets_in(current_app.config["ENVIRON"].get(workflow.content["secret_env"]))


def refuse_foreign_form():
    """What another site's page may send unasked comes from somebody who never saw this one."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    foreign = site not in OWN_SITE if site else (
        origin and origin != f"{request.scheme}://{request.host}")
    if foreign:
        raise Forbidden("this form was sent by another site; open the link itself")


def refuse_foreign_part():
    """Another site's page asks for an image or a script, and whoever looks at it knows nothing."""
    part = request.headers.get("Sec-Fetch-Dest", "document") != "document"
    if part and request.headers.get("Sec-Fetch-Site") not in OWN_SITE:
        raise Forbidden("this was asked for by another site's page; open the link itself")


def refuse_prefetch():
    purpose = request.headers.get("Sec-Purpose", "") + request.headers.get("Purpose", "")
    if "prefetch" in purpose.lower():
        abort(problem(503, "a prefetch resolves nothing; open the link", {"Retry-After": "0"}))


def setting(name):
    return current_app.config["SETTINGS"][name]


def now():
    return current_app.config["CLOCK"]()
