"""Looking after all runs: lists, expiry, purge, numbers. models.py has the life of a single one."""
import contextlib
import logging

from peewee import fn

from database import database
from errors import Conflict
from models import TaskRun, Workflow, WorkflowRun
from rules import CANCELLED, RUNNING, WAITING

log = logging.getLogger("signalbox")

BATCH = 50  # how many runs one look of expire, or one transaction of purge, takes on


def newest(workflow, status, limit, now):
    """Runs, newest first, after what is overdue has ended; workflow and status narrow them."""
    expire_overdue(now)
    query = WorkflowRun.select().order_by(WorkflowRun.number.desc()).limit(limit)
    for column, wanted in ((WorkflowRun.workflow_ref, workflow), (WorkflowRun.status, status)):
        if wanted is not None:
            query = query.where(column == wanted)
    with database.snapshot():
        runs = list(query.prefetch(TaskRun.select().order_by(TaskRun.position)))
    for run in runs:
        run.adopt(run.task_runs)
        run.as_of = now
    return runs


def known(column, prefix=""):
    """Workflows' names or runs' ids that begin so, the newest ones."""
    newest = column.model.select(column).order_by(column.model._meta.primary_key.desc())
    return [value for value, in newest.where(column.startswith(prefix)).limit(100).tuples()]


def expire_overdue(now):
    """End what is overdue in all runs, one transaction a run; how many runs that touched."""
    touched = 0
    overdue = WorkflowRun.select(WorkflowRun.id).where(
        WorkflowRun.due <= now).order_by(WorkflowRun.due).limit(BATCH)
    while ids := [run.id for run in overdue.clone()]:
        for id in ids:
            WorkflowRun.find(id, now)
        touched += len(ids)
    return touched


def overview(now):
    """Numbers for whoever looks after the service: (runs by status, start times of what waits,
    how many runs are overdue, the oldest run that waits or None)."""
    by_status = dict(WorkflowRun.select(WorkflowRun.status, fn.COUNT(WorkflowRun.number)).group_by(
        WorkflowRun.status).tuples())
    waiting = [start for start, in TaskRun.select(TaskRun.start_time).join(WorkflowRun).where(
        WorkflowRun.status == RUNNING, TaskRun.status == WAITING).tuples()]
    overdue = WorkflowRun.select().where(WorkflowRun.due <= now).count()
    oldest = WorkflowRun.select().where(
        WorkflowRun.status == RUNNING).order_by(WorkflowRun.number).first()
    return by_status, waiting, overdue, oldest


def purge(before):
    """Delete the runs that ended before that time, in small transactions; yields each count."""
    batch = WorkflowRun.select(WorkflowRun.number).where(WorkflowRun.end_time < before).limit(BATCH)
    while True:
        with database.gently():
            database.alone()  # or two purges would count some runs twice
            count = WorkflowRun.delete().where(WorkflowRun.number.in_(batch.clone())).execute()
        if not count:
            return
        yield count


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
        runs = [WorkflowRun.loaded(run.id, to_change=True) for run in under_way]
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


class Undo(Exception):
    """Ends a transaction that was only tried."""


def probe():
    """Write a row and roll it back, as the start of a run would be written."""
    with contextlib.suppress(Undo), database.writing():
        Workflow.create(name=" ", definition="{}")  # no workflow can have this name
        raise Undo
