"""How runs and workflows look on a terminal and as a Mermaid diagram: objects in, text out."""
import json
import re
import shlex
import shutil
import sys
from collections import defaultdict
from urllib.parse import urlencode

import click

from runs.conditions import MISSING, evaluate, filled_task, in_text, is_enabled
from runs.words import (CANCELLED, FAILED, NOT_STARTED, RUNNING, SKIPPED, SUCCEEDED, TIMED_OUT,
                        WAITING)

SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
#: For each status a mark, a terminal's colour, and a diagram's fill.
LOOKS = {NOT_STARTED: ("○", "bright_black", "#e8e8e8"), WAITING: ("●", "yellow", "#ffe8a3"),
         RUNNING: ("●", "yellow", "#ffe8a3"), SUCCEEDED: ("✓", "green", "#bfe8c5"),
         FAILED: ("✗", "red", "#ffc9c4"), TIMED_OUT: ("!", "red", "#ffc9c4"),
         SKIPPED: ("–", "bright_black", "#e8e8e8"), CANCELLED: ("×", "bright_black", "#e8e8e8")}


class Duration(click.ParamType):
    """A whole number and its unit, as seconds."""
    name = "duration"

    def convert(self, value, param, ctx):
        match = re.fullmatch(r"(\d{1,9})([smhd])", str(value), re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a whole number and s, m, h or d, such as 30d")
        return int(match[1]) * SECONDS[match[2]]


def print_json(value):
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def columns(stream=None):
    """The terminal's width; None when the output goes elsewhere."""
    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else None


def tell(text):
    """Put a line on standard error in place of the one before, if a person looks on."""
    if width := columns(sys.stderr):
        print(f"\r\033[K{text[:width - 1]}", end="", file=sys.stderr, flush=True)


def lines_of(messages, path=()):
    """A line for each mistake of nested messages, with its path in front."""
    if isinstance(messages, dict):
        return [line for key, value in messages.items()
                for line in lines_of(value, path if key == "_schema" else (*path, key))]
    return [f"{'.'.join(map(str, path))}: {message}" for message in messages]


def plain(text):
    """The text with a replacement for what would move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def age(milliseconds):
    """A span of time in a few characters: 12s, 3m, 2h, 5d."""
    seconds = max(0, milliseconds) // 1000
    unit = next((unit for unit, length in SECONDS.items() if seconds >= length), "s")
    return f"{seconds // SECONDS[unit]}{unit}"


def coloured(text, status):
    return click.style(text, fg=LOOKS[status][1])


def table(head, rows, width=None):
    """A table, as wide as that at most: its last column is cut."""
    rows = [[plain(str(cell)) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(line if width is None or len(line) <= width else line[:width - 1] + "…"
                     for line in lines)


def callback_url(settings, query):
    return f"{settings['PUBLIC_URL'].rstrip('/')}/api/v2/callback?{urlencode(query)}"


def tree(run, settings):
    """A run: each task under the first that it depends on, with the commands that resolve it."""
    lines = [f"{click.style(run.workflow_ref, bold=True)} {run.id} {state(run)}, started "
             f"{age(run.as_of - run.start_time)} ago by {plain(run.origin)}"]
    below = defaultdict(list)
    for task in reversed(run.tasks):
        below[next((needed["task_ref"] for needed in task.dependencies), None)].append(task)
    token = ' -H "Authorization: Bearer ${ACCESS_TOKENS%%,*}"' if settings["ACCESS_TOKENS"] else ""
    left = [("  ", task) for task in below[None]]
    while left:
        indent, task = left.pop()
        mark = coloured(LOOKS[task.status][0], task.status)
        lines.append(f"{indent}{mark} {plain(task.name)}: {state(task)}, topic {plain(task.topic)}")
        if task.status == WAITING:
            url = callback_url(settings, {"workflowrun": run.id, "topic": task.topic})
            lines.append(f"{indent}    curl -d '{{}}' -H 'Content-Type: application/json'{token} "
                         + shlex.quote(url))
            if settings["SECRET_KEY"] and task.topic.isprintable():
                lines.append(f"{indent}    flask workflowrun link {run.id} --topic "
                             + shlex.quote(task.topic))
        left += [(indent + "  ", other) for other in below[task.name]]
    return "\n".join(lines)


def state(part):
    """The status of a run or task, for how long, and why."""
    span = f" {'after' if part.end_time else 'for'} {age(part.duration)}" if part.start_time else ""
    why = part.status_message if part.status != NOT_STARTED else (
        "needs " + ", ".join(needed["task_ref"] for needed in part.dependencies))
    return coloured(part.status, part.status) + span + (f" ({plain(why)})" if why else "")


def waits_for(run, with_age=True):
    """The topics that a run waits for, and for how long it has."""
    return ", ".join(plain(task.topic) + f" ({age(task.duration)})" * with_age
                     for task in run.tasks if task.status == WAITING)


def listing(runs, width=None):
    """A table of runs."""
    text = table(["ID", "STATUS", "AGE", "WORKFLOW", "WAITS FOR"], [
        [run.id, run.status, age(run.as_of - run.start_time), run.workflow_ref,
         waits_for(run, with_age=False)] for run in runs], width)
    return re.sub(rf"(?m)^(\w{{32}}  )({'|'.join(LOOKS)})",
                  lambda row: row[1] + coloured(row[2], row[2]), text)


def report(facts, width=None):
    """A table of facts by name; of several numbers those that are none are left out."""
    return table(["WHAT", "STATE"], [
        [name, (", ".join(f"{key} {part}" for key, part in value.items() if part) or "none")
         if isinstance(value, dict) else value if value is not None else "none"]
        for name, value in facts.items()], width)


def trial(definition, delivery):
    """Whether the delivery would start a run of the workflow, and the text that says why."""
    starts = is_enabled(definition, delivery.trigger)
    lines = [f"the {delivery.trigger} trigger is {'on' if starts else 'off'}"]
    for condition, met, value in evaluate(definition, delivery):
        found = "missing" if value is MISSING else json.dumps(value, ensure_ascii=False)
        verdict = "holds" if met else "does not hold"
        lines.append(plain(f"{verdict}: {in_text(condition)}; found {found}"))
        starts = starts and met
    for task in definition["tasks"] if starts else ():  # raises ValidationError
        filled_task(task, delivery.params(definition["params"]))
    if starts and "secret_env" in definition:
        lines.append(f"its sender must sign it with {definition['secret_env']}")
    return starts, "\n".join([*lines, "would start" if starts else "would not start"])


def graph(tasks):
    """A Mermaid flowchart of tasks by name with their dependencies, and their status if known."""
    ids = {task["name"]: f"n{number}" for number, task in enumerate(tasks)}
    states = defaultdict(list)
    for task in tasks:
        states[task.get("status")].append(ids[task["name"]])
    return "\n".join([
        "flowchart TD", *(f'  {id}["{label(name)}"]' for name, id in ids.items()),
        *(f"  {ids[needed['task_ref']]} -->|{needed['execution_condition']}| {ids[task['name']]}"
          for task in tasks for needed in task["dependencies"]),
        *(f"  classDef {status} fill:{LOOKS[status][2]},stroke:#555,color:#222\n"
          f"  class {','.join(nodes)} {status}" for status, nodes in states.items() if status)])


def label(text):
    """The text within Mermaid's quotes: whatever it, HTML or Markdown may read is a code."""
    return re.sub(r"[^\w .-]|(?<![^\W_])[._-]|[._-](?![^\W_])",
                  lambda char: f"#{ord(char[0])};", plain(text))
