"""What the service refuses: raised where it is known, answered in web/answers.py or terminal.py."""
from difflib import get_close_matches

import regex


class Refused(Exception):
    """What was asked for cannot be done; the message says why and what would be right."""


class NotFound(Refused):
    """There is no such workflow, run or topic."""


class Ambiguous(Refused):
    """Several workflows would start."""


class PayloadDiffers(Refused):
    """A sender's key came again with another payload."""


class Conflict(Refused):
    """The state of the workflow or run does not allow it."""


class NotAllowed(Refused):
    """This caller may not do this; nobody may start what is switched off."""


class Denied(Exception):
    """The caller has not proved itself; the message says what is missing or wrong."""


class BadLink(Denied):
    """The link was changed, or its key is no longer in use."""


class Expired(BadLink):
    """The link was right once."""


class ConditionsNotMet(Refused):
    """Nothing was started, rightly: conditions do not hold, or it was a ping (maybe of no name)."""

    def __init__(self, workflow_ref, message):
        super().__init__(message)
        self.workflow_ref = workflow_ref


class Unusable(Exception):
    """A setting or the database cannot be used until the operator acts; the message says how."""


def one_line(error):
    """An error's words on one line: PostgreSQL takes several."""
    return " ".join(str(error).split())


def did_you_mean(word, known):
    """The end of a message about an unknown word: the nearest known one, if any is near."""
    near = word and ([other for other in known if other.startswith(word)]
                     or get_close_matches(word, known, n=1, cutoff=0.7))
    return f"; did you mean {near[0]!r}?" if near and word not in known else ""


def nearest(key, known):
    """The known key that is meant: at most two letters off, and a third of its own, or None."""
    near = [other for other in known if abs(len(other) - len(key)) <= 2]
    return next((other for errors in range(min(2, len(key) // 3) + 1) for other in near
                 if regex.fullmatch(f"(?:{other.lower()}){{e<={errors}}}", key.lower())), None)
