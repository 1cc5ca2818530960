"""The request that is being answered, with what has been found out about it."""
from flask import Request, request


class Asked(Request):
    """A request, and what the doors and the readers know of it."""
    config = None  # the application's
    parameters = {}  # of its query: the values of each, by its name
    caller = None  # web/doors.py's Caller
    is_known = False  # whether it may be told what it got wrong
    routed_to = None  # the name of the workflow that its conditions or its event found
    has_read_body = False
    has_turn = False  # whether its large body is the one that is worked on


#: The request itself: a look through `request` or `g` asks each time which one it is.
current_request = request._get_current_object
