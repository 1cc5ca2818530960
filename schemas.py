"""What comes in, checked (web/cloudevents.py: events), and what goes out. No camelCase elsewhere.
"""
import graphlib
import re
import warnings
from collections import Counter
from datetime import datetime, timezone

from marshmallow import (EXCLUDE, Schema, ValidationError, fields, post_dump, post_load, pre_load,
                         validate, validates_schema)

from runs.words import ANSWERS, CONDITIONS, EVENT_WAIT, IN, MATCHES, OPERATIONS, SUCCEEDED, SUCCESS

TEN_YEARS = 5_256_000  # minutes
fields.Field.default_error_messages.update(required="is required", null="must not be null")
for kind, wanted in ((fields.String, "a text"), (fields.Integer, "a whole number"),
                     (fields.Boolean, "true or false"), (fields.List, "a list")):
    kind.default_error_messages["invalid"] = f"must be {wanted}"


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

    access_token = Parameter()  # checked by security.py; here it must not be empty or come twice


class TriggerQuery(Query):
    workflow = parameter(load_default=None)


STATUS = validate.OneOf(ANSWERS, error="must be succeeded or failed")


class CallbackQuery(Query):
    workflowrun = parameter(required=True)
    topic = parameter(required=True)
    status = Parameter(load_default=SUCCEEDED, validate=lambda text: STATUS(text.lower()))

    @post_load
    def lower_status(self, query, **kwargs):
        return {**query, "status": query["status"].lower()}


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
    github_delivery = fields.String(data_key="X-GitHub-Delivery")

    @post_load
    def first(self, headers, **kwargs):
        """The name and value of the header that counts, or None."""
        given = ((name, headers[name]) for name in self.fields if headers.get(name))
        return next(given, None)


# Workflow definitions (contract 3)

class Definition(Schema):
    """What the parts of a definition share: a null is no value, unknown keys are ignored."""
    error_messages = {"type": "must be an object"}

    class Meta:
        unknown = EXCLUDE

    @pre_load
    def leave_out_null(self, part, **kwargs):
        if not isinstance(part, dict):
            return part  # refused by marshmallow
        return {key: value for key, value in part.items() if value is not None}


def fits(test, message):
    """A validator: the test must hold for the value."""
    def check(value):
        if not test(value):
            raise ValidationError(message)
    return check


def text(**options):
    checks = [validate.Length(1, 255), fits(lambda value: "\0" not in value, "contains NUL")]
    return fields.String(validate=checks, **options)


def minutes():
    return fields.Integer(strict=True, validate=validate.Range(0, TEN_YEARS))


class Flag(fields.Boolean):
    """JSON's true or false, and nothing that merely looks like it."""

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Condition(Definition):
    field = text(required=True)
    operation = fields.String(required=True, validate=validate.OneOf([*OPERATIONS]))
    value = fields.Raw()
    # Not named `values`: marshmallow would dump a dict's method when there is no such key.
    one_of = fields.List(fields.Raw(allow_none=True), data_key="values")

    @validates_schema(skip_on_field_errors=False)
    def check_operand(self, condition, **kwargs):
        operation = condition.get("operation")
        key, shown = ("one_of", "values") if operation == IN else ("value", "value")
        if operation and key not in condition:
            raise ValidationError(f"required by {operation}", shown)
        if operation == MATCHES:
            try:
                with warnings.catch_warnings(action="ignore"):  # of what a later Python may change
                    re.compile(condition["value"])
            except (re.error, TypeError, OverflowError, RecursionError) as error:
                raise ValidationError(f"not a regular expression: {error}", key) from error


class Trigger(Definition):
    enabled = Flag()
    conditions = fields.List(fields.Nested(Condition))


class Triggers(Definition):
    webhook = fields.Nested(Trigger)
    event = fields.Nested(Trigger)


class DeclaredParam(Definition):
    name = text(required=True)
    default_value = fields.Raw(data_key="defaultValue")


class Dependency(Definition):
    task_ref = text(required=True, data_key="taskRef")
    execution_condition = fields.String(data_key="executionCondition", load_default=SUCCESS,
                                        validate=validate.OneOf([*CONDITIONS]))


class Task(Definition):
    """A wait-for-event task; its one parameter, the topic, is a field of its own in here."""
    name = text(required=True)
    type = fields.String(required=True, load_only=True)
    topic = text()
    timeout = minutes()
    dependencies = fields.List(fields.Nested(Dependency), load_default=list)

    @pre_load
    def take_topic(self, task, **kwargs):
        if not isinstance(task, dict):
            return task
        params = task["params"] if isinstance(task.get("params"), list) else []
        topics = [param["value"] for param in params if isinstance(param, dict)
                  and param.get("name") == "topic" and param.get("value") is not None]
        others = {key: value for key, value in task.items() if key != "topic"}
        return {**others, "topic": topics[0]} if topics else others

    @validates_schema(skip_on_field_errors=False)
    def check_type_and_topic(self, task, **kwargs):
        name = task.get("name")
        if task.get("type", EVENT_WAIT) not in (EVENT_WAIT, "start", "end"):
            raise ValidationError(f"task {name!r} is of type {task['type']!r}; only eventwait "
                                  "tasks run here", "type")
        if task.get("type") == EVENT_WAIT and not task.get("topic"):
            raise ValidationError(f"task {name!r} needs a parameter named topic, a text", "params")

    @post_dump
    def give_topic(self, task, **kwargs):
        topic = task.pop("topic")
        return {"name": task.pop("name"), "type": EVENT_WAIT,
                "params": [{"name": "topic", "value": topic}], **task}


def circle(graph):
    """A circle in {name: names it depends on} as a list of names, the first one twice, or None."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]


class WorkflowDefinition(Definition):
    name = fields.String(required=True, validate=validate.Regexp(
        r"[A-Za-z0-9._-]{1,100}\Z", error="must be 1 to 100 of a-z A-Z 0-9 . _ -"))
    display_name = fields.String(data_key="displayName", validate=[
        validate.Length(max=255), fits(lambda value: "\0" not in value, "contains NUL")])
    triggers = fields.Nested(Triggers, load_default=dict)
    secret_env = fields.String(data_key="secretEnv", validate=validate.Regexp(
        r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z", error="must be the name of an environment variable"))
    params = fields.List(fields.Nested(DeclaredParam), load_default=list)
    timeout = minutes()
    tasks = fields.List(fields.Nested(Task), load_default=list)

    @validates_schema(skip_on_field_errors=False)
    def check_names_and_graph(self, definition, **kwargs):
        tasks = [task for task in definition.get("tasks", []) if task and "name" in task]
        mistakes = {
            "params": [f"two parameters are named {name!r}" for name, count in Counter(
                param["name"] for param in definition.get("params", []) if param and "name" in param
                ).items() if count > 1],
            "tasks": [f"two tasks are named {name!r}" for name, count in Counter(
                task["name"] for task in tasks).items() if count > 1]}
        graph = {task["name"]: [needed["task_ref"] for needed in task.get("dependencies", [])
                                if "task_ref" in needed] for task in tasks}
        for name, needed in graph.items():
            mistakes["tasks"] += [f"task {name!r} depends on {other!r}, which is no task of this "
                                  "workflow" for other in needed if other not in graph]
        if names := circle(graph):
            mistakes["tasks"].append(f"tasks wait for each other: {' → '.join(names)}"
                                     if len(names) > 2 else f"task {names[0]!r} depends on itself")
        if mistakes := {field: messages for field, messages in mistakes.items() if messages}:
            raise ValidationError(mistakes)

    @post_load
    def keep_what_waits(self, definition, **kwargs):
        """Start and end tasks are only the edges of the graph; a timeout of 0 is none."""
        waits = [task for task in definition["tasks"] if task.pop("type") == EVENT_WAIT]
        names = {task["name"] for task in waits}
        for task in waits:
            task["dependencies"] = [dependency for dependency in task["dependencies"]
                                    if dependency["task_ref"] in names]
        for timed in [definition, *waits]:
            if timed.get("timeout") == 0:
                del timed["timeout"]
        return {**definition, "tasks": waits}


# The WorkflowRun (contract 4.6)

ANSWER_BOUND = 4_000_000  # characters of results in an answer


def dump_run(run, bound=ANSWER_BOUND):
    """The WorkflowRun as JSON has it; keys without a value are left out, and so are the results
    that no longer fit into the bound: a task has `resultsOmitted` in their place.

    Plain code, as what goes out was checked when it came in: marshmallow took a tenth of a request.
    """
    results, left = [], bound
    for task in run.tasks:
        left = left if left is None or not task.has_results else left - len(task.answer_text)
        fits = left is None or left >= 0
        results.append({"results": task.results} if fits or not task.has_results else {
            "results": [], "resultsOmitted": True})
    return {"id": run.id, "workflowRef": run.workflow_ref,
            **present("workflowDisplayName", run.workflow_display_name),
            "workflowVersion": run.workflow_version, "trigger": run.trigger, **dump_timed(run),
            "params": [{"name": name, "value": value} for name, value in run.params.items()],
            "tasks": [{"id": task.id, "name": task.name, "type": EVENT_WAIT, **dump_timed(task),
                       "params": [{"name": "topic", "value": task.topic}],
                       **brought} for task, brought in zip(run.tasks, results)]}


def dump_timed(part):
    """What a run and its tasks share."""
    return {"status": part.status, "phase": part.phase,
            **present("statusMessage", part.status_message),
            "creationDate": time_text(part.creation_date),
            **present("startTime", part.start_time and time_text(part.start_time)),
            "duration": part.duration, **present("timeout", part.timeout)}


def present(key, value):
    return {} if value is None else {key: value}


def time_text(milliseconds):
    """Milliseconds since 1970, as UTC text."""
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
