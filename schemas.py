"""What comes in, checked (runs/definitions.py and web/cloudevents.py have the rest), and what goes
out."""
import re
from datetime import datetime, timezone
from functools import lru_cache

from marshmallow import (EXCLUDE, Schema, ValidationError, fields, post_load, validate,
                         validates_schema)

from runs.words import ANSWERS, EVENT_WAIT, SUCCEEDED


# Query strings

class Parameter(fields.String):
    """A query parameter, as the list of the values it was given."""

    def _deserialize(self, value, attr, data, **kwargs):
        if len(value) > 1:
            raise ValidationError("given more than once")
        if not value[0] or "\0" in value[0]:
            raise ValidationError("must not be empty" if not value[0] else "must not contain NUL")
        return super()._deserialize(value[0], attr, data, **kwargs)


def parameter(**options):
    return Parameter(validate=validate.Length(max=255), **options)


class Query(Schema):
    class Meta:
        unknown = EXCLUDE

    access_token = Parameter()  # web/doors.py checks it; here it must not be empty or come twice


class TriggerQuery(Query):
    workflow = parameter(load_default=None)


STATUS = validate.OneOf(ANSWERS, error="must be succeeded or failed")


class RunQuery(Query):
    """Names a run by its id, or by its workflow and the value kept with it (contract 4.3)."""
    workflowrun = parameter(load_default=None)
    workflow = parameter(load_default=None)
    correlate = parameter(load_default=None)

    @validates_schema(skip_on_field_errors=False)
    def check_one_way(self, query, **kwargs):
        run, workflow, correlate = (query.get(name) for name in
                                    ("workflowrun", "workflow", "correlate"))
        if run and (workflow or correlate):
            raise ValidationError("names the run; leave out workflow and correlate", "workflowrun")
        if not run and not (workflow and correlate):
            raise ValidationError("is required", "workflow" if correlate else
                                  "correlate" if workflow else "workflowrun")


class Status(Parameter):
    """A status in letters of any size, in small ones."""

    def _deserialize(self, value, attr, data, **kwargs):
        return super()._deserialize(value, attr, data, **kwargs).lower()


class CallbackQuery(RunQuery):
    topic = parameter(required=True)
    status = Status(load_default=SUCCEEDED, validate=STATUS)


class CallbackForm(Schema):
    """What a person sends from the page: a button's status, and a comment if there is one."""
    class Meta:
        unknown = EXCLUDE

    status = fields.String(load_default=None, allow_none=True, validate=STATUS)
    comment = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=1000))


class IdempotencyKey(fields.String):
    """The IETF draft's quoted string (RFC 8941 3.3.3), or a bare value."""

    def _deserialize(self, value, attr, data, **kwargs):
        if value.startswith('"'):
            if not re.fullmatch(r'"(?:[ !#-\[\]-~]|\\["\\])*"', value):
                raise ValidationError('must be a quoted string such as "8e03978e"')
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if not 1 <= len(value) <= 255:
            raise ValidationError("must have 1 to 255 characters")
        return value


class DeliveryHeaders(Schema):
    """The ids by which senders make their repeats known, the one that counts first."""
    class Meta:
        unknown = EXCLUDE

    idempotency_key = IdempotencyKey(data_key="Idempotency-Key")
    webhook_id = fields.String(data_key="webhook-id")
    svix_id = fields.String(data_key="svix-id")
    github_delivery = fields.String(data_key="X-GitHub-Delivery")
    gitlab_event_uuid = fields.String(data_key="X-Gitlab-Event-UUID")
    request_uuid = fields.String(data_key="X-Request-UUID")
    atlassian_webhook_identifier = fields.String(data_key="X-Atlassian-Webhook-Identifier")
    linear_delivery = fields.String(data_key="Linear-Delivery")
    shopify_webhook_id = fields.String(data_key="X-Shopify-Webhook-Id")
    sns_message_id = fields.String(data_key="x-amz-sns-message-id")

    @post_load
    def first(self, headers, **kwargs):
        """The name and value of the header that counts, or None."""
        given = ((name, headers[name]) for name in self.fields if headers.get(name))
        return next(given, None)


# The WorkflowRun (contract 4.6)

ANSWER_BOUND = 4_000_000  # characters of results in an answer


def dump_run(run, bound=ANSWER_BOUND):
    """The WorkflowRun as JSON has it; keys without a value are left out, and so are the results
    that no longer fit into the bound: a task has `resultsOmitted` in their place.

    Plain code, as what goes out was checked when it came in: marshmallow took a tenth of a request.
    """
    created, results, left = time_text(run.start_time), [], bound
    for task in run.tasks:
        left = left if left is None or not task.has_results else left - len(task.answer_text)
        fits = left is None or left >= 0
        results.append({"results": task.results} if fits or not task.has_results else {
            "results": [], "resultsOmitted": True})
    return present({
        "id": run.id, "workflowRef": run.workflow_ref,
        "workflowDisplayName": run.workflow_display_name, "workflowVersion": run.workflow_version,
        "trigger": run.trigger, **dump_timed(run, created), "correlate": run.correlate,
        "params": [{"name": name, "value": value} for name, value in run.params.items()],
        "tasks": [present({
            "id": task.id, "name": task.name, "type": EVENT_WAIT, **dump_timed(task, created),
            "message": task.message, "params": [{"name": "topic", "value": task.topic}], **brought})
            for task, brought in zip(run.tasks, results)]})


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
