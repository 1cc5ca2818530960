"""Regular expressions that cannot hold a worker (contract 3): Python's syntax, `regex` matches."""
import logging
import re
import time
import warnings

import regex

log = logging.getLogger("signalbox")

MATCH_SECONDS = 0.1  # how long a pattern may take for a text
SILENT_SECONDS = 60  # for how long a slow pattern is not reported again
reported = {}  # (pattern, where it stands): when it was reported as slow
POSIX_CLASS = r"\[:\^?\w+:\]"
#: An escaped character, or a set.
NO_BRACE = re.compile(rf"\\.|\[\^?\]?(?:\\.|{POSIX_CLASS}|[^\]\\])*\]", re.DOTALL)


def pattern_mistake(pattern):
    """Why the pattern is refused: it does not compile, or means another thing to `regex` than to
    Python's own `re`. None when it will do."""
    if not isinstance(pattern, str):
        return "must be a regular expression, a text"
    try:
        with warnings.catch_warnings(action="ignore"):  # of what a later Python may change
            re.compile(pattern)
            regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}"
    if re.search(r"\{(?!\d*,?\d*\})", NO_BRACE.sub("", pattern)):
        return "not a regular expression: write \\{ for a brace that is no count"
    if re.search(POSIX_CLASS, pattern):
        return "not a regular expression: write a-z instead of [:alpha:]"


def matches(pattern, text, where):
    """Whether the pattern matches the whole text, within its time; other threads go on meanwhile.

    `where` says which pattern it is, for the log.
    """
    try:
        return bool(regex.fullmatch(pattern, text, timeout=MATCH_SECONDS, concurrent=True))
    except TimeoutError:
        now = time.monotonic()
        if now - reported.get((pattern, where), -SILENT_SECONDS) >= SILENT_SECONDS:
            reported[pattern, where] = now
            log.warning("a pattern took too long, so it does not hold; write a simpler one %s",
                        where)
        return False
