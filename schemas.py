"""What comes in, checked (CloudEvents: events.py), and what goes out. camelCase lives here only."""
import graphlib
import re
import warnings
from collections import Counter
from datetime import datetime, timezone
from urllib.parse import parse_qs

from marshmallow import (EXCLUDE, Schema, ValidationError, fields, post_dump, post_load, pre_load,
                         validate, validates_schema)

TEN_YEARS = 5_256_000  # minutes
fields.Field.default_error_messages.update(required="is required", null="must not be null")
for kind, wanted in ((fields.String, "a text"), (fields.Integer, "a whole number"),
                     (fields.Boolean, "true or false"), (fields.List, "a list")):
    kind.default_error_messages["invalid"] = f"must be {wanted}"


def together(*loads):
    """The result of each call; all their mistakes are raised as one ValidationError."""
    results, mistakes = [], {}
    for load in loads:
        try:
            results.append(load())
        except ValidationError as error:
            mistakes.update(error.normalized_messages())
    if mistakes:
        raise ValidationError(mistakes)
    return results


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


STATUSES = ("succeeded", "failed")
STATUS = validate.OneOf(STATUSES, error="must be succeeded or failed")


class CallbackQuery(Query):
    workflowrun = parameter(required=True)
    topic = parameter(required=True)
    status = Parameter(load_default="succeeded", validate=lambda text: STATUS(text.lower()))

    @post_load
    def lower_status(self, query, **kwargs):
        return {**query, "status": query["status"].lower()}


class CallbackForm(Schema):
    """What a person sends from the page: a button's status, and a comment if there is one."""
    class Meta:
        unknown = EXCLUDE

    status = fields.String(load_default=None, allow_none=True, validate=STATUS)
    comment = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=1000))


def parse_form(raw):
    """The fields of an urlencoded form by name, those without a value left out."""
    try:
        values = parse_qs(raw.decode("ascii"), errors="strict", max_num_fields=20)
    except ValueError as error:
        raise ValidationError("the form is not UTF-8, or has too many fields", "body") from error
    if twice := {name: ["given more than once"] for name in values if len(values[name]) > 1}:
        raise ValidationError(twice)
    # A browser counts a line's end as one character, and sends two.
    return {name: value.replace("\r\n", "\n").strip() or None for name, (value,) in values.items()}


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
    operation = fields.String(required=True, validate=validate.OneOf(["equals", "matches", "in"]))
    value = fields.Raw()
    # Not named `values`: marshmallow would dump a dict's method when there is no such key.
    one_of = fields.List(fields.Raw(allow_none=True), data_key="values")

    @validates_schema(skip_on_field_errors=False)
    def check_operand(self, condition, **kwargs):
        operation = condition.get("operation")
        key, shown = ("one_of", "values") if operation == "in" else ("value", "value")
        if operation and key not in condition:
            raise ValidationError(f"required by {operation}", shown)
        if operation == "matches":
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
    execution_condition = fields.String(data_key="executionCondition", load_default="success",
                                        validate=validate.OneOf(["success", "failure", "always"]))


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
        if task.get("type", "eventwait") not in ("eventwait", "start", "end"):
            raise ValidationError(f"task {name!r} is of type {task['type']!r}; only eventwait "
                                  "tasks run here", "type")
        if task.get("type") == "eventwait" and not task.get("topic"):
            raise ValidationError(f"task {name!r} needs a parameter named topic, a text", "params")

    @post_dump
    def give_topic(self, task, **kwargs):
        topic = task.pop("topic")
        return {"name": task.pop("name"), "type": "eventwait",
                "params": [{"name": "topic", "value": topic}], **task}


def circles(graph):
    """Each circle in {name: names it depends on}, as the list of its names, the first one twice."""
    while True:
        try:
            return graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circle = error.args[1]
            yield circle
            graph = {name: [other for other in needed if other not in circle]
                     for name, needed in graph.items() if name not in circle}


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
        mistakes["tasks"] += [f"tasks wait for each other: {' → '.join(circle)}" if len(circle) > 2
                              else f"task {circle[0]!r} depends on itself"
                              for circle in circles(graph)]
        if mistakes := {field: messages for field, messages in mistakes.items() if messages}:
            raise ValidationError(mistakes)

    @post_load
    def keep_what_waits(self, definition, **kwargs):
        """Start and end tasks are only the edges of the graph; a timeout of 0 is none."""
        waits = [task for task in definition["tasks"] if task.pop("type") == "eventwait"]
        names = {task["name"] for task in waits}
        for task in waits:
            task["dependencies"] = [dependency for dependency in task["dependencies"]
                                    if dependency["task_ref"] in names]
        for timed in [definition, *waits]:
            if timed.get("timeout") == 0:
                del timed["timeout"]
        return {**definition, "tasks": waits}


# The WorkflowRun (contract 4.6)

class Time(fields.Integer):
    """Milliseconds since 1970, as UTC text."""

    def _serialize(self, value, attr, obj, **kwargs):
        if value is None:
            return None
        moment = datetime.fromtimestamp(value / 1000, timezone.utc)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Outgoing(Schema):
    """What a run and its tasks share: keys without a value are left out.

    Fields are Raw where the model has the very value: marshmallow's conversions cost a third.
    """
    def get_attribute(self, obj, attr, default):
        return getattr(obj, attr, default)

    @post_dump
    def leave_out_none(self, part, **kwargs):
        return {key: value for key, value in part.items() if value is not None}


class TaskRunSchema(Outgoing):
    id = fields.Raw()
    name = fields.Raw()
    type = fields.Constant("eventwait")
    status = fields.Raw()
    phase = fields.Raw()
    status_message = fields.Raw(data_key="statusMessage")
    creation_date = Time(data_key="creationDate")
    start_time = Time(data_key="startTime")
    duration = fields.Raw()
    timeout = fields.Raw()
    params = fields.Function(lambda task: [{"name": "topic", "value": task.topic}])
    results = fields.Raw()


class WorkflowRunSchema(Outgoing):
    id = fields.Raw()
    workflow_ref = fields.Raw(data_key="workflowRef")
    workflow_display_name = fields.Raw(data_key="workflowDisplayName")
    workflow_version = fields.Raw(data_key="workflowVersion")
    trigger = fields.Raw()
    status = fields.Raw()
    phase = fields.Raw()
    status_message = fields.Raw(data_key="statusMessage")
    creation_date = Time(data_key="creationDate")
    start_time = Time(data_key="startTime")
    duration = fields.Raw()
    timeout = fields.Raw()
    params = fields.Function(lambda run: [{"name": name, "value": value}
                                          for name, value in run.params.items()])
    tasks = fields.Nested(TaskRunSchema, many=True)
