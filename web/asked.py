"""The request that is being answered, with what has been found out about it."""
import re
from functools import lru_cache

from flask import Request, request
from werkzeug.http import parse_options_header


class Asked(Request):
    """A request, and what the doors and the readers know of it."""
    config = None  # the application's
    parameters = {}  # of its query: the values of each, by its name
    caller = None  # web/doors.py's Caller
    is_known = False  # whether it may be told what it got wrong
    routed_to = None  # the name of the workflow that its conditions or its event found
    has_read_body = False
    has_turn = False  # whether its large body is the one that is worked on

    @property
    def mimetype(self):  # also Werkzeug's is_json asks it
        return parsed_content_type(self.environ.get("CONTENT_TYPE"))[0]


@lru_cache  # senders spell it in a few ways only; parsing took 3 % of a request
def parsed_content_type(text):
    """The media type in small letters, "" without one, and the charset."""
    found, options = parse_options_header(text)
    # Werkzeug drops a malformed one.
    unread = "" if re.search(r";\s*charset", text or "", re.I) else "utf-8"
    return found.lower(), options.get("charset", unread).lower()


#: The request itself: a look through `request` or `g` asks each time which one it is.
current_request = request._get_current_object
