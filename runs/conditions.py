"""Whether what arrived starts a workflow (contract 3): deliveries, paths, conditions, and what of
it is filled into topics and messages."""
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from marshmallow import ValidationError

from runs.patterns import matches
from runs.refusals import ConditionsNotMet, NotAllowed
from runs.strictjson import same_json
from runs.words import EVENT, IN, INACTIVE, MATCHES, WEBHOOK

MISSING = object()  # in place of a value, as null is one
HEADER = "header."  # what the path of a request's header begins with
#: Whether a header of this name (in lower case) may carry a proof, a token, a signature or the
#: like: no condition sees it.
carries_proof = re.compile(
    "token|secret|signature|passw|passphrase|credential|authoriz|authent|cookie|session|hmac|jwt|"
    "(api|access|auth|private|shared|function|subscription)s?[-_]?key|bearer|assertion|"
    "referer|"  # a URL, which may hold one
    "(^|[-_])(auth|sig|otp|client-cert)([-_]|$)").search
#: What becomes a blank where it is filled in: control characters, also those that reorder a line.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Delivery(NamedTuple):
    """What arrived for a trigger, and the digest by which its sender's repeats are known."""
    trigger: str
    arrived: dict  # "data" and "event", as far as there are any
    headers: Mapping  # names as full_path() has them; never stored
    key: str | None = None
    same_payload: bool = False  # a repeat must carry the payload of the first

    @classmethod
    def of_event(cls, event, headers, key=None):
        data = {"data": event["data"]} if "data" in event else {}
        return cls(EVENT, {"event": event, **data}, headers, key)

    @property
    def subject(self):
        """The first segment of the event's subject: it may name the workflow (contract 4.2)."""
        subject = self.arrived.get("event", {}).get("subject", "")
        return subject.removeprefix("/").partition("/")[0]

    def params(self, declared):
        """A run's parameters by name: what arrived, then the declared ones that have a value."""
        data = self.arrived.get("data")
        given = data if isinstance(data, dict) else {}
        values = {param["name"]: given.get(param["name"], param.get("default_value"))
                  for param in declared if param["name"] in given or "default_value" in param}
        return {**self.arrived, **values, **self.arrived}  # what arrived stands first, and wins

    def value_at(self, params, path):
        """The value at a condition's path: a header's text, or what the parameters hold."""
        if path.startswith(HEADER):
            name = path.removeprefix(HEADER)
            return MISSING if carries_proof(name) else self.headers.get(name, MISSING)
        return value_at(params, path)


def value_at(params, path):
    """The value at a dotted path, which goes through objects only, or MISSING."""
    value = params
    for key in path.split("."):
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    return value


def full_path(path, trigger, definition):
    """The path from the run's parameters or the headers that is meant for this trigger.

    Raises ValidationError when there can never be anything.
    """
    path = path.removeprefix("$.")
    first = path.partition(".")[0]
    if path.startswith(HEADER):
        name = path.removeprefix(HEADER).lower().replace("_", "-")  # one name, as WSGI has it
        if not name or carries_proof(name) or name == definition.get(
                "signature_header", "").lower():
            raise ValidationError(f"the header {name!r} carries a proof, and is never seen" if name
                                  else "must name a header, such as header.x-github-event")
        return HEADER + name
    declared = {param["name"] for param in definition.get("params", []) if "name" in param}
    if first == "data" or first in declared or first == trigger == EVENT:
        return path
    if trigger == WEBHOOK or not first:
        raise ValidationError(f"{path!r} can never be there; begin with data., header. or a "
                              "declared parameter's name")
    return f"event.{path}"


def is_enabled(definition, trigger):
    """Whether the definition's trigger is on, which it is unless it says otherwise."""
    return (definition.get("status") != INACTIVE
            and definition["triggers"].get(trigger, {}).get("enabled", True))


def conditions_of(definition, trigger):
    return definition["triggers"].get(trigger, {}).get("conditions", ())


def evaluate(definition, delivery):
    """For each condition of the trigger: itself, whether it holds, the value found or MISSING."""
    conditions = conditions_of(definition, delivery.trigger)
    params = delivery.params(definition["params"]) if conditions else {}
    for condition in conditions:
        value = delivery.value_at(params, condition["field"])
        yield condition, holds(condition, value, definition["name"]), value


def unmet(definition, delivery):
    """The first condition of the delivery's trigger that does not hold, in words, or None."""
    return next((f"condition not met: {in_text(condition)}"
                 for condition, met, _ in evaluate(definition, delivery) if not met), None)


def refuse_unless_met(definition, delivery):
    """Raise NotAllowed or ConditionsNotMet when the delivery starts no run."""
    if not is_enabled(definition, delivery.trigger):
        raise NotAllowed(f"the {delivery.trigger} trigger of workflow {definition['name']} is "
                         "switched off in its definition")
    if missing := unmet(definition, delivery):
        raise ConditionsNotMet(definition["name"], missing)


def in_text(condition):
    wanted = json.dumps(condition.get("value", condition.get("one_of")), ensure_ascii=False)
    return f"{condition['field']} {condition['operation']} {wanted}"


def holds(condition, value, workflow):
    if condition["operation"] == MATCHES:
        where = f"workflow={workflow} field={condition['field']!r}"
        return isinstance(value, str) and matches(condition["value"], value, where)
    if condition["operation"] == IN:
        return any(same_json(value, wanted) for wanted in condition["one_of"])
    return same_json(value, condition["value"])


def text_of(value):
    """A text as it is, a number or boolean as JSON writes it; None for anything else."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def filled(text, params):
    """The text with the run's values in place of $(params.PATH), as far as there are any."""
    if "$(" not in text:
        return text

    def value(match):
        found = text_of(value_at(params, match[1]))
        return match[0] if found is None else CONTROL.sub(" ", found)
    return re.sub(r"\$\(params\.([^()]+)\)", value, text)


def filled_task(task, params):
    """The topic and the message of a task in a run. Raises ValidationError for a topic that cannot
    be one."""
    topic = filled(task["topic"], params)
    if not topic.strip() or len(topic) > 255:
        size = f"{len(topic)} characters" if topic.strip() else "nothing"
        raise ValidationError(f"the topic {task['topic']!r} of task {task['name']!r} would become "
                              f"{size}; it may have 1 to 255", "topic")
    return {"topic": topic, "message": filled(task.get("message", ""), params)[:2000] or None}


def correlated(path, delivery, params):
    """The value by which callers can name the run: 1 to 255 characters, or None."""
    text = text_of(delivery.value_at(params, path)) if path else None
    return text if text and len(text) <= 255 and "\0" not in text else None
