"""Whether what arrived starts a workflow (contract 3): deliveries, paths, conditions."""
import json
import re
from typing import NamedTuple

from runs.strictjson import same_json
from runs.words import EVENT, IN, MATCHES

MISSING = object()  # in place of a value, as null is one


class Delivery(NamedTuple):
    """What arrived for a trigger, and the digest by which its sender's repeats are known."""
    trigger: str
    arrived: dict  # "data" and "event", as far as there are any
    key: str | None = None
    same_payload: bool = False  # a repeat must carry the payload of the first

    @classmethod
    def of_event(cls, event, key=None):
        data = {"data": event["data"]} if "data" in event else {}
        return cls(EVENT, {"event": event, **data}, key)

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


def is_enabled(definition, trigger):
    """Whether the definition's trigger is on, which it is unless it says otherwise."""
    return definition["triggers"].get(trigger, {}).get("enabled", True)


def evaluate(definition, delivery):
    """For each condition of the trigger: itself, whether it holds, the value found or MISSING.

    The path to the value goes through objects only.
    """
    conditions = definition["triggers"].get(delivery.trigger, {}).get("conditions", ())
    params = delivery.params(definition["params"]) if conditions else {}
    for condition in conditions:
        value = params
        for key in condition["field"].split("."):
            value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
        yield condition, holds(condition, value), value


def unmet(definition, delivery):
    """The first condition of the delivery's trigger that does not hold, in words, or None."""
    return next((f"condition not met: {in_text(condition)}"
                 for condition, met, _ in evaluate(definition, delivery) if not met), None)


def in_text(condition):
    wanted = json.dumps(condition.get("value", condition.get("one_of")), ensure_ascii=False)
    return f"{condition['field']} {condition['operation']} {wanted}"


def holds(condition, value):
    if condition["operation"] == MATCHES:
        return isinstance(value, str) and bool(re.fullmatch(condition["value"], value))
    if condition["operation"] == IN:
        return any(same_json(value, wanted) for wanted in condition["one_of"])
    return same_json(value, condition["value"])
