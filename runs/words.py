"""The contract's words, each written once (section 2); times, and what is wrong, in words."""
import re
from datetime import datetime, timezone

from marshmallow import ValidationError, fields, validate

# A task's status, and a run's
NOT_STARTED, WAITING, RUNNING = "notstarted", "waiting", "running"
SUCCEEDED, FAILED, TIMED_OUT = "succeeded", "failed", "timedout"
SKIPPED, CANCELLED = "skipped", "cancelled"

ANSWERS = (SUCCEEDED, FAILED)  # what a callback may say
RAN = {SUCCEEDED, FAILED, TIMED_OUT}
ENDED = RAN | {SKIPPED, CANCELLED}
RUN_STATUSES = (RUNNING, *sorted(ENDED - {SKIPPED}))
PHASES = {NOT_STARTED: "pending", WAITING: "running", RUNNING: "running",
          **dict.fromkeys(ENDED, "completed")}

WEBHOOK, EVENT = TRIGGERS = ("webhook", "event")
EVENT_WAIT = "eventwait"  # the only type of task that runs here

#: How a task must have ended for each execution condition of those that depend on it (4.5).
SUCCESS, FAILURE, ALWAYS = "success", "failure", "always"
CONDITIONS = {SUCCESS: {SUCCEEDED}, FAILURE: {FAILED, TIMED_OUT}, ALWAYS: ENDED}

#: What a notice tells (section 10).
TASK_WAITING, TASK_ENDED, RUN_STARTED, RUN_ENDED = NOTICES = (
    "task.waiting", "task.ended", "run.started", "run.ended")

INACTIVE = "inactive"  # the status of a definition that nothing starts
LINK = "link"  # among a task's resolvers: whoever has a signed link
EQUALS, MATCHES, IN = OPERATIONS = ("equals", "matches", "in")


#: A sign for each status.
MARKS = {NOT_STARTED: "○", WAITING: "●", RUNNING: "●", SUCCEEDED: "✓", FAILED: "✗", TIMED_OUT: "!",
         SKIPPED: "–", CANCELLED: "×"}


def masked(text):
    """A text for the log without what may be the rest of a URL: in it a secret may stand, however
    it is spelled."""
    return re.sub(r"[?&;#=%？＆；＃＝％](?=\S)\S*", "…", text[:300])


def in_utc(milliseconds):
    """A time as a person reads it, to the minute."""
    return f"{datetime.fromtimestamp(milliseconds // 1000, timezone.utc):%Y-%m-%d %H:%M} UTC"


def in_words(milliseconds):
    """A span of time as a person says it: "3 minutes", "2 days"."""
    seconds = milliseconds // 1000
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


# What is wrong, in place of marshmallow's own words

fields.Field.default_error_messages.update(required="is required", null="must not be null")
for kind, wanted in {fields.String: "a text", fields.Integer: "a whole number",
                     fields.List: "a list"}.items():
    kind.default_error_messages["invalid"] = f"must be {wanted}"
validate.OneOf.default_message = "must be one of {choices}"
validate.Range.message_min = "must be at least {{min}}"
validate.Range.message_all = "must be {{min}} to {{max}}"
validate.Length.message_all = "must have {min} to {max} characters"
validate.Length.message_max = "must have at most {max} characters"


def fits(test, message):
    """A validator: the test must hold for the value."""
    def check(value):
        if not test(value):
            raise ValidationError(message)
    return check
