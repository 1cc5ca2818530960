"""What the log shows: lines that are one line, printable and short; of a URL five parameters."""
import logging
import re
import time
from functools import lru_cache
from urllib.parse import unquote_plus

from runs.words import ANSWERS

LONGEST = 2000  # bytes of a line (contract 4.7: 2 KB)
SHOWN = ("workflow", "workflowrun", "topic", "status", "correlate")
PLAIN = re.compile(r"[\w.~:@/ -]{1,255}", re.ASCII)  # none of the signs that part a URL
REQUEST = re.compile(r"([A-Z]+) ([^\s?]*)\??(\S*) HTTP/[\d.]+[^\s\"]*\" (\d+)")
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE")
PATHS = ("/api/v2/webhook", "/api/v2/event", "/api/v2/callback")


def plain(value, most=255):
    """The value, when it has no sign in which a secret could hide, and when it is short."""
    return value if PLAIN.fullmatch(value) and len(value) <= most else "…"


def request_line(method, path, query):
    """A request without its secrets (contract 7.1): of the query the values of five parameters."""
    shown = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name in SHOWN:
            value = unquote_plus(value[:1000])
            is_plain = name != "status" or value.lower() in ANSWERS
            shown.append(f"{name}={plain(value) if is_plain else '…'}")
    return (f"{method if method in METHODS else '…'} {path if path in PATHS else '/…'}"
            + ("?" + "&".join(shown) if shown else ""))


def rewrite_request(record):
    """A logging filter: what Flask's own server says of a request, in words of our own making."""
    text = record.getMessage()
    if " - - [" in text:
        found = REQUEST.search(text)
        said = (f"{request_line(*found.group(1, 2, 3))} {found[4]}" if found
                else "a request that cannot be read")
        record.msg, record.args = "%s %s", (text.partition(" ")[0], said)
    return True


@lru_cache  # many lines are of one second
def second(since_1970, form):
    return time.strftime(form, time.localtime(since_1970))


class Line(logging.Formatter):
    """Each record as one line of at most LONGEST bytes, a traceback too, with an escape for what
    would move a terminal's cursor."""

    def formatTime(self, record, datefmt=None):
        text = second(int(record.created), datefmt or self.default_time_format)
        return text if datefmt else f"{text},{int(record.msecs):03}"

    def format(self, record):
        text = super().format(record)
        if len(text) <= LONGEST // 4 and text.isprintable():
            return text
        text = " | ".join(line.strip() for line in text.splitlines())
        raw = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text).encode()
        half = LONGEST // 2 - 3
        parts = [raw] if len(raw) <= LONGEST else [raw[:half], raw[-half:]]
        return " … ".join(part.decode(errors="ignore") for part in parts)
