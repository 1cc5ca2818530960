"""What people see and type on a terminal: objects in, text out; refusals in one line, escapes."""
import codecs
import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import sys

import click
from flask.cli import ScriptInfo
from marshmallow import ValidationError

import storage
import upkeep
from models import Workflow, WorkflowRun
from runs.definitions import read
from runs.refusals import NotFound, Refused, Unusable, did_you_mean
from runs.words import (CANCELLED, FAILED, LINK, MARKS, NOT_STARTED, RUNNING, SKIPPED, SUCCEEDED,
                        TIMED_OUT, WAITING)
from web.signatures import THIS_MACHINE, callback_url

log = logging.getLogger("signalbox")

SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
LONGEST_DURATION = 36_500 * 86_400  # a hundred years: what comes later has no date here
LARGEST = 100_000_000  # bytes of a file that is read
LONGEST = 200  # characters that are shown of a result
#: For each status a terminal's colour.
COLOURS = {NOT_STARTED: "bright_black", WAITING: "yellow", RUNNING: "yellow", SUCCEEDED: "green",
           FAILED: "red", TIMED_OUT: "red", SKIPPED: "bright_black", CANCELLED: "bright_black"}


def plain(text, kept=""):
    """The text with JSON's escapes for what would move a terminal's cursor, or change the colours
    or the order of what it shows."""
    return re.sub(r"[^ -~]", lambda char: char[0] if char[0].isprintable() or char[0] in kept
                  else json.dumps(char[0])[1:-1], text)


codecs.register_error("signalbox", lambda error: (
    json.dumps(error.object[error.start:error.end])[1:-1], error.end))


def echo(text, err=False):
    """Print it. (Left to itself, click writes UTF-8 to a terminal that takes ASCII.)"""
    click.echo(text, file=sys.stderr if err else sys.stdout)


class Duration(click.ParamType):
    """A whole number and its unit, as seconds."""
    name = "duration"

    def __init__(self, least=0):
        self.least = least

    def convert(self, value, param, ctx):
        match = re.fullmatch(r"(\d{1,9})([smhd])", str(value), re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a whole number and s, m, h or d, such as 30d")
        seconds = int(match[1]) * SECONDS[match[2]]
        if not self.least <= seconds <= LONGEST_DURATION:
            raise Refused(f"{param.opts[0]}: {value} is not between {self.least}s and 36500d")
        return seconds


class Contents(click.Path):
    """A file, as its name and its bytes; - is standard input."""

    def convert(self, value, param, ctx):
        try:
            with click.open_file(value, "rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            raise Refused(f"{value!r}: {error.strerror}") from error
        if len(content) > LARGEST:
            raise Refused(f"{value!r} has more than {LARGEST} bytes")
        return "<stdin>" if value == "-" else value, content


def completed(ctx, param, incomplete):
    """The names or ids that the shell may complete this to; none while the database is away."""
    with contextlib.suppress(*storage.BROKEN):
        storage.database.prepare()
        return upkeep.known(WorkflowRun.id if param.name == "run_id" else Workflow.name, incomplete)
    return []


name_argument = click.argument("name", shell_complete=completed)
run_argument = click.argument("run_id", metavar="ID", shell_complete=completed)


@contextlib.contextmanager
def refusing(command):
    """What goes wrong inside ends the command with one line, which no terminal takes amiss, and
    exit code 2 for wrong usage, else 1; `wait` with 2 also for an unknown run, else 3."""
    for stream in (sys.stdout, sys.stderr):  # what is not in its encoding is escaped
        stream.reconfigure(errors="signalbox")
    exit_code = 3 if command.name == "wait" else 1
    try:
        yield
        return
    except click.ClickException as error:
        error.message = plain(error.message, "\n")
        error.show(sys.stderr)
        sys.exit(error.exit_code)
    except ValidationError as error:
        message = "; ".join(lines_of(error.normalized_messages()))
    except NotFound as error:
        message, exit_code = str(error), min(exit_code, 2)
    except (Refused, Unusable, OSError) as error:
        message = str(error)
    except UnicodeError:
        message = "what was typed is not text in UTF-8"
    except storage.BROKEN as error:
        message = f"the database cannot be used now: {storage.why(error)}"
    tell("")  # how far it had come
    echo(plain(f"Error: {message}"), err=True)
    sys.exit(exit_code)


class Command(click.Command):
    """A command that uses the database, and says what a mistyped name may have meant."""

    def make_context(self, *args, **kwargs):
        with refusing(self):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx):
        if os.environ.get("NO_COLOR"):  # https://no-color.org
            ctx.color = False
        if sys.stderr.isatty():  # what a command prints is enough for a person
            log.setLevel(logging.WARNING)
        app = ctx.find_object(ScriptInfo).load_app()
        storage.database.initialize(app.config["DATABASE"])
        with refusing(self), app.app_context():
            if self.name not in ("status", "wait"):  # which say themselves what is wrong
                storage.database.prepare()
            try:
                return super().invoke(ctx)
            except NotFound as error:
                typed = ctx.params.get("run_id") or ctx.params.get("name", "")
                column = WorkflowRun.id if ctx.params.get("run_id") else Workflow.name
                near = did_you_mean(typed, upkeep.known(column, typed) + upkeep.known(column))
                raise NotFound(f"{error}{near}") from error


class Group(click.Group):
    """Commands; a wrong name of one is refused as what goes wrong in them is."""
    command_class = Command

    def invoke(self, ctx):
        with refusing(self):
            return super().invoke(ctx)


def print_json(value):
    echo(plain(json.dumps(value, indent=2, ensure_ascii=False), "\n"))


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


def load_definitions(files, otherwise):
    """The definitions in the files; every mistake is printed before any ends the command."""
    definitions, mistakes = {}, []
    for file, content in files:
        try:
            loaded, unknown = read(content)
        except ValidationError as error:
            mistakes += [f"{file}: {line}" for line in lines_of(error.normalized_messages())]
            continue
        if unknown:
            echo(plain(f"{file}: not known, so left out: {', '.join(unknown)}"), err=True)
        for definition in loaded:
            if definition["name"] in definitions:
                mistakes.append(f"{file}: name: {definition['name']} is defined twice")
            definitions[definition["name"]] = definition
    if mistakes:
        echo("\n".join(map(plain, mistakes)), err=True)
        raise Refused(otherwise)
    return definitions.values()


def age(milliseconds):
    """A span of time in a few characters: 12s, 3m, 2h, 5d."""
    seconds = max(0, milliseconds) // 1000
    unit = next((unit for unit, length in SECONDS.items() if seconds >= length), "s")
    return f"{seconds // SECONDS[unit]}{unit}"


def coloured(text, status):
    return click.style(text, fg=COLOURS[status])


def table(head, rows):
    """A table, as wide as the terminal at most: its last column is cut."""
    rows = [[plain(str(cell)) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    width = columns() or sys.maxsize
    return "\n".join(line if len(line) <= width else line[:width - 1] + "…" for line in lines)


def tree(run, settings):
    """A run: each task under the first that it depends on, with the commands that resolve it."""
    lines = [f"{click.style(run.workflow_ref, bold=True)} {run.id} {state(run)}, started "
             f"{age(run.as_of - run.start_time)} ago by {plain(run.origin)}"]
    tokens = settings["ACCESS_TOKENS"]
    token = "" if not tokens else ' -H "Authorization: Bearer ${ACCESS_TOKENS%s}"' % (
        "%%,*" if tokens[0][0] is None else "##*:" if tokens[-1][0] else "##*,")
    for depth, task in run.tree():
        indent, mark = "  " * (depth + 1), coloured(MARKS[task.status], task.status)
        lines.append(f"{indent}{mark} {plain(task.name)}: {state(task)}, topic {plain(task.topic)}")
        if task.message:
            lines.append(f"{indent}    {plain(task.message)}")
        lines += [plain(f"{indent}    {result['name']}: {short(result['value'])}")
                  for result in task.results]
        if task.status != WAITING:
            continue
        if task.resolvers:
            lines.append(plain(f"{indent}    for {run.who_may_resolve(task.topic)}"))
        if task.resolvers != [LINK]:
            url = callback_url(settings, {"workflowrun": run.id, "topic": task.topic})
            lines.append(f"{indent}    curl -d '{{}}' -H 'Content-Type: application/json'{token} "
                         + shlex.quote(url))
        if task.takes_links and settings["SECRET_KEY"] and task.topic.isprintable():
            lines.append(f"{indent}    flask workflowrun link {run.id} --topic "
                         + shlex.quote(task.topic))
    return "\n".join(lines)


def doubts(run, topic, settings):
    """Why a link to answer the topic may not do what it is meant for. Raises NotFound."""
    tasks = run.tasks_on(topic)
    if all(task.outcome for task in tasks):
        ends = ", ".join(f"{task.name} {task.outcome}" for task in tasks)
        yield plain(f"this topic has been decided: {ends}; the link's page will say so")
    elif not any(task.takes_links for task in tasks if not task.outcome):
        yield plain(f"the link will end nothing: this topic is for {run.who_may_resolve(topic)}")
    if settings["PUBLIC_URL"].rstrip("/") == THIS_MACHINE:
        yield f"only this machine reaches {THIS_MACHINE}; set PUBLIC_URL to an address that all do"


def short(value):
    """A value on one line: a text as it is, else JSON; a long one is cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


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


def listing(runs):
    """A table of runs."""
    text = table(["ID", "STATUS", "AGE", "WORKFLOW", "WAITS FOR"], [
        [run.id, run.status, age(run.as_of - run.start_time), run.workflow_ref,
         waits_for(run, with_age=False)] for run in runs])
    return re.sub(rf"(?m)^(\w{{32}}  )({'|'.join(COLOURS)})",
                  lambda row: row[1] + coloured(row[2], row[2]), text)


def report(facts):
    """A table of facts by name; of several numbers those that are none are left out."""
    return table(["WHAT", "STATE"], [
        [name, (", ".join(f"{key} {part}" for key, part in value.items() if part) or "none")
         if isinstance(value, dict) else value if value is not None else "none"]
        for name, value in facts.items()])
