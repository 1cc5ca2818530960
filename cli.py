"""`flask workflow …` and `flask workflowrun …`: how people operate the service."""
import json
import logging
import signal
import sys
import time

import click
from flask import current_app

import notices
import storage
import upkeep
from models import STEPS, TABLES, Workflow, WorkflowRun
from runs.conditions import MISSING, Delivery, evaluate, in_text, is_enabled
from runs.definitions import DEFINITION
from runs.refusals import ConditionsNotMet, NotAllowed, Refused, did_you_mean
from runs.strictjson import parse_object
from runs.words import ANSWERS, ENDED, RUN_STATUSES, SUCCEEDED, WEBHOOK
from schemas import dump_run
from storage.copy import copy
from terminal import (Command, Contents, Duration, Group, columns, completed, doubts, echo,
                      listing, load_definitions, name_argument, plain, print_json, report,
                      run_argument, table, tell, tree, waits_for)
from web.cloudevents import CLOUD_EVENT
from web.signatures import callback_link

__version__ = "1.1.0"  # setup.cfg takes it from here

POLL_SECONDS = 0.2

workflow = Group("workflow", help="Define what starts a run and what it waits for.")
workflowrun = Group("workflowrun", help="Look at runs, wait for them, and end them.")
db = Group("db", help="Look after the database.")


def now():
    return current_app.config["CLOCK"]()


@workflow.command("apply")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=Contents())
def workflow_apply(files):
    """Load workflow definitions from JSON files (- is standard input): all of them, or none.

    A file holds one definition or a list of them. A definition whose name is known replaces the one
    before; runs already started keep their tasks.
    """
    definitions = load_definitions(files, "nothing was applied; correct the lines above")
    for name, version, outcome in upkeep.apply(definitions):
        echo(f"{outcome} {name} (version {version})")
    environ = current_app.config["ENVIRON"]
    for definition in definitions:
        for where, reason in notices.unsendable_of(definition, environ):
            echo(plain(f"warning: {definition['name']}: notices to {where} cannot be sent here. "
                       f"{reason}"), err=True)


@workflow.command("check", cls=click.Command)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=Contents())
def workflow_check(files):
    """Say what is wrong with workflow definitions, and store nothing.

    It needs no database. Exit code: 0 all can be applied, 1 a line for each mistake.
    """
    for definition in load_definitions(files, "correct the lines above"):
        echo(f"valid {definition['name']}")


@workflow.command("list")
@click.option("--json", "as_json", is_flag=True, help="An array of definitions, for programs.")
def workflow_list(as_json):
    """Show the workflows there are."""
    workflows = list(Workflow.select().order_by(Workflow.name))
    if as_json:
        return print_json([DEFINITION.dump(workflow.content) for workflow in workflows])
    if not workflows:
        return echo("no workflows yet; load one: flask workflow apply workflows/release.json")
    echo(table(["NAME", "VERSION", "TASKS", "DISPLAY NAME"], [
        [workflow.name, workflow.version, len(workflow.content["tasks"]),
         workflow.content.get("display_name", "")] for workflow in workflows]))


@workflow.command("show")
@name_argument
def workflow_show(name):
    """Print a workflow's definition, ready to be changed and applied again."""
    print_json(DEFINITION.dump(Workflow.named(name).content))


@workflow.command("try")
@name_argument
@click.option("--payload", "file", metavar="FILE", type=Contents(), required=True,
              help="The JSON object that would arrive; - is standard input.")
@click.option("--event", "is_event", is_flag=True, help="It is a CloudEvent in structured mode.")
@click.option("--header", "headers", multiple=True, help="Such as 'X-GitHub-Event: push'.")
def workflow_try(name, file, is_event, headers):
    """Say whether a payload would start a workflow, and why; nothing is stored.

    Exit code: 0 it would start, 1 it would not.
    """
    payload = parse_object(file[1], "file")
    if any(":" not in header for header in headers):
        raise click.BadParameter("write 'X-GitHub-Event: push'", param_hint="--header")
    given = {name.strip().lower(): value.strip()
             for name, _, value in (header.partition(":") for header in headers)}
    delivery = (Delivery.of_event(CLOUD_EVENT.load(payload), given) if is_event
                else Delivery(WEBHOOK, {"data": payload}, given))
    workflow = Workflow.named(name)
    try:
        WorkflowRun.planned(workflow, delivery, False, now())
        starts = True
    except (NotAllowed, ConditionsNotMet):
        starts = False
    is_on = is_enabled(workflow.content, delivery.trigger)
    echo(f"the {delivery.trigger} trigger is {'on' if is_on else 'off'}")
    for condition, met, value in evaluate(workflow.content, delivery):
        found = "missing" if value is MISSING else json.dumps(value, ensure_ascii=False)
        verdict = "holds" if met else "does not hold"
        echo(plain(f"{verdict}: {in_text(condition)}; found {found}"))
    if starts and "secret_env" in workflow.content:
        echo(f"its sender must sign it with {workflow.content['secret_env']}")
    echo("would start" if starts else "would not start")
    sys.exit(0 if starts else 1)


@workflow.command("delete")
@name_argument
@click.option("--force", is_flag=True, help="Cancel the runs that are under way.")
def workflow_delete(name, force):
    """Remove a workflow; its ended runs stay until they are purged."""
    cancelled = upkeep.remove_workflow(name, force, now())
    echo(f"deleted {name}" + (f", cancelled {cancelled} runs" if cancelled else ""))


@workflowrun.command("list")
@click.option("--workflow", "workflow_ref", metavar="NAME", help="Only runs of this workflow.",
              shell_complete=completed)
@click.option("--status", metavar="S", type=click.Choice(RUN_STATUSES),
              help="Only runs with this status.")
@click.option("--since", metavar="DURATION", type=Duration(), help="Only runs started since: 2h.")
@click.option("--containing", metavar="TEXT", help="Only runs that this text arrived for.")
@click.option("--correlate", metavar="VALUE", help="Only runs that this value is kept with.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1_000_000), default=20,
              show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="An array of WorkflowRuns, for programs.")
def workflowrun_list(workflow_ref, status, since, containing, correlate, limit, as_json):
    """Show runs, the newest first."""
    runs = upkeep.newest(workflow_ref, status, limit, now(), containing=containing,
                         since=None if since is None else now() - since * 1000,
                         correlate=correlate)
    if as_json:
        return print_json([dump_run(run) for run in runs])
    if not runs:
        return echo("no such runs" + did_you_mean(workflow_ref, upkeep.known(Workflow.name)))
    echo(listing(runs))


@workflowrun.command("show")
@run_argument
@click.option("--json", "as_json", is_flag=True, help="The WorkflowRun, on a terminal too.")
def workflowrun_show(run_id, as_json):
    """Draw a run and what it waits for; where no person looks on, print it as JSON."""
    run = WorkflowRun.find(run_id, now())
    if as_json or not columns():
        return print_json(dump_run(run, bound=float("inf")))
    echo(tree(run, current_app.config["SETTINGS"]))


@workflowrun.command("wait")
@run_argument
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0, 1e9), default=1e9,
              help="Stop waiting after this long.")
def workflowrun_wait(run_id, timeout):
    """Wait until a run ends, and print it.

    Exit code: 0 it succeeded, 1 it ended otherwise, 124 it still runs at the timeout, 2 there is no
    such run, 3 it cannot be told, 130 Ctrl-C. A database that is busy or away is asked again.
    """
    if not timeout >= 0:
        raise click.BadParameter("nan is no number of seconds")
    deadline, run, trouble = time.monotonic() + timeout, None, None
    try:
        while run is None or run.status not in ENDED:
            try:
                storage.database.prepare()
                run, trouble = WorkflowRun.find(run_id, now()), None
                tell(f"waiting for {waits_for(run)}")
            except storage.AWAY as error:
                if trouble is None:
                    echo(f"the database is asked again: {storage.why(error)}", err=True)
                trouble = error
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(POLL_SECONDS, left))
    finally:  # also on Ctrl-C, of which wsgi.py makes an exit with 130
        tell("")
    if run:
        print_json(dump_run(run, bound=float("inf")))
    sys.exit(124 if not run or run.status not in ENDED else 0 if run.status == SUCCEEDED else 1)


@workflowrun.command("cancel")
@click.argument("run_id", metavar="[ID]", required=False,
                shell_complete=completed)
@click.option("--workflow", "name", metavar="NAME", shell_complete=completed,
              help="All runs of this workflow instead.")
def workflowrun_cancel(run_id, name):
    """End a run and its open tasks as cancelled."""
    if (run_id is None) == (name is None):
        raise click.UsageError("name a run's ID, or a --workflow")
    if name is not None:
        return echo(f"cancelled {upkeep.cancel_all(name, now())} runs")
    WorkflowRun.cancel(run_id, now())
    echo(f"cancelled {run_id}")


@workflowrun.command("link")
@run_argument
@click.option("--topic", metavar="T", required=True, help="What the link resolves.")
@click.option("--status", metavar="S", type=click.Choice(ANSWERS, case_sensitive=False),
              help="succeeded or failed; left out, the page asks.")
@click.option("--by", metavar="NAME", help="Whom the link is for; recorded with the answer.")
@click.option("--expires", metavar="DURATION", type=Duration(least=1), default="7d",
              show_default=True, help="How long the link works.")
def workflowrun_link(run_id, topic, status, by, expires):
    """Print a signed link that lets a person resolve a topic, for an e-mail.

    Opening it shows a page and changes nothing; its button resolves the topic. Needs SECRET_KEY.
    """
    settings = current_app.config["SETTINGS"]
    if by is not None and not (by.isprintable() and 1 <= len(by) <= 255):
        raise click.BadParameter("must be 1 to 255 printable characters", param_hint="--by")
    if not settings["SECRET_KEY"]:
        raise Refused("set SECRET_KEY, here and for the service, to a random text such as "
                      "`openssl rand -hex 32` prints: it signs links")
    for doubt in doubts(WorkflowRun.find(run_id, now()), topic, settings):
        echo(f"warning: {doubt}", err=True)
    echo(callback_link(settings, run_id, topic, now() // 1000 + expires, status, by))


@workflowrun.command("expire")
@click.option("--ahead", metavar="DURATION", type=Duration(), default="0s",
              help="As if so much time had passed, for tests of timeouts: 2h.")
def workflowrun_expire(ahead):
    """Time out what is overdue, in every run (for cron or a systemd timer)."""
    touched = upkeep.expire_overdue(now() + ahead * 1000)
    echo(f"runs with something overdue: {touched}")


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
    echo(f"purged {count} runs")


@db.command("backup")
@click.argument("file")
def db_backup(file):
    """Copy the database to a new file, as of now, while the service goes on."""
    storage.database.backup(file)
    echo(f"saved {plain(file)}; to restore it, stop the service, remove the database with "
         "its -wal and -shm files, and put this in its place")


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
        raise Refused(str(error)) from error
    tell("")
    rows = ", ".join(f"{count} rows of {table}" for table, count in counts.items())
    echo(f"copied {rows or 'nothing: the source is empty'}")


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def status(as_json):
    """Say whether the service's database is well: exit 0, or 1 when it cannot be used.

    The process that answers requests is not looked at. The write is a probe: it is rolled back.
    """
    try:
        storage.database.prepare()
        facts = {"database": "ok", "version": __version__, **upkeep.overview(now())}
    except storage.BROKEN as error:
        facts = {"database": f"cannot be used: {storage.why(error)}", "version": __version__}
    facts["looked at"] = (f"the database {storage.database.database} alone; the process that "
                          "answers requests is not seen from here")
    print_json(facts) if as_json else echo(report(facts))
    sys.exit(0 if facts["database"] == "ok" else 1)


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Send what is due now, and end (for a timer).")
@click.option("--again", is_flag=True, help="The same, and what was given up once more.")
def deliver(once, again):
    """Send notices, and time out what is overdue, each second until SIGTERM.

    Several may do so at once: they share the work.
    """
    deliverer = notices.Deliverer(current_app.config["SETTINGS"], current_app.config["ENVIRON"],
                                  current_app.config["CLOCK"])
    if again:
        notices.try_again(now())
    if not (once or again):
        signal.signal(signal.SIGTERM, deliverer.stop)
        signal.signal(signal.SIGINT, deliverer.stop)
        notices.log.setLevel(logging.INFO)  # on a terminal too
        notices.log.info("delivering notices")
    deliverer.run(once or again)
    if once or again:
        echo(f"sent {deliverer.counts['sent']}, failed {deliverer.counts['failed']}")


COMMANDS = (workflow, workflowrun, db, deliver, status)
