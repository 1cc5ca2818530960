"""CloudEvents 1.0 over HTTP: an event in either mode, checked, in its JSON form."""
import base64
import contextlib
import re
from datetime import datetime
from urllib.parse import unquote_to_bytes

from marshmallow import (INCLUDE, Schema, ValidationError, fields, pre_load, validate,
                         validates_schema)

from runs.strictjson import parse_json
from runs.words import fits

PCHAR = r"(?:[\w.~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
AUTHORITY = r"(?:(?:[\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?" \
            r"(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::\d*)?"
PATH = rf"{PCHAR}+(?:/{PCHAR}*)*"
HIER_PART = rf"(?://{AUTHORITY}(?:/{PCHAR}*)*|/(?:{PATH})?|{PATH}|)"
QUERY = rf"(?:\?(?:{PCHAR}|[/?])*)?"
SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*:"
#: RFC 3986 4.3 and 4.1; a relative path's first segment has no colon, or it would be a scheme.
ABSOLUTE_URI = rf"{SCHEME}{HIER_PART}{QUERY}"
URI_REFERENCE = rf"(?:{SCHEME}|(?![^/?#]*:)){HIER_PART}{QUERY}(?:#(?:{PCHAR}|[/?])*)?"
WORD = r"[\w!#$%&'*+.^`|~-]+"
QUOTED = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
#: RFC 9110 8.3.1
MEDIA_TYPE = rf"{WORD}/{WORD}(?:[ \t]*+;[ \t]*+(?:{WORD}=(?:{WORD}|{QUOTED}))?)*+"
RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:[0-5]\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)
#: What a CloudEvents string must not hold (spec, "Type System").
NOT_IN_STRING = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
NO_STRING = "must be UTF-8 without control characters"


def is_timestamp(text):
    """Whether the text is an RFC 3339 date-time; a leap second is one."""
    with contextlib.suppress(ValueError):
        return RFC_3339.fullmatch(text) and datetime.fromisoformat(
            re.sub(r"(:\d\d):60", r"\1:59", text.upper()))


printable = fits(lambda text: not NOT_IN_STRING.search(text), NO_STRING)


def written(pattern, message):
    """A validator: the whole text is as the pattern has it. (It is compiled when it is first asked
    for: it took a tenth of a command's time.)"""
    return fits(lambda text: re.fullmatch(pattern, text, re.ASCII), message)


def attribute(*checks, required=False):
    """A CloudEvents attribute: a non-empty string that passes the checks."""
    checks = [validate.Length(min=1, error="must not be empty"), printable, *checks]
    return fields.String(required=required, validate=checks)


class CloudEvent(Schema):
    """An event in JSON form (CloudEvents 1.0.2, JSON format 3)."""
    specversion = fields.String(required=True, validate=validate.Equal("1.0", error="must be 1.0"))
    id = attribute(required=True)
    source = attribute(written(URI_REFERENCE, "must be a URI-reference (RFC 3986); as a header "
                               "it has each % as %25 (HTTP binding 3.1.3.2)"), required=True)
    type = attribute(required=True)
    subject = attribute()
    time = attribute(fits(is_timestamp, "must be a time such as 2026-11-23T09:00:00Z (RFC 3339)"))
    dataschema = attribute(written(ABSOLUTE_URI, "must be an absolute URI (RFC 3986)"))
    datacontenttype = attribute(written(MEDIA_TYPE, "must be a media type (RFC 9110 8.3.1)"))

    @pre_load
    def leave_out_null(self, event, **kwargs):
        return {name: value for name, value in event.items() if value is not None or name == "data"}

    @validates_schema(skip_on_field_errors=False)
    def check_extensions_and_data(self, event, **kwargs):
        mistakes = {}
        for name in sorted(event.keys() - self.fields.keys() - {"data", "data_base64"}):
            value = event[name]
            if not re.fullmatch("[a-z0-9]+", name):
                mistakes[name] = ["an extension's name has lower-case letters and digits only"]
            elif isinstance(value, str) and NOT_IN_STRING.search(value):
                mistakes[name] = [NO_STRING]
            elif not (isinstance(value, str) or isinstance(value, int) and -2**31 <= value < 2**31):
                mistakes[name] = ["must be a string, a boolean or a 32-bit integer"]
        if "data_base64" in event:
            try:
                base64.b64decode(event["data_base64"], validate=True)
            except (ValueError, TypeError):
                mistakes["data_base64"] = ["must be base64 text"]
            if "data" in event:
                mistakes["data"] = ["data and data_base64 exclude each other"]
        if mistakes:
            raise ValidationError(mistakes)


CLOUD_EVENT = CloudEvent(unknown=INCLUDE)  # its extensions


def binary_event(headers, content_type, raw):
    """The JSON form of an event in binary mode (CloudEvents HTTP binding 3.1), not yet checked.

    Takes (name, value) pairs as WSGI gives them (bytes as Latin-1), and the Content-Type or None.
    Raises ValidationError.
    """
    event = {header[3:].lower(): decoded_header(value) for header, value in headers
             if header.lower().startswith("ce-")}
    mistakes = {name: [f"ce-{name} is no header of an event; it has Content-Type and a body"]
                for name in event.keys() & {"data", "datacontenttype"}}
    event["datacontenttype"] = content_type
    try:
        if raw:
            event["data"] = parse_json(raw, "data")
    except ValidationError as error:
        mistakes.update(error.normalized_messages())
    if mistakes:
        # What else is wrong with the event is named in the same answer.
        raise ValidationError({**CLOUD_EVENT.validate(event), **mistakes})
    return event


def decoded_header(value):
    """A header's attribute value (HTTP binding 3.1.3.2): quotes undone, percent-decoded once. What
    is not UTF-8 then becomes surrogates, which no string of an event may hold."""
    value = value.strip(" \t")
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote_to_bytes(value.encode("latin-1")).decode(errors="surrogateescape")
