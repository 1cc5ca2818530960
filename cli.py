"""`flask workflow …` and `flask workflowrun …`: how people operate the service."""
import contextlib
import logging
import os
import re
import sys
import time

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext
from marshmallow import ValidationError

import storage
import upkeep
from models import STEPS, TABLES, Workflow, WorkflowRun
from runs.conditions import Delivery
from runs.refusals import Conflict, NotFound, Refused, Unusable, did_you_mean, one_line
from runs.strictjson import parse_json, parse_object
from runs.words import ANSWERS, ENDED, RUN_STATUSES, SUCCEEDED, WEBHOOK, in_words
from schemas import WorkflowDefinition, dump_run
from storage.copy import copy
from terminal import (SECONDS, callback_url, columns, graph, lines_of, listing, print_json, report,
                      table, tell, tree, trial, waits_for)
from web.cloudevents import CLOUD_EVENT
from web.signatures import sign_link

__version__ = "1.1.0"  # setup.cfg takes it from here
log = logging.getLogger("signalbox")

DEFINITION = WorkflowDefinition()
POLL_SECONDS = 0.2


class Command(click.Command):
    """A command that uses the database, and says what a mistyped name may have meant."""

    def invoke(self, ctx):
        storage.database.prepare()
        try:
            return super().invoke(ctx)
        except NotFound as error:
            typed = ctx.params.get("run_id") or ctx.params.get("name", "")
            column = WorkflowRun.id if ctx.params.get("run_id") else Workflow.name
            near = did_you_mean(typed, upkeep.known(column, typed) + upkeep.known(column))
            refusal = click.ClickException(f"{error}{near}")
            refusal.exit_code = 2 if self.name == "wait" else 1
            raise refusal from error


class Group(AppGroup):
    """Commands whose refusals are one line on standard error and exit code 1."""
    command_class = Command

    def invoke(self, ctx):
        if os.environ.get("NO_COLOR"):  # https://no-color.org
            ctx.color = False
        if sys.stderr.isatty():
            log.setLevel(logging.WARNING)  # what a command prints is enough for a person
        try:
            return super().invoke(ctx)
        except (Refused, Unusable) as error:
            raise click.ClickException(str(error)) from error
        except ValidationError as error:
            raise click.ClickException("; ".join(lines_of(error.normalized_messages()))) from error
        except storage.BROKEN as error:
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


def now():
    return current_app.config["CLOCK"]()


def completing(column):
    """Completes a name or id in the shell; nothing while the database is away."""
    def complete(ctx, param, incomplete):
        with contextlib.suppress(*storage.BROKEN):
            storage.database.prepare()
            return upkeep.known(column, incomplete)
        return []
    return complete


name_argument = click.argument("name", shell_complete=completing(Workflow.name))
run_argument = click.argument("run_id", metavar="ID",
                              shell_complete=completing(WorkflowRun.id))


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
    definitions = load_definitions(files, "nothing was applied; correct the lines above")
    for name, version, outcome in Workflow.apply(definitions):
        click.echo(f"{outcome} {name} (version {version})")


@workflow.command("check", cls=click.Command)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.File("rb"))
def workflow_check(files):
    """Say what is wrong with workflow definitions, and store nothing.

    It needs no database. Exit code: 0 all can be applied, 1 a line for each mistake.
    """
    for definition in load_definitions(files, "correct the lines above"):
        click.echo(f"valid {definition['name']}")


def load_definitions(files, otherwise):
    """The definitions in the files; every mistake is printed before any ends the command."""
    definitions, mistakes = {}, []
    for file in files:
        try:
            found = parse_json(file.read(), "file")
            loaded = DEFINITION.load(found, many=isinstance(found, list))
        except ValidationError as error:
            mistakes += [f"{file.name}: {line}" for line in lines_of(error.normalized_messages())]
            continue
        for definition in loaded if isinstance(found, list) else [loaded]:
            if definition["name"] in definitions:
                mistakes.append(f"{file.name}: name: {definition['name']} is defined twice")
            definitions[definition["name"]] = definition
    if mistakes:
        click.echo("\n".join(mistakes), err=True)
        raise click.ClickException(otherwise)
    return definitions.values()


@workflow.command("list")
@click.option("--json", "as_json", is_flag=True, help="An array of definitions, for programs.")
def workflow_list(as_json):
    """Show the workflows there are."""
    workflows = list(Workflow.select().order_by(Workflow.name))
    if as_json:
        return print_json([DEFINITION.dump(workflow.content) for workflow in workflows])
    if not workflows:
        return click.echo("no workflows yet; load one: flask workflow apply workflows/release.json")
    click.echo(table(["NAME", "VERSION", "TASKS", "DISPLAY NAME"], [
        [workflow.name, workflow.version, len(workflow.content["tasks"]),
         workflow.content.get("display_name", "")] for workflow in workflows], columns()))


@workflow.command("show")
@name_argument
@click.option("--graph", "as_graph", is_flag=True, help="A Mermaid flowchart of its tasks instead.")
@click.option("--run", "run_id", metavar="ID", shell_complete=completing(WorkflowRun.id),
              help="The flowchart of this run, with its tasks' states.")
def workflow_show(name, as_graph, run_id):
    """Print a workflow's definition, ready to be changed and applied again."""
    if run_id:
        run = WorkflowRun.find(run_id, now())
        if run.workflow_ref != name:
            raise Conflict(f"run {run_id} is one of workflow {run.workflow_ref}; name that one")
        return click.echo(graph([{"name": task.name, "dependencies": task.dependencies,
                                  "status": task.status} for task in run.tasks]))
    content = Workflow.named(name).content
    click.echo(graph(content["tasks"])) if as_graph else print_json(DEFINITION.dump(content))


@workflow.command("try")
@name_argument
@click.option("--payload", "file", metavar="FILE", type=click.File("rb"), required=True,
              help="The JSON object that would arrive; - is standard input.")
@click.option("--event", "is_event", is_flag=True, help="It is a CloudEvent in structured mode.")
def workflow_try(name, file, is_event):
    """Say whether a payload would start a workflow, and why; nothing is stored.

    Exit code: 0 it would start, 1 it would not.
    """
    content = Workflow.named(name).content
    payload = parse_object(file.read(), "file")
    delivery = (Delivery.of_event(CLOUD_EVENT.load(payload)) if is_event
                else Delivery(WEBHOOK, {"data": payload}))
    starts, why = trial(content, delivery)
    click.echo(why)
    sys.exit(0 if starts else 1)


@workflow.command("delete")
@name_argument
@click.option("--force", is_flag=True, help="Cancel the runs that are under way.")
def workflow_delete(name, force):
    """Remove a workflow; its ended runs stay until they are purged."""
    cancelled = upkeep.remove_workflow(name, force, now())
    click.echo(f"deleted {name}" + (f", cancelled {cancelled} runs" if cancelled else ""))


@click.group(cls=Group)
def workflowrun():
    """Look at runs, wait for them, and end them."""


@workflowrun.command("list")
@click.option("--workflow", "workflow_ref", metavar="NAME", help="Only runs of this workflow.",
              shell_complete=completing(Workflow.name))
@click.option("--status", metavar="S", type=click.Choice(RUN_STATUSES),
              help="Only runs with this status.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1_000_000), default=20,
              show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="An array of WorkflowRuns, for programs.")
def workflowrun_list(workflow_ref, status, limit, as_json):
    """Show runs, the newest first."""
    runs = upkeep.newest(workflow_ref, status, limit, now())
    if as_json:
        return print_json([dump_run(run) for run in runs])
    if not runs:
        return click.echo("no such runs" + did_you_mean(workflow_ref, upkeep.known(Workflow.name)))
    click.echo(listing(runs, columns()))


@workflowrun.command("show")
@run_argument
@click.option("--json", "as_json", is_flag=True, help="The WorkflowRun, on a terminal too.")
def workflowrun_show(run_id, as_json):
    """Draw a run and what it waits for; where no person looks on, print it as JSON."""
    run = WorkflowRun.find(run_id, now())
    if as_json or not columns():
        return print_json(dump_run(run))
    click.echo(tree(run, current_app.config["SETTINGS"]))


@workflowrun.command("wait")
@run_argument
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0, 1e9),
              help="Stop waiting after this long.")
def workflowrun_wait(run_id, timeout):
    """Wait until a run ends, and print it.

    Exit code: 0 it succeeded, 1 it ended otherwise, 124 it still runs at the timeout, 2 there is no
    such run.
    """
    if timeout is not None and not timeout >= 0:
        raise click.BadParameter("nan is no number of seconds", click.get_current_context())
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        while (run := WorkflowRun.find(run_id, now())).status not in ENDED:
            tell(f"waiting for {waits_for(run)}")
            left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(POLL_SECONDS, left))
    finally:
        tell("")
    print_json(dump_run(run))
    sys.exit(0 if run.status == SUCCEEDED else 1 if run.status in ENDED else 124)


@workflowrun.command("cancel")
@run_argument
def workflowrun_cancel(run_id):
    """End a run and its open tasks as cancelled."""
    WorkflowRun.cancel(run_id, now())
    click.echo(f"cancelled {run_id}")


@workflowrun.command("link")
@run_argument
@click.option("--topic", metavar="T", required=True, help="What the link resolves.")
@click.option("--status", metavar="S", type=click.Choice(ANSWERS, case_sensitive=False),
              help="succeeded or failed; left out, the page asks.")
@click.option("--by", metavar="NAME", help="Whom the link is for; recorded with the answer.")
@click.option("--expires", metavar="DURATION", type=Duration(), default="7d", show_default=True,
              help="How long the link works.")
def workflowrun_link(run_id, topic, status, by, expires):
    """Print a signed link that lets a person resolve a topic, for an e-mail.

    Opening it shows a page and changes nothing; its button resolves the topic. Needs SECRET_KEY.
    """
    settings = current_app.config["SETTINGS"]
    if by is not None and not (by.isprintable() and 1 <= len(by) <= 255):
        raise click.BadParameter("must be 1 to 255 printable characters", param_hint="--by")
    if not settings["SECRET_KEY"]:
        raise click.ClickException("set SECRET_KEY, here and for the service, to a random text "
                                   "such as `openssl rand -hex 32` prints: it signs links")
    WorkflowRun.find(run_id, now()).tasks_on(topic)  # raises NotFound
    link = {"workflowrun": run_id, "topic": topic, "status": status, "by": by,
            "expires": str(now() // 1000 + expires)}
    link = {name: value for name, value in link.items() if value is not None}
    link["signature"] = sign_link(settings["SECRET_KEY"], link)
    click.echo(callback_url(settings, link))


@workflowrun.command("expire")
@click.option("--ahead", metavar="DURATION", type=Duration(), default="0s",
              help="As if so much time had passed, for tests of timeouts: 2h.")
def workflowrun_expire(ahead):
    """Time out what is overdue, in every run (for cron or a systemd timer)."""
    touched = upkeep.expire_overdue(now() + ahead * 1000)
    click.echo(f"runs with something overdue: {touched}")


@workflowrun.command("purge")
@click.option("--older-than", metavar="DURATION", type=Duration(), required=True,
              help="Such as 30d: a whole number and s, m, h or d.")
def workflowrun_purge(older_than):
    """Delete the runs that ended longer ago; their delivery ids are forgotten with them."""
    count = 0
    for batch in upkeep.purge(now() - older_than * 1000):
        count += batch
        tell(f"purged {count} runs …")
    tell("")
    click.echo(f"purged {count} runs")


@click.group(cls=Group)
def db():
    """Look after the database."""


@db.command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
def db_backup(file):
    """Copy the database to a new file, as of now, while the service goes on."""
    storage.database.backup(file)
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
        databases = [storage.open_database(url, TABLES, STEPS, unhurried=True)
                     for url in (source, target)]
        counts = {}
        for name, count in copy(*databases):
            counts[name] = count
            tell(f"{name}: {count} rows …")
    except (ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from error
    tell("")
    click.echo("copied " + (", ".join(f"{count} rows of {table}" for table, count in counts.items())
                            or "nothing: the source is empty"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@with_appcontext
def status(as_json):
    """Say whether the service is well: exit 0, or 1 when its database cannot be used.

    The write is a probe: a transaction that is rolled back.
    """
    try:
        storage.database.prepare()
        runs, waiting, overdue, oldest = upkeep.overview(now())
        began = time.perf_counter()
        upkeep.probe()
        facts = {"database": "ok", "bytes": storage.database.size(),
                 "schema": storage.database.newest_version,
                 "milliseconds to write": round((time.perf_counter() - began) * 1000, 1),
                 "version": __version__, "runs": runs, "overdue": overdue,
                 "waiting": waiting,
                 "oldest": oldest and {"age": in_words(now() - oldest.start_time), "id": oldest.id}}
    except storage.BROKEN as error:
        facts = {"database": f"cannot be used: {one_line(error)}"}
    print_json(facts) if as_json else click.echo(report(facts, columns()))
    sys.exit(0 if facts["database"] == "ok" else 1)


COMMANDS = (workflow, workflowrun, db, status)
