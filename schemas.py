"""What comes in, checked (runs/definitions.py and web/cloudevents.py have the rest), and what goes
out."""
import re
from datetime import datetime, timezone
from functools import lru_cache, partial

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from runs.words import ANSWERS, EVENT_WAIT, SUCCEEDED


# Query strings

def once(values):
    """The value of what was given once, of the list of its values."""
    if len(values) > 1:
        raise ValidationError("given more than once")
    return values[0]


def not_empty(values):
    """The value of a query's parameter."""
    value = once(values)
    if not value or "\0" in value:
        raise ValidationError("must not contain NUL" if value else "must not be empty")
    return value


def tidy(values):
    """What a person has written into a form's field, or None."""
    # A browser counts a line's end as one character, and sends two.
    return once(values).replace("\r\n", "\n").strip() or None


parameter = partial(fields.String, pre_load=not_empty, validate=validate.Length(max=255))
STATUS = validate.OneOf(ANSWERS, error="must be succeeded or failed")


class TriggerQuery(Schema):
    class Meta:
        unknown = EXCLUDE

    access_token = fields.String(pre_load=not_empty)  # web/doors.py has checked whose it is
    workflow = parameter(load_default=None)


class CallbackQuery(TriggerQuery):
    """Names a run by its id, or by its workflow and the value kept with it (contract 4.3)."""
    workflowrun = parameter(load_default=None)
    correlate = parameter(load_default=None)
    topic = parameter(required=True)
    status = fields.String(pre_load=[not_empty, str.lower], load_default=SUCCEEDED, validate=STATUS)

    @validates_schema(skip_on_field_errors=False)
    def check_one_way(self, query, **kwargs):
        run, workflow, correlate = map(query.get, ("workflowrun", "workflow", "correlate"))
        if run and (workflow or correlate):
            raise ValidationError("names the run; leave out workflow and correlate", "workflowrun")
        if not run and not (workflow and correlate):
            missing = "workflow" if correlate else "correlate" if workflow else "workflowrun"
            raise ValidationError("is required", missing)


class CallbackForm(Schema):
    """What a person sends from the page: a button's status, and a comment if there is one."""
    status = fields.String(pre_load=tidy, load_default=None, validate=STATUS)
    comment = fields.String(pre_load=tidy, load_default=None, validate=validate.Length(max=1000))


def idempotency_key(text):
    """The IETF draft's quoted string (RFC 8941 3.3.3), or a bare value. Raises ValidationError."""
    if text.startswith('"'):
        if not re.fullmatch(r'"(?:[ !#-\[\]-~]|\\["\\])*"', text):
            raise ValidationError('must be a quoted string such as "8e03978e"', "Idempotency-Key")
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    if not 1 <= len(text) <= 255:
        raise ValidationError("must have 1 to 255 characters", "Idempotency-Key")
    return text


#: The other headers by whose ids senders make their repeats known, the one that counts first: as
#: WSGI names them (an answer at once, where each look into the headers takes its time), and as they
#: are called in the digests that are stored.
DELIVERY_IDS = {
    "HTTP_WEBHOOK_ID": "webhook_id",
    "HTTP_SVIX_ID": "svix_id",
    "HTTP_X_GITHUB_DELIVERY": "github_delivery",
    "HTTP_X_GITLAB_EVENT_UUID": "gitlab_event_uuid",
    "HTTP_X_REQUEST_UUID": "request_uuid",
    "HTTP_X_ATLASSIAN_WEBHOOK_IDENTIFIER": "atlassian_webhook_identifier",
    "HTTP_LINEAR_DELIVERY": "linear_delivery",
    "HTTP_X_SHOPIFY_WEBHOOK_ID": "shopify_webhook_id",
    "HTTP_X_AMZ_SNS_MESSAGE_ID": "sns_message_id",
}


# The WorkflowRun (contract 4.6)

ANSWER_BOUND = 4_000_000  # characters of results in an answer


def dump_run(run, bound=ANSWER_BOUND):
    """The WorkflowRun as JSON has it; keys without a value are left out, and so are the results
    that no longer fit into the bound: a task has `resultsOmitted` in their place.

    Plain code, as what goes out was checked when it came in: marshmallow took a tenth of a request.
    """
    created, tasks, left = time_text(run.start_time), [], bound
    for task in run.tasks:
        left -= len(task.answer_text) if task.has_results else 0
        omitted = True if left < 0 and task.has_results else None
        tasks.append(present({
            "id": task.id, "name": task.name, "type": EVENT_WAIT, **dump_timed(task, created),
            "message": task.message, "params": [{"name": "topic", "value": task.topic}],
            "results": [] if omitted else task.results, "resultsOmitted": omitted}))
    return present({
        "id": run.id, "workflowRef": run.workflow_ref,
        "workflowDisplayName": run.workflow_display_name, "workflowVersion": run.workflow_version,
        "trigger": run.trigger, **dump_timed(run, created), "correlate": run.correlate,
        "params": [{"name": name, "value": value} for name, value in run.params.items()],
        "tasks": tasks})


def dump_timed(part, created):
    """What a run and its tasks share."""
    started = part.start_time
    return {"status": part.status, "phase": part.phase, "statusMessage": part.status_message,
            "creationDate": created, "startTime": started and time_text(started),
            "duration": part.duration, "timeout": part.timeout}


def present(values):
    return {key: value for key, value in values.items() if value is not None}


@lru_cache  # one moment stands in an answer up to three times
def time_text(milliseconds):
    """Milliseconds since 1970, as UTC text."""
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
