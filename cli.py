"""`flask workflow …` and `flask workflowrun …`: how people operate the service."""
import json
import logging
import math
import re
import shutil
import sys
import time
from urllib.parse import urlencode

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext
from marshmallow import ValidationError
from peewee import DatabaseError

import database
import security
import upkeep
from errors import NotFound, Refused, Unusable, one_line
from models import TABLES, Workflow, WorkflowRun
from rules import ENDED, RUNNING, SUCCEEDED, in_words
from schemas import STATUSES, WorkflowDefinition, WorkflowRunSchema
from strictjson import parse_json

log = logging.getLogger("signalbox")

DEFINITION, WORKFLOW_RUN = WorkflowDefinition(), WorkflowRunSchema()
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
POLL_SECONDS = 0.2


class Group(AppGroup):
    """Commands whose refusals are one line on standard error and exit code 1."""

    def invoke(self, ctx):
        if sys.stderr.isatty():
            log.setLevel(logging.WARNING)  # what a command prints is enough for a person
        try:
            database.database.prepare()
            return super().invoke(ctx)
        except (Refused, Unusable) as error:
            raise click.ClickException(str(error)) from error
        except (DatabaseError, *database.UNAVAILABLE) as error:
            raise click.ClickException(
                f"the database cannot be used now: {one_line(error)}") from error


class Duration(click.ParamType):
    """A whole number and its unit, as seconds."""
    name = "duration"

    def convert(self, value, param, ctx):
        match = re.fullmatch(r"(\d{1,9})([smhd])", str(value), re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a whole number and s, m, h or d, such as 30d")
        return int(match[1]) * SECONDS[match[2]]


class Seconds(click.FloatRange):
    """A number of seconds; not every float is one."""

    def convert(self, value, param, ctx):
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds")
        return seconds


def now():
    return current_app.config["CLOCK"]()


def print_json(value):
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(head, rows):
    """A table as wide as the terminal at most: its last column is cut, and whole when piped."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in [head, *rows]:
        line = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip()
        click.echo(line if limit is None or len(line) <= limit else line[:limit - 1] + "…")


@click.group(cls=Group)
def workflow():
    """Define what starts a run and what it waits for."""


@workflow.command("apply")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.File("rb"))
def workflow_apply(files):
    """Load workflow definitions from JSON files (- is standard input): all of them, or none.

    A file holds one definition or a list of them. A definition whose name is known replaces the one
    before; runs already started keep their tasks.
    """
    definitions, mistakes, seen = [], [], set()
    for file in files:
        try:
            found = parse_json(file.read(), "file")
            many = isinstance(found, list)
            loaded = DEFINITION.load(found, many=many)
        except ValidationError as error:
            mistakes += [f"{file.name}: {line}" for line in lines_of(error.normalized_messages())]
            continue
        for definition in loaded if many else [loaded]:
            if definition["name"] in seen:
                mistakes.append(f"{file.name}: name: {definition['name']} is defined twice")
            seen.add(definition["name"])
            definitions.append(definition)
    if mistakes:
        click.echo("\n".join(mistakes), err=True)
        raise click.ClickException("nothing was applied; correct the lines above")
    for name, version, outcome in Workflow.apply(definitions):
        click.echo(f"{outcome} {name} (version {version})")


def lines_of(messages, path=()):
    """A line for each mistake of nested messages, with its path in front."""
    if isinstance(messages, dict):
        return [line for key, value in messages.items()
                for line in lines_of(value, path if key == "_schema" else (*path, key))]
    return [f"{'.'.join(map(str, path))}: {message}" for message in messages]


@workflow.command("list")
@click.option("--json", "as_json", is_flag=True, help="An array of definitions, for programs.")
def workflow_list(as_json):
    """Show the workflows there are."""
    workflows = list(Workflow.select().order_by(Workflow.name))
    if as_json:
        return print_json([DEFINITION.dump(workflow.content) for workflow in workflows])
    if not workflows:
        return click.echo("no workflows yet; load one: flask workflow apply workflows/release.json")
    print_table(["NAME", "VERSION", "TASKS", "DISPLAY NAME"], [
        [workflow.name, workflow.version, len(workflow.content["tasks"]),
         workflow.content.get("display_name", "")] for workflow in workflows])


@workflow.command("show")
@click.argument("name")
def workflow_show(name):
    """Print a workflow's definition, ready to be changed and applied again."""
    print_json(DEFINITION.dump(Workflow.named(name).content))


@workflow.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Cancel the runs that are under way.")
def workflow_delete(name, force):
    """Remove a workflow; its ended runs stay until they are purged."""
    cancelled = upkeep.remove_workflow(name, force, now())
    click.echo(f"deleted {name}" + (f", cancelled {cancelled} runs" if cancelled else ""))


@click.group(cls=Group)
def workflowrun():
    """Look at runs, wait for them, and end them."""


@workflowrun.command("list")
@click.option("--workflow", "workflow_ref", metavar="NAME", help="Only runs of this workflow.")
@click.option("--status", metavar="S", type=click.Choice([RUNNING, *sorted(ENDED - {"skipped"})]),
              help="Only runs with this status.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1_000_000), default=20,
              show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="An array of WorkflowRuns, for programs.")
def workflowrun_list(workflow_ref, status, limit, as_json):
    """Show runs, the newest first."""
    runs = [WORKFLOW_RUN.dump(run)
            for run in upkeep.newest(workflow_ref, status, limit, now())]
    if as_json:
        return print_json(runs)
    if not runs:
        return click.echo("no such runs")
    print_table(["ID", "STATUS", "STARTED (UTC)", "WORKFLOW", "WAITS FOR"], [
        [run["id"], run["status"], run["startTime"][:16].replace("T", " "), run["workflowRef"],
         ", ".join(task["params"][0]["value"] for task in run["tasks"]
                   if task["status"] == "waiting")] for run in runs])


@workflowrun.command("show")
@click.argument("id")
def workflowrun_show(id):
    """Print a run as JSON."""
    print_json(WORKFLOW_RUN.dump(WorkflowRun.find(id, now())))


@workflowrun.command("wait")
@click.argument("id")
@click.option("--timeout", metavar="SECONDS", type=Seconds(min=0, max=1e9),
              help="Stop waiting after this long.")
def workflowrun_wait(id, timeout):
    """Wait until a run ends, and print it.

    Exit code: 0 it succeeded, 1 it ended otherwise, 124 it still runs at the timeout, 2 there is no
    such run.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            run = WorkflowRun.find(id, now())
        except NotFound as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
        if run.status in ENDED or left <= 0:
            print_json(WORKFLOW_RUN.dump(run))
            sys.exit(0 if run.status == SUCCEEDED else 1 if run.status in ENDED else 124)
        time.sleep(min(POLL_SECONDS, left))


@workflowrun.command("cancel")
@click.argument("id")
def workflowrun_cancel(id):
    """End a run and its open tasks as cancelled."""
    WorkflowRun.cancel(id, now())
    click.echo(f"cancelled {id}")


@workflowrun.command("link")
@click.argument("id")
@click.option("--topic", metavar="T", required=True, help="What the link resolves.")
@click.option("--status", metavar="S", type=click.Choice(STATUSES, case_sensitive=False),
              help="succeeded or failed; left out, the page asks.")
@click.option("--by", metavar="NAME", help="Whom the link is for; recorded with the answer.")
@click.option("--expires", metavar="DURATION", type=Duration(), default="7d", show_default=True,
              help="How long the link works.")
def workflowrun_link(id, topic, status, by, expires):
    """Print a signed link that lets a person resolve a topic, for an e-mail.

    Opening it shows a page and changes nothing; its button resolves the topic. Needs SECRET_KEY.
    """
    settings = current_app.config["SETTINGS"]
    if by is not None and not (by.isprintable() and 1 <= len(by) <= 255):
        raise click.BadParameter("must be 1 to 255 printable characters", param_hint="--by")
    if not settings["SECRET_KEY"]:
        raise click.ClickException("set SECRET_KEY, here and for the service: it signs links")
    run = WorkflowRun.find(id, now())
    if not run.tasks_on(topic):
        raise run.unknown(topic)
    link = {"workflowrun": id, "topic": topic, "status": status, "by": by,
            "expires": str(now() // 1000 + expires)}
    link = {name: value for name, value in link.items() if value is not None}
    link["signature"] = security.sign_link(settings["SECRET_KEY"], link)
    click.echo(f"{settings['PUBLIC_URL'].rstrip('/')}/api/v2/callback?{urlencode(link)}")


@workflowrun.command("expire")
def workflowrun_expire():
    """Time out what is overdue, in every run (for cron or a systemd timer)."""
    click.echo(f"runs with something overdue: {upkeep.expire_overdue(now())}")


@workflowrun.command("purge")
@click.option("--older-than", metavar="DURATION", type=Duration(), required=True,
              help="Such as 30d: a whole number and s, m, h or d.")
def workflowrun_purge(older_than):
    """Delete the runs that ended longer ago; their delivery ids are forgotten with them."""
    count = 0
    for batch in upkeep.purge(now() - older_than * 1000):
        count += batch
        if sys.stderr.isatty():
            click.echo(f"\rpurged {count} runs …", nl=False, err=True)
    click.echo(f"purged {count} runs")


@click.group(cls=Group)
def db():
    """Look after the database."""


@db.command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
def db_backup(file):
    """Copy the database to a new file, as of now, while the service goes on."""
    database.database.backup(file)
    click.echo(f"saved {file}; to restore it, stop the service, remove the database with its -wal "
               "and -shm files, and put this in its place")


@db.command("copy")
@click.argument("source")
@click.argument("target")
def db_copy(source, target):
    """Carry everything over from one DATABASE_URL to another, empty one: all of it, or nothing.

    Stop the service first, or what arrives meanwhile stays behind.
    """
    try:
        engines = [database.engine(url, TABLES) for url in (source, target)]
        counts = {}
        for table, count in database.copy(*engines):
            counts[table] = count
            if sys.stderr.isatty():
                click.echo(f"\r{table}: {count} rows …", nl=False, err=True)
    except (ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo("copied " + (", ".join(f"{count} rows of {table}" for table, count in counts.items())
                            or "nothing: the source is empty"))


AGES = {"under an hour": 3_600_000, "under a day": 86_400_000, "under a week": 604_800_000,
        "a week or more": math.inf}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@with_appcontext
def status(as_json):
    """Say whether the service is well: exit 0, or 1 when its database cannot be used.

    The write is a probe: a transaction that is rolled back.
    """
    facts = {}
    try:
        engine = database.database
        engine.prepare()
        runs, waiting, overdue, oldest = upkeep.overview(now())
        began = time.perf_counter()
        upkeep.probe()
        facts = {"database": "ok", "bytes": engine.size(), "schema": engine.schema_version,
                 "milliseconds to write": round((time.perf_counter() - began) * 1000, 1),
                 "runs": runs,
                 "waiting": dict.fromkeys(AGES, 0), "overdue": overdue,
                 "oldest": oldest and {"id": oldest.id, "age": in_words(now() - oldest.start_time)}}
        for start in waiting:
            facts["waiting"][next(age for age in AGES if now() - start < AGES[age])] += 1
    except (DatabaseError, *database.UNAVAILABLE) as error:
        facts = {"database": f"cannot be used: {one_line(error)}"}
    if as_json:
        print_json(facts)
    else:
        print_table(["WHAT", "STATE"], [
            [name, ", ".join(f"{key} {part}" for key, part in value.items())
             if isinstance(value, dict) else value if value is not None else "none"]
            for name, value in facts.items()])
    sys.exit(0 if facts["database"] == "ok" else 1)
