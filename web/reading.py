"""Reading a request: its query, media type, body and form, as loaded values."""
import hashlib
import json
from functools import lru_cache
from urllib.parse import parse_qs

from flask import current_app, g, request
from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.http import parse_options_header

from runs.conditions import Delivery
from runs.strictjson import parse_object
from runs.words import WEBHOOK
from schemas import CallbackForm, CallbackQuery, DeliveryHeaders, TriggerQuery
from web.answers import JSON
from web.cloudevents import CLOUD_EVENT, binary_event

EVENT_JSON = "application/cloudevents+json"
# Made once: a schema made anew for each request costs more than what it loads.
TRIGGER_QUERY, CALLBACK_QUERY, CALLBACK_FORM = TriggerQuery(), CallbackQuery(), CallbackForm()
DELIVERY_HEADERS = DeliveryHeaders()


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


def media_type(*accepted):
    """The request's media type, one of the accepted ones in UTF-8, or 415."""
    found, charset = parsed_content_type(request.content_type)
    if found not in accepted or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(f"send 'Content-Type: {' or '.join(accepted)}', in UTF-8; this "
                                   f"came as {request.content_type!r}")
    return found


@lru_cache  # senders spell it in a few ways only; parsing took 3 % of a request
def parsed_content_type(text):
    found, options = parse_options_header(text)
    unread = "" if "charset" in (text or "").lower() else "utf-8"  # Werkzeug drops a malformed one
    return found.lower(), options.get("charset", unread).lower()


def body():
    """The raw bytes of the request. Too many are answered 413, too few 400."""
    limit = current_app.config["SETTINGS"]["MAX_CONTENT_LENGTH"]
    # One more is read: at its limit Werkzeug cuts a chunked body off without a word.
    request.max_content_length = limit + 1
    try:
        raw = request.get_data()
    except RequestEntityTooLarge:
        raw = None
    except Exception as error:  # each server has its own for a body that it cannot read
        raise BadRequest("the body was cut short or its chunks are malformed") from error
    if raw is None or len(raw) > limit:
        raise RequestEntityTooLarge(f"the body may have {limit} bytes at most")
    if len(raw) < (request.content_length or 0):
        raise BadRequest(f"the body was cut short: {len(raw)} of {request.content_length} bytes")
    g.has_read_body = True
    return raw


def payload():
    return parse_object(body())


def trigger_query():
    return TRIGGER_QUERY.load(g.parameters)


def callback_query():
    query = CALLBACK_QUERY.load(g.parameters)
    query.pop("access_token", None)
    return query


def webhook():
    """The query and the delivery of a webhook (contract 4.1)."""
    media_type(JSON)
    query, data, sent_as = together(trigger_query, payload, delivery_id)
    key = digest("webhook", *sent_as) if sent_as else None
    same_payload = bool(sent_as) and sent_as[0] == "idempotency_key"
    return query, Delivery(WEBHOOK, {"data": data}, key, same_payload)


def event():
    """The query and the delivery of a CloudEvent, in either mode (contract 4.2)."""
    query, found = together(trigger_query, cloud_event)
    return query, Delivery.of_event(found, digest("event", found["source"], found["id"]))


def cloud_event():
    if media_type(EVENT_JSON, JSON) == JSON and "ce-specversion" in request.headers:
        return CLOUD_EVENT.load(binary_event(request.headers, request.content_type, body()))
    return CLOUD_EVENT.load(payload())


def delivery_id():
    """The name and value of the header that makes repeats known, or None."""
    names = [field.data_key for field in DELIVERY_HEADERS.fields.values()]
    given = {name: request.headers[name] for name in names if name in request.headers}
    return DELIVERY_HEADERS.load(given) if given else None


def digest(*parts):
    """A sender's id at a fixed length: ids have no limit, but a database's index has one."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def form():
    """A person's answer; where the link names a status, the form must not name another."""
    found = CALLBACK_FORM.load(form_fields(body()))
    linked = g.parameters.get("status")
    if not linked and not found["status"]:  # nor does a form that no button sent approve anything
        raise ValidationError("is required", "status")
    if linked and found["status"] and [found["status"]] != [text.lower() for text in linked]:
        raise ValidationError(f"this link is for {linked[0]}", "status")
    return found


def form_fields(raw):
    """The fields of an urlencoded form by name, those without a value left out."""
    try:
        values = parse_qs(raw.decode("ascii"), errors="strict", max_num_fields=20)
    except ValueError as error:
        raise ValidationError("the form is not UTF-8, or has too many fields", "body") from error
    if twice := {name: ["given more than once"] for name in values if len(values[name]) > 1}:
        raise ValidationError(twice)
    # A browser counts a line's end as one character, and sends two.
    return {name: value.replace("\r\n", "\n").strip() or None for name, (value,) in values.items()}
