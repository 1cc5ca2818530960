"""What the log shows: lines that are one line, printable and short; of a URL five parameters."""
import logging
import re
from urllib.parse import unquote_plus

LONGEST = 2000  # characters of a line's text (contract 4.7: 2 KB a line)
SHOWN = ("workflow", "workflowrun", "topic", "status", "correlate")
PLAIN = re.compile(r"[\w.~:@/ -]{1,255}", re.ASCII)  # none of the signs that part a URL
REQUEST = re.compile(r"([A-Z]+) ([^\s?]*)\??(\S*) HTTP/[\d.]+[^\s\"]*\" (\d+)")
PATHS = ("/api/v2/webhook", "/api/v2/event", "/api/v2/callback")


def printable(text):
    """The text with an escape in place of what would end a line or move a terminal's cursor."""
    return text if text.isprintable() else "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in text)


def target(path, query):
    """A request's target without its secrets (contract 7.1): the values of the named parameters."""
    shown = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name in SHOWN:
            value = unquote_plus(value)
            shown.append(f"{name}={value if PLAIN.fullmatch(value) else '...'}")
    return (path if path in PATHS else "/...") + ("?" + "&".join(shown) if shown else "")


def without_input(message):
    """The HTTP server's message about a request that it cannot read, without the request."""
    head, sep, _ = message.partition(": ")
    return f"{head}{sep}it cannot be read" if head.startswith("Invalid request from") else message


def rewrite_request(record):
    """A logging filter: what Flask's own server says of a request, in words of our own making."""
    text = record.getMessage()
    if " - - [" in text:
        found = REQUEST.search(text)
        said = (f"{found[1]} {target(found[2], found[3])} {found[4]}" if found
                else "a request that cannot be read")
        record.msg, record.args = "%s %s", (text.partition(" ")[0], said)
    return True


class Line(logging.Formatter):
    """Each record as one printable line of at most LONGEST characters, a traceback too."""

    def format(self, record):
        lines = [line.strip() for line in super().format(record).splitlines()]
        text = printable(" | ".join(lines))
        return text if len(text) <= LONGEST else f"{text[:LONGEST // 2]} ... {text[-LONGEST // 2:]}"
