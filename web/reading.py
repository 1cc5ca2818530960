"""Reading a request: its query, media type, body and form, as loaded values."""
import contextlib
import hashlib
import json
import threading
from functools import lru_cache
from urllib.parse import parse_qs

from marshmallow import ValidationError
from werkzeug.exceptions import (BadRequest, RequestEntityTooLarge, ServiceUnavailable,
                                 UnsupportedMediaType)

from runs.conditions import Delivery, value_at
from runs.strictjson import parse_json, parse_object
from runs.words import WEBHOOK
from schemas import DELIVERY_IDS, CallbackForm, CallbackQuery, TriggerQuery, idempotency_key
from web.answers import FORM, JSON
from web.asked import current_request, parsed_content_type
from web.cloudevents import CLOUD_EVENT, binary_event

LARGE = 65_536  # bytes of a body
TURN = threading.Lock()  # of the one that is worked on: as values it takes 100 times its size
EVENT_JSON, EVENT_PATH = "application/cloudevents+json", "/api/v2/event"
# Made once: a schema made anew for each request costs more than what it loads.
TRIGGER_QUERY, CALLBACK_QUERY, CALLBACK_FORM = TriggerQuery(), CallbackQuery(), CallbackForm()


def together(*loads):
    """The result of each call; all their mistakes are raised as one ValidationError."""
    results, mistakes = [], {}
    for load in loads:
        try:
            results.append(load())
        except ValidationError as error:
            mistakes.update(error.normalized_messages())
    if mistakes:
        raise ValidationError(mistakes)
    return results


def media_type():
    """The request's media type in small letters, "" without one; 415 unless it is plain UTF-8."""
    environ = current_request().environ
    encoding = environ.get("HTTP_CONTENT_ENCODING") or "identity"
    if encoding.strip().lower() != "identity":
        raise UnsupportedMediaType(f"send the body as it is, without a Content-Encoding; this came "
                                   f"as {encoding[:100]!r}")
    found, charset = parsed_content_type(environ.get("CONTENT_TYPE"))
    if charset not in ("utf-8", "utf8"):
        raise unsupported(JSON)
    return found


def unsupported(*right, more=""):
    given = current_request().content_type
    came = f"as {given[:100]!r}" if given else "without a Content-Type"
    return UnsupportedMediaType(f"send 'Content-Type: {' or '.join(right)}', in UTF-8; this came "
                                f"{came}{more}")


def is_binary_event():
    """Whether an event's attributes are in the headers (CloudEvents HTTP binding 3)."""
    asked = current_request()
    return (asked.path == EVENT_PATH and "ce-specversion" in asked.headers
            and not asked.mimetype.startswith("application/cloudevents"))


def body():
    """The raw bytes of the request. Too many are answered 413, too few 400."""
    asked = current_request()
    limit, length = asked.config["SETTINGS"]["MAX_CONTENT_LENGTH"], asked.content_length
    # One more is read: at its limit Werkzeug cuts a chunked body off without a word.
    asked.max_content_length = limit + 1
    try:
        raw = asked.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception as error:  # each server has its own for a body that it cannot read
        raise BadRequest("the body was cut short or its chunks are malformed") from error
    if len(raw) > limit:
        raise RequestEntityTooLarge
    if length and len(raw) < length:
        raise BadRequest(f"the body was cut short: {len(raw)} of {length} bytes")
    asked.has_read_body = True
    if len(raw) > LARGE and not asked.has_turn:  # only now: who sends slowly takes no one's turn
        asked.has_turn = TURN.acquire(timeout=15)  # nginx gives up after 25 s
        if not asked.has_turn:
            raise ServiceUnavailable("too many large bodies at once; send it again", retry_after=5)
    return raw


def end_turn(error):
    asked = current_request()
    if asked.has_turn:
        asked.has_turn = False  # Flask may end a request twice
        TURN.release()


def payload():
    """The JSON object that the body is, also where a sender forgot to say so (contract 4.1)."""
    declared = media_type()
    is_declared = declared == JSON or current_request().is_json  # most are; asking takes 0.2 %
    if declared not in ("", "text/plain") and not is_declared:
        raise unsupported(JSON)
    raw = body()
    if is_declared and not raw.strip():
        raise ValidationError("is empty; send a JSON object", "body")
    try:
        value = parse_json(raw)
    except ValidationError as error:
        if is_declared:
            raise
        raise unsupported(JSON, more=" and is no JSON" if raw else " and a body") from error
    if not isinstance(value, dict):
        raise ValidationError("must be a JSON object", "body")
    return value


@lru_cache  # senders call few addresses, again and again
def parameters_in(query_string):
    """The parameters, each a list of values by its name, and whether all of it is UTF-8."""
    text = query_string.decode(errors="replace")
    return parse_qs(text, keep_blank_values=True), "\ufffd" not in text


@lru_cache
def trigger_query(query_string):
    return TRIGGER_QUERY.load(parameters_in(query_string)[0])


def callback_query():
    return CALLBACK_QUERY.load(current_request().parameters)


def look_query():
    """The query of a GET that names a run and nothing else, so only looks (4.4); else None."""
    given = current_request().parameters
    if given.keys() - {"access_token"} in ({"workflowrun"}, {"workflow", "correlate"}):
        return CALLBACK_QUERY.load(given, partial=("topic",))


def webhook():
    """The query and the delivery of a webhook (contract 4.1), known by the id in its headers."""
    asked = current_request()
    query, data, sent_as = together(lambda: trigger_query(asked.query_string),
                                    form_payload if asked.mimetype == FORM else payload,
                                    delivery_id)
    delivery = Delivery(WEBHOOK, {"data": data}, asked.headers)
    return query, known_as(delivery, *sent_as) if sent_as else delivery


def identified(delivery, workflow):
    """The delivery, known by the id that counts for this workflow (contract 4.1): the one that its
    signature covers, or the first of those there are."""
    if delivery.trigger != WEBHOOK:
        return delivery
    signature = current_request().caller.signature_for(workflow)
    if signature and signature.delivery_id:  # one name for all of a kind, as they can be renamed
        return known_as(delivery, "webhook_id", signature.delivery_id)
    path = workflow.content.get("delivery_id")
    found = value_at(delivery.arrived, path) if path else None
    is_id = found != "" and isinstance(found, (str, int, float)) and not isinstance(found, bool)
    if isinstance(found, float) and found.is_integer():
        found = int(found)  # 1.0 is 1 in JSON
    is_covered = bool(signature and signature.covers_body)  # as an Idempotency-Key is not
    if is_id and (is_covered or not delivery.same_payload):
        return known_as(delivery, "delivery_id", found)
    return delivery


def known_as(delivery, source, value):
    return delivery._replace(key=digest("webhook", source, value),
                             same_payload=source == "idempotency_key")


def event():
    """The query and the delivery of a CloudEvent, in either mode (contract 4.2)."""
    asked = current_request()
    query, found = together(lambda: trigger_query(asked.query_string), cloud_event)
    return query, Delivery.of_event(found, asked.headers,
                                    digest("event", found["source"], found["id"]))


def cloud_event():
    found, asked = media_type(), current_request()
    if is_binary_event() and (asked.is_json or not found):
        return CLOUD_EVENT.load(binary_event(asked.headers, asked.content_type, body()))
    if found not in (EVENT_JSON, JSON):
        raise unsupported(EVENT_JSON, JSON)
    return CLOUD_EVENT.load(payload())


def delivery_id():
    """The name and value of the header that makes repeats known, or None."""
    environ = current_request().environ
    if "HTTP_IDEMPOTENCY_KEY" in environ:
        return "idempotency_key", idempotency_key(environ["HTTP_IDEMPOTENCY_KEY"])
    header = next(filter(environ.get, DELIVERY_IDS), None)
    return header and (DELIVERY_IDS[header], environ[header])


def digest(*parts):
    """A sender's id at a fixed length: ids have no limit, but a database's index has one."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def form():
    """A person's answer; where the link names a status, the form must not name another."""
    given = form_fields()
    if more := given.keys() - CALLBACK_FORM.fields.keys():
        raise UnsupportedMediaType("a form has the fields status and comment here, and not "
                                   f"{min(more)[:100]!r}; send JSON as 'Content-Type: {JSON}'")
    found = CALLBACK_FORM.load(given)
    linked = current_request().parameters.get("status")
    if not linked and not found["status"]:  # nor does a form that no button sent approve anything
        raise ValidationError("is required", "status")
    if linked and found["status"] and [found["status"]] != [text.lower() for text in linked]:
        raise ValidationError(f"this link is for {linked[0]}", "status")
    return found


def form_payload():
    """What a form brings: the JSON object in its field `payload`, else the object of its fields."""
    given = form_fields()
    if not given:
        raise ValidationError("is empty; send a JSON object, or a form with fields", "body")
    with contextlib.suppress(ValidationError):
        if len(given.get("payload", ())) == 1:
            return parse_object(given["payload"][0].encode())
    return {name: values if values[1:] else values[0] for name, values in given.items()}


def form_fields():
    """The values of each field of an urlencoded form, by name. JSON under its name is 415."""
    media_type()
    raw = body()
    if raw.lstrip().startswith(b"{"):
        raise UnsupportedMediaType("this is JSON that came as a form, which is what `curl -d` says "
                                   f"by itself; send 'Content-Type: {JSON}'")
    try:
        return parse_qs(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as error:
        raise ValidationError("the form is not UTF-8, or has too many fields", "body") from error
