"""Workflow definitions, checked and in snake_case (contract 3); the only place with their keys."""
import graphlib
from collections import Counter, defaultdict
from functools import partial

from marshmallow import (EXCLUDE, Schema, ValidationError, fields, post_load, pre_load, validate,
                         validates_schema)

from runs.conditions import full_path
from runs.patterns import pattern_mistake
from runs.refusals import nearest
from runs.strictjson import parse_file
from runs.words import (CONDITIONS, EVENT, EVENT_WAIT, IN, INACTIVE, MATCHES, NOTICES, OPERATIONS,
                        RUN_ENDED, SUCCESS, TASK_WAITING, TRIGGERS, WEBHOOK, fits)

TEN_YEARS = 5_256_000  # minutes


class Definition(Schema):
    """What the parts of a definition share: a null is no value; unknown keys are left out, those
    that are nearly known refused, and so is what `mistakes` finds."""
    error_messages = {"type": "must be an object"}
    #: Keys by which other layouts of the same thing are known, and whose layouts those are.
    other_layouts = {}

    class Meta:
        unknown = EXCLUDE

    @property
    def by_key(self):
        """The fields by their keys."""
        return {field.data_key or name: field for name, field in self.fields.items()}

    @pre_load
    def prepare(self, part, **kwargs):
        if not isinstance(part, dict):
            return part  # refused by marshmallow
        part = {key: value for key, value in part.items() if value is not None}
        mistakes = {key: [f"is of the layout of {owner}, which would load without its tasks; "
                          "write name, triggers and tasks as docs/definitions.md has them"]
                    for key, owner in self.other_layouts.items() if key in part}
        if mistakes:
            raise ValidationError(mistakes)
        return part

    def mistakes(self, part):
        """What is wrong with the part as a whole, as far as it could be read: (key, message)."""
        return ()

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def check(self, part, written, **kwargs):
        keys, found = self.by_key, defaultdict(list)
        for key in own_keys(written):
            if key not in keys and (near := nearest(key, keys)):
                found[key].append(f"is not known; did you mean {near}?")
        for key, message in self.mistakes(part):
            found[key].append(message)
        if found:
            raise ValidationError(found)


def own_keys(part):
    """The keys of the part that have a value, but for what editors read; none of no object."""
    return [key for key, value in part.items() if value is not None and key != "$schema"
            ] if isinstance(part, dict) else []


def unknown_keys(part, schema, path=""):
    """The path of each key that is not known; places in lists are left out."""
    known = schema.by_key
    for item in part if isinstance(part, list) else [part]:
        for key in own_keys(item):
            inner = getattr(known.get(key), "inner", known.get(key))  # of a list
            if inner is None:
                yield path + key
            elif isinstance(inner, fields.Nested):
                yield from unknown_keys(item[key], inner.schema, f"{path}{key}.")


has_no_nul = fits(lambda value: "\0" not in value, "contains NUL")
text = partial(fields.String, validate=[validate.Length(1, 255), has_no_nul])
minutes = partial(fields.Integer, strict=True, validate=validate.Range(
    0, TEN_YEARS, error="must be 0 to {max} minutes"))


def matching(pattern, message, **options):
    return fields.String(validate=validate.Regexp(rf"{pattern}\Z", error=message), **options)


class Condition(Definition):
    field = text(required=True)
    operation = fields.String(required=True, validate=validate.OneOf([*OPERATIONS]))
    value = fields.Raw()
    # Not named `values`: marshmallow would dump a dict's method when there is no such key.
    one_of = fields.List(fields.Raw(allow_none=True), data_key="values")

    def mistakes(self, condition):
        operation = condition.get("operation")
        key, shown = ("one_of", "values") if operation == IN else ("value", "value")
        if operation and key not in condition:
            yield shown, f"required by {operation}"
        elif operation == MATCHES and (mistake := pattern_mistake(condition["value"])):
            yield shown, mistake


class Trigger(Definition):
    # Not fields.Boolean, which takes 1 for true.
    enabled = fields.Raw(validate=fits(lambda value: isinstance(value, bool),
                                       "must be true or false"))
    conditions = fields.List(fields.Nested(Condition))


class Triggers(Definition):
    webhook = fields.Nested(Trigger)
    event = fields.Nested(Trigger)

    @pre_load
    def prepare(self, part, **kwargs):
        """Where a trigger of another system is named, those that are not are off, as there."""
        part = super().prepare(part)
        foreign = any(key not in TRIGGERS for key in own_keys(part))
        return {**dict.fromkeys(TRIGGERS, {"enabled": False}), **part} if foreign else part


class DeclaredParam(Definition):
    name = text(required=True)
    default_value = fields.Raw(data_key="defaultValue")
    default = fields.Raw(load_only=True)  # as newer exports write it

    def mistakes(self, param):
        if {"default", "default_value"} <= param.keys():
            yield "default", "means the same as defaultValue; leave one of them out"

    @post_load
    def merge_default(self, param, **kwargs):
        if "default" in param:
            param["default_value"] = param.pop("default")
        return param


class Dependency(Definition):
    task_ref = text(required=True, data_key="taskRef")
    execution_condition = fields.String(data_key="executionCondition", load_default=SUCCESS,
                                        validate=validate.OneOf([*CONDITIONS]))


class TaskParam(Definition):
    name = fields.Raw()
    value = fields.Raw()


def topic_in(params):
    """The value of a task's parameter named topic; None when it is missing or cannot be one."""
    found = next((param.get("value") for param in params if param.get("name") == "topic"), None)
    is_topic = isinstance(found, str) and found.strip() and len(found) <= 255 and "\0" not in found
    return found if is_topic else None


class Task(Definition):
    """A wait-for-event task; its one parameter, the topic, is a field of its own in here."""
    other_layouts = dict.fromkeys(["taskId", "properties"], "an older release")

    name = text(required=True)
    type = fields.String(required=True, dump_default=EVENT_WAIT)
    params = fields.Function(lambda task: [{"name": "topic", "value": task["topic"]}])
    topic = fields.List(fields.Nested(TaskParam), data_key="params", load_only=True,
                        load_default=None, post_load=topic_in,
                        error_messages={"invalid": "must be a list, with a parameter named topic"})
    timeout = minutes()
    message = fields.String(validate=[validate.Length(max=2000), has_no_nul])
    resolvers = fields.List(matching("[!-+\\--9;-~]{1,255}", "must be a token's name, or link"),
                            validate=validate.Length(1, error="must name somebody; left out, "
                                                              "whoever is let in may end the task"))
    dependencies = fields.List(fields.Nested(Dependency), load_default=list)

    def mistakes(self, task):
        called = f"task {task['name']!r}" if "name" in task else "this task"
        kind = task.get("type", EVENT_WAIT)
        if kind not in (EVENT_WAIT, "start", "end"):
            yield "type", f"{called} is of type {kind!r}; only eventwait tasks run here"
        if kind == EVENT_WAIT and task.get("topic", "") is None:
            yield "params", f"{called} needs a parameter named topic, of 1 to 255 characters"


class Notify(Definition):
    """Who is told of what, and when (contract 10)."""
    on = fields.List(fields.String(validate=validate.OneOf([*NOTICES])),
                     load_default=lambda: [TASK_WAITING, RUN_ENDED],
                     validate=validate.Length(1, error="must name at least one kind of notice"))
    tasks = fields.List(text(), validate=validate.Length(
        1, error="must name at least one task; left out, it is all of them"))
    to = matching(r"(env:[A-Za-z_][A-Za-z0-9_]{0,254}|"
                  r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\s]*@)?[^/?#@:\s\x00][^\s\x00]{0,2000})",
                  "must be an address such as https://deploy.example.org/hook, or env:NAME",
                  required=True)
    by = fields.String(validate=[validate.Length(1, 255),
                                 fits(str.isprintable, "must be printable")])
    after = minutes()


class WorkflowDefinition(Definition):
    other_layouts = {"latestRevision": "another release", "nodes": "the editor",
                     "edges": "the editor"}

    name = matching("[A-Za-z0-9._-]{1,100}", "must be 1 to 100 of a-z A-Z 0-9 . _ -",
                    required=True)
    display_name = fields.String(data_key="displayName",
                                 validate=[validate.Length(max=255), has_no_nul])
    status = fields.Raw()
    triggers = fields.Nested(Triggers, load_default=dict)
    secret_env = matching("[A-Za-z_][A-Za-z0-9_]{0,254}", data_key="secretEnv",
                          message="must be the name of an environment variable")
    signature_header = matching("[A-Za-z0-9!#$%&'*+.^`|~-]{1,255}", data_key="signatureHeader",
                                message="must be a header's name such as X-Signature")
    delivery_id = matching(r"(\$\.)?data\.[^\x00]{1,248}", data_key="deliveryId",
                           message="must be a path into the payload such as data.event_id",
                           post_load=lambda path: path.removeprefix("$."))
    params = fields.List(fields.Nested(DeclaredParam), load_default=list)
    correlate = text()
    notify = fields.List(fields.Nested(Notify))
    timeout = minutes()
    tasks = fields.List(fields.Nested(Task), required=True,
                        validate=validate.Length(max=500, error="must be at most 500"),
                        error_messages={"required": "is required; with an empty list a run "
                                                    "succeeds at once"})

    @pre_load
    def prepare(self, part, **kwargs):
        if isinstance(part, dict) and isinstance(part.get("content"), list) and "tasks" not in part:
            raise ValidationError("this is a page of definitions; apply the list in it, such as "
                                  "`jq .content` prints it", "content")
        return super().prepare(part)

    def mistakes(self, definition):
        named = {key: [part for part in definition.get(key, []) if "name" in part]
                 for key in ("params", "tasks")}
        for key, parts in named.items():
            for name, count in Counter(part["name"] for part in parts).items():
                if count > 1:
                    yield key, f"two of them are named {name!r}"
        graph = {task["name"]: [needed["task_ref"] for needed in task.get("dependencies", [])
                                if "task_ref" in needed] for task in named["tasks"]}
        for name, needed in graph.items():
            for other in needed:
                if other not in graph:
                    yield "tasks", (f"task {name!r} depends on {other!r}, which is no task of this "
                                    "workflow")
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            _, names = error.args  # the first one twice
            yield "tasks", (f"tasks wait for each other: {' → '.join(names)}" if len(names) > 2
                            else f"task {names[0]!r} depends on itself")
        waits = {task["name"] for task in named["tasks"]
                 if task.get("type", EVENT_WAIT) == EVENT_WAIT}
        for entry in definition.get("notify", []):
            for name in entry.get("tasks", []):
                if name not in waits:
                    yield "notify", f"{name!r} is no task of this workflow that waits"
        for place, trigger, part, key in paths(definition):
            try:
                full_path(part[key], trigger, definition)
            except ValidationError as error:
                yield place, error.messages[0]

    @post_load
    def complete(self, definition, **kwargs):
        """Paths in full; start and end tasks are only the graph's edges; a timeout of 0 is none."""
        for _, trigger, part, key in paths(definition):
            part[key] = full_path(part[key], trigger, definition)
        if definition.get("status") != INACTIVE:
            definition.pop("status", None)
        edges = {task["name"]: task["dependencies"] for task in definition["tasks"]
                 if task["type"] != EVENT_WAIT}
        waits = [task for task in definition["tasks"] if task.pop("type") == EVENT_WAIT]

        for task in waits:  # what leads to an edge is needed in its place
            found, left = {}, task["dependencies"]
            for needed in left:
                ref, condition = key = needed["task_ref"], needed["execution_condition"]
                if key not in found:
                    found[key] = needed
                    left += [inner if condition == SUCCESS else {
                        **inner, "execution_condition": condition} for inner in edges.get(ref, ())]
            task["dependencies"] = [found[key] for key in found if key[0] not in edges]
        for timed in [definition, *waits]:
            if timed.get("timeout") == 0:
                del timed["timeout"]
        return {**definition, "tasks": waits}


def paths(definition):
    """Each path: its place, the trigger that it is for, what has it, and as which key."""
    for trigger, settings in definition.get("triggers", {}).items():
        for number, condition in enumerate(settings.get("conditions", [])):
            if "field" in condition:
                place = f"triggers.{trigger}.conditions.{number}.field"
                yield place, trigger, condition, "field"
    if "correlate" in definition:  # an event's attributes count if there may be one
        event = definition.get("triggers", {}).get(EVENT, {})
        trigger = EVENT if event.get("enabled", True) else WEBHOOK
        yield "correlate", trigger, definition, "correlate"


DEFINITION = WorkflowDefinition()
DEFINITIONS = fields.List(fields.Nested(DEFINITION))


def read(raw):
    """The definitions in a file's bytes, and the paths of the keys that are not known.

    Raises ValidationError.
    """
    found = parse_file(raw)
    loaded = DEFINITIONS.deserialize(found) if isinstance(found, list) else [DEFINITION.load(found)]
    return loaded, dict.fromkeys(unknown_keys(found, DEFINITION))
