"""The contract's words for a state, and whether what arrived starts a workflow (sections 2, 3)."""
import json
import re
from typing import NamedTuple

from strictjson import same_json

NOT_STARTED, WAITING, RUNNING = "notstarted", "waiting", "running"
SUCCEEDED, FAILED, TIMED_OUT = "succeeded", "failed", "timedout"
SKIPPED, CANCELLED = "skipped", "cancelled"
RAN = {SUCCEEDED, FAILED, TIMED_OUT}
ENDED = RAN | {SKIPPED, CANCELLED}
PHASES = {NOT_STARTED: "pending", WAITING: "running", RUNNING: "running",
          **dict.fromkeys(ENDED, "completed")}
#: How a task must have ended for each execution condition of those that depend on it (4.5).
CONDITIONS = {"success": {SUCCEEDED}, "failure": {FAILED, TIMED_OUT}, "always": ENDED}
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
        return cls("event", {"event": event, **data}, key)

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


def judged(definition, delivery):
    """For each condition of the trigger: itself, whether it holds, the value found or MISSING.

    The path to the value goes through objects only.
    """
    params = delivery.params(definition["params"])
    for condition in definition["triggers"].get(delivery.trigger, {}).get("conditions", []):
        value = params
        for key in condition["field"].split("."):
            value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
        yield condition, holds(condition, value), value


def unmet(definition, delivery):
    """The first condition of the delivery's trigger that does not hold, in words, or None."""
    return next((f"condition not met: {shown(condition)}"
                 for condition, met, _ in judged(definition, delivery) if not met), None)


def shown(condition):
    wanted = json.dumps(condition.get("value", condition.get("one_of")), ensure_ascii=False)
    return f"{condition['field']} {condition['operation']} {wanted}"


def holds(condition, value):
    if condition["operation"] == "matches":
        return isinstance(value, str) and bool(re.fullmatch(condition["value"], value))
    if condition["operation"] == "in":
        return any(same_json(value, wanted) for wanted in condition["one_of"])
    return same_json(value, condition["value"])


def in_words(milliseconds):
    """A span of time as a person says it: "3 minutes", "2 days"."""
    seconds = milliseconds // 1000
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
