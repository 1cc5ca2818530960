"""What concerns workflows, and many runs: applying, routing, lists, expiry, purge, numbers.

models.py has the life of a single one.
"""
import contextlib
import heapq
import itertools
import json
import logging
import time
from collections import defaultdict

from peewee import fn

from models import Notice, TaskRun, Workflow, WorkflowRun
from runs.conditions import conditions_of, is_enabled, unmet
from runs.refusals import Ambiguous, Conflict, Denied, NotFound
from runs.strictjson import same_json
from runs.words import CANCELLED, RUNNING, WAITING, in_words, masked
from storage import database

log = logging.getLogger("signalbox")

ROUTE_SECONDS = 1  # of the processor that conditions may take to find the workflow of a request
BATCH = 50  # how many runs one look of list or expire, or one transaction of purge, takes on
HOUR, EVER = 3_600_000, 2**62
AGES = {"under an hour": (-EVER, HOUR), "under a day": (HOUR, 24 * HOUR),
        "under a week": (24 * HOUR, 168 * HOUR), "a week or more": (168 * HOUR, EVER)}


def newest(workflow, status, limit, now, since=None, containing=None, correlate=None):
    """Runs, newest first, as they would stand if what is overdue ended now; what is not None
    narrows them. Nothing is stored."""
    wanted = {"workflow_ref": workflow, "start_time__gte": since, "correlate": correlate,
              "params_json__contains": containing and json.dumps(containing)[1:-1]}  # as stored
    given = {name: value for name, value in wanted.items() if value is not None}
    query = WorkflowRun.filter(**given).order_by(WorkflowRun.number.desc()).limit(BATCH)
    queries = [query] if status is None else [  # it may be what an overdue run becomes
        query.where(WorkflowRun.status == status),
        query.where(WorkflowRun.status != status, WorkflowRun.due <= now)]
    with database.snapshot():
        runs = heapq.merge(*(in_batches(query, now) for query in queries),
                           key=lambda run: run.number, reverse=True)
        return list(itertools.islice((run for run in runs if status in (None, run.status)), limit))


def in_batches(query, now):
    """The query's runs, as with_tasks() has them; it is asked for a batch at a time."""
    batch = query
    while runs := with_tasks(list(batch), now):
        yield from runs
        batch = query.where(WorkflowRun.number < runs[-1].number)


def with_tasks(runs, now):
    """The runs with their tasks, as they would stand if what is overdue ended now."""
    tasks = defaultdict(list)
    for task in TaskRun.select().where(TaskRun.workflow_run.in_(runs)).order_by(TaskRun.position):
        tasks[task.workflow_run_id].append(task)
    for run in runs:
        run.adopt(tasks[run.number], now)
        run.expire(now)
    return runs


def known(column, prefix=""):
    """Workflows' names or runs' ids that begin so, the newest ones."""
    newest = column.model.select(column).order_by(column.model._meta.primary_key.desc())
    return [value for value, in newest.where(column.startswith(prefix)).limit(100).tuples()]


def correlated(workflow, correlate):
    """The id of the workflow's newest run with that value, of those that run if any does.

    Raises NotFound.
    """
    run = WorkflowRun.select(WorkflowRun.id).where(
        WorkflowRun.workflow_ref == workflow, WorkflowRun.correlate == correlate).order_by(
        (WorkflowRun.status == RUNNING).desc(), WorkflowRun.number.desc()).first()
    if run:
        return run.id
    raise NotFound(f"workflow {masked(workflow)!r} has no run that correlates with "
                   f"{masked(correlate)!r}")


def expire_overdue(now):
    """End what is overdue in all runs, one transaction a run; how many runs that touched."""
    touched = 0
    overdue = WorkflowRun.select(WorkflowRun.id).where(
        WorkflowRun.due <= now).order_by(WorkflowRun.due).limit(BATCH)
    while runs := list(overdue.clone()):
        for run in runs:
            with contextlib.suppress(NotFound), WorkflowRun.changing(run.id, now):
                pass  # NotFound: it was purged meanwhile
        touched += len(runs)
    return touched


def cancel_all(workflow, now):
    """Cancel the workflow's runs that are under way; how many. Raises NotFound."""
    Workflow.named(workflow)
    under_way = WorkflowRun.select(WorkflowRun.id).where(
        WorkflowRun.workflow_ref == workflow, WorkflowRun.status == RUNNING)
    cancelled = 0
    for run in list(under_way):
        with contextlib.suppress(Conflict, NotFound):  # it has ended meanwhile
            WorkflowRun.cancel(run.id, now)
            cancelled += 1
    return cancelled


class Undo(Exception):
    """Ends a transaction that was only tried."""


def overview(now):
    """Facts for whoever looks after the service, by name: runs by status, how many tasks wait by
    age, the oldest run that is under way or None, and how the database does."""
    by_status = dict(WorkflowRun.select(WorkflowRun.status, fn.COUNT(WorkflowRun.number)).group_by(
        WorkflowRun.status).tuples())
    age = now - TaskRun.start_time
    waiting = TaskRun.select(*[
        fn.COUNT(age).filter((age >= low) & (age < high)) for low, high in AGES.values()]).join(
        WorkflowRun).where(WorkflowRun.status == RUNNING, TaskRun.status == WAITING).tuples().get()
    overdue = WorkflowRun.select().where(WorkflowRun.due <= now).count()
    oldest = WorkflowRun.select().where(
        WorkflowRun.status == RUNNING).order_by(WorkflowRun.number).first()
    notices, to_send = Notice.select(fn.COUNT(Notice.id), fn.COUNT(Notice.due)).tuples().get()
    began = time.perf_counter()
    with contextlib.suppress(Undo), database.writing():
        Workflow.create(name=" ", definition="{}")  # no workflow can have this name
        raise Undo
    return {"bytes": database.size(), "schema": database.newest_version,
            "milliseconds to write": round((time.perf_counter() - began) * 1000, 1),
            "runs": by_status, "overdue": overdue, "waiting": dict(zip(AGES, waiting)),
            "notices": {"waiting": to_send, "givenUp": notices - to_send},
            "oldest": oldest and {"age": in_words(now - oldest.start_time), "id": oldest.id}}


def route(delivery, may_start, identified):
    """The workflow of a delivery that names none, and whether its conditions had to find it.

    That is the one named by the event's subject, the one that the same delivery found before,
    or the only one with conditions that takes it, of those that its sender may start: a
    function of a workflow. `identified` is the delivery under the id by which a workflow knows
    it, a function of both.
    Raises NotFound, Ambiguous, Denied.
    """
    named = Workflow.known(delivery.subject)
    by_key = {} if named else {
        (workflow.name, identified(delivery, workflow).key): workflow
        for workflow in Workflow.select().order_by(Workflow.name)}
    before = WorkflowRun.select(WorkflowRun.workflow_ref, WorkflowRun.delivery_key).where(
        WorkflowRun.delivery_key.in_({key for _, key in by_key} - {None}),
        WorkflowRun.routed).tuples()
    known = named or next((by_key[found] for found in before if found in by_key), None)
    candidates = [known] if known else [
        workflow for workflow in by_key.values() if is_enabled(workflow.content, delivery.trigger)
        and conditions_of(workflow.content, delivery.trigger)]
    allowed = [workflow for workflow in candidates if may_start(workflow)]
    willing, began = [], time.thread_time()
    for workflow in allowed:
        if time.thread_time() - began > ROUTE_SECONDS:
            raise NotFound("the workflows' patterns take too long for this; name one of them with "
                           "?workflow=NAME, or write simpler patterns")
        if known or not unmet(workflow.content, delivery):
            willing.append(workflow)
    if len(willing) == 1:
        return willing[0], not named
    if willing:
        names = ", ".join(workflow.name for workflow in willing)
        raise Ambiguous(f"several workflows take this: {names}; choose with ?workflow=NAME")
    if len(allowed) < len(candidates):
        raise Denied("it is not signed, as workflows that it may be meant for need it")
    raise NotFound(f"no workflow's {delivery.trigger} trigger takes this; "
                   "name one with ?workflow=NAME")


def purge(before):
    """Delete the runs that ended before that time, in small transactions; yields each count."""
    batch = WorkflowRun.select(WorkflowRun.number).where(WorkflowRun.end_time < before).limit(BATCH)
    while True:
        with database.in_batches():
            database.exclusive()  # or two purges would count some runs twice
            count = WorkflowRun.delete().where(WorkflowRun.number.in_(batch.clone())).execute()
        if not count:
            return
        yield count


def apply(definitions):
    """Store all definitions or none; (name, version, "created"|"updated"|"unchanged") each."""
    outcome = []
    with database.writing():
        database.exclusive()
        for content in definitions:
            workflow, text = Workflow.known(content["name"]), json.dumps(content)
            if workflow is None:
                workflow, said = Workflow.create(name=content["name"], definition=text), "created"
            elif same_json(workflow.content, content):
                said = "unchanged"
            else:
                workflow.definition, workflow.version = text, workflow.version + 1
                workflow.save()
                said = "updated"
            outcome.append((workflow.name, workflow.version, said))
    for name, version, said in outcome:
        if said != "unchanged":
            log.info("workflow %s workflow=%s version=%d", said, name, version)
    return outcome


def remove_workflow(name, force, now):
    """Delete a workflow and return how many of its runs that cancelled; ended runs stay.

    Raises NotFound; Conflict while runs are under way, unless forced.
    """
    expire_overdue(now)
    with database.writing():
        workflow = Workflow.named(name)
        same = Workflow.select().where(Workflow.id == workflow.id)
        database.locking(same, "FOR UPDATE").execute()  # no run of it can start meanwhile
        under_way = WorkflowRun.select().where(
            WorkflowRun.workflow_ref == name, WorkflowRun.status == RUNNING)
        runs = [WorkflowRun.loaded(run.id, now, to_change=True) for run in under_way]
        running = [run for run in runs if run.status == RUNNING]  # now that they are locked
        if running and not force:
            raise Conflict(f"workflow {name} has {len(running)} runs under way; wait for them, "
                           "or cancel them with --force")
        for run in running:
            run.stop(CANCELLED, "its workflow was deleted", now)
            run.save_changes()
        workflow.delete_instance()
    for run in running:
        run.tell()
    log.info("workflow deleted workflow=%s cancelled=%d", name, len(running))
    return len(running)
