"""Workflows, their runs and the tasks that wait: the tables, and every transaction.

Times are milliseconds since 1970 (UTC) and always come in as `now`; nothing here reads a clock.
"""
import contextlib
import json
import logging
import secrets
from functools import cached_property, lru_cache

from marshmallow import ValidationError
from peewee import (AutoField, BigIntegerField, BooleanField, CharField, CompositeKey,
                    ForeignKeyField, IntegerField, OperationalError, TextField)

from runs.conditions import correlated, filled_task, refuse_unless_met
from runs.life import MINUTE, RunLife, TaskLife, new_id
from runs.refusals import ConditionsNotMet, Conflict, NotAllowed, NotFound, PayloadDiffers
from runs.strictjson import same_json
from runs.words import CANCELLED, ENDED, NOT_STARTED, RUNNING, masked
from storage import Statement, Table, database, parameter

log = logging.getLogger("signalbox")


@lru_cache(maxsize=1024)
def shared(text):
    """The value of stored JSON. Shared between callers, so never changed."""
    return json.loads(text)


def value_of(column):
    """The value of that column's JSON, as a property; None without one."""
    return property(lambda row: (text := getattr(row, column)) and shared(text))


class Workflow(Table):
    """A named definition: what starts it and what its runs wait for."""
    name = CharField(unique=True)
    version = IntegerField(default=1)
    definition = TextField()  # JSON
    content = value_of("definition")

    @classmethod
    def known(cls, name):
        """The workflow of that name, or None."""
        return next(iter(WORKFLOW_BY_NAME.fetch(name=name)), None)

    @classmethod
    def named(cls, name):
        """The workflow of that name. Raises NotFound."""
        if workflow := cls.known(name):
            return workflow
        raise NotFound(f"no workflow is named {masked(name)!r}; `flask workflow list` shows all")


class WorkflowRun(RunLife, Table):
    """A started instance of a workflow; its tasks are as they were defined when it started."""
    number = AutoField()  # the order in which runs started
    id = CharField(unique=True, max_length=32)
    workflow_ref = CharField()
    workflow_display_name = CharField(null=True)
    workflow_version = IntegerField()
    trigger = CharField(max_length=7)
    routed = BooleanField()  # no workflow was named: the conditions chose it
    delivery_key = CharField(null=True, max_length=64)
    status = CharField(max_length=9)
    status_message = TextField(null=True)
    params_json = TextField(column_name="params")
    params = cached_property(lambda run: json.loads(run.params_json))
    timeout = IntegerField(null=True)  # minutes
    start_time = BigIntegerField()
    end_time = BigIntegerField(null=True)
    due = BigIntegerField(null=True)  # when the run or one of its waiting tasks times out next
    correlate = CharField(null=True)  # by which callers who do not know the id name the run
    notify_json = TextField(column_name="notify", null=True)  # as defined when it started
    notify = value_of("notify_json")

    @classmethod
    def start(cls, workflow, delivery, routed, now, by=None):
        """Start a run of the workflow; a repeated delivery gets the first run as it stands now.
        `by` is who asks, for the log.

        Raises PayloadDiffers, NotFound when the workflow is deleted meanwhile; as planned() does.
        """
        while True:
            try:
                run = cls.planned(workflow, delivery, routed, now)
            except (NotAllowed, ConditionsNotMet, ValidationError):
                if first := cls.first_of(workflow, delivery, now):
                    return first
                raise
            with database.writing():
                stored = run.store(workflow)
            if stored:
                run.story[0] += f" by={by!r}" if by else ""
                run.tell()
                return run
            if first := cls.first_of(workflow, delivery, now):
                return first
            before, workflow = workflow, Workflow.named(workflow.name)  # it has changed
            if workflow.content.get("secret_env") != before.content.get("secret_env"):
                raise OperationalError("the workflow's secret changed while a request came in")

    @classmethod
    def resolve(cls, workflowrun, topic, status, results, may_resolve, now, by=None):
        """End every task of the run that waits on the topic; those not started yet remember it.
        `may_resolve` says which of them the caller may end, a function of a task; `by` is the token
        that asks, for the log.

        Raises NotFound for an unknown run or topic, Conflict when every task has ended otherwise,
        NotAllowed.
        """
        text, kept = json.dumps(results), None
        said = "".join(f" comment={masked(result['value'])!r}" for result in results
                       if result["name"] == "comment") + (f" by={by!r}" if by else "")
        with cls.changing(workflowrun, now) as run:
            for task in run.tasks:
                if task.topic == topic and task.outcome is None and may_resolve(task):
                    task.take_callback(status, kept or text, said, now)
                    kept = kept or str(task.position)  # the others find it there: stored once
        tasks = list(filter(may_resolve, run.tasks_on(topic)))
        if not tasks:
            raise NotAllowed(f"topic {topic!r} of run {run.id} is for "
                             f"{run.who_may_resolve(topic)}")
        if all(task.outcome != status for task in tasks):
            ends = ", ".join(f"{task.name} {task.outcome}" for task in tasks)
            raise Conflict(f"topic {topic!r} of run {run.id} has ended already: {ends}")

    @classmethod
    def cancel(cls, workflowrun, now):
        """End the run and its open tasks as cancelled. Raises NotFound, Conflict."""
        with cls.changing(workflowrun, now) as run:
            has_ended = run.status in ENDED
            if not has_ended:
                run.stop(CANCELLED, "cancelled by hand", now)
        if has_ended:
            raise Conflict(f"run {run.id} has ended already: {run.status}")

    @classmethod
    def find(cls, workflowrun, now):
        """The run as it would stand if what is overdue ended now, not stored. Raises NotFound."""
        with database.snapshot():
            run = cls.loaded(workflowrun, now)
        run.expire(now)
        return run

    @classmethod
    @contextlib.contextmanager
    def changing(cls, workflowrun, now):
        """The run in a transaction: what is overdue has ended; what changes is stored, then told.

        Whoever refuses does so afterwards, so that the timeouts noticed here stay.
        """
        with database.writing():
            run = cls.loaded(workflowrun, now, to_change=True)
            run.expire(now)
            yield run
            run.advance(now)
            run.save_changes()
        run.tell()

    @classmethod
    def first_of(cls, workflow, delivery, now):
        """The run that the same delivery started before, or None. Raises PayloadDiffers."""
        if delivery.key is None:
            return None
        for first in FIRST_OF_DELIVERY.fetch(delivery_key=delivery.key, workflow_ref=workflow.name):
            if delivery.same_payload and not same_json(first.params["data"],
                                                       delivery.arrived["data"]):
                raise PayloadDiffers("this Idempotency-Key came with another payload before; use "
                                     "a new key for a new payload")
            with contextlib.suppress(NotFound):  # it was purged meanwhile
                return cls.find(first.id, now)

    @classmethod
    def planned(cls, workflow, delivery, routed, now):
        """A new run with its tasks, not stored yet: those without dependencies wait already.

        Raises NotAllowed, ConditionsNotMet; ValidationError when a topic cannot be filled in.
        """
        content = workflow.content
        refuse_unless_met(content, delivery)
        params = delivery.params(content["params"])
        run = cls.new({
            "id": new_id(now), "workflow_ref": workflow.name,
            "workflow_display_name": content.get("display_name"),
            "workflow_version": workflow.version, "trigger": delivery.trigger, "routed": routed,
            "delivery_key": delivery.key, "status": RUNNING, "timeout": content.get("timeout"),
            "correlate": correlated(content.get("correlate"), delivery, params),
            "notify_json": json.dumps(content["notify"]) if content.get("notify") else None,
            "params_json": json.dumps(params), "start_time": now})
        run.adopt([TaskRun.new({
            "position": position, "id": secrets.token_hex(16), "name": task["name"],
            "resolvers_json": json.dumps(task["resolvers"]) if "resolvers" in task else None,
            "status": NOT_STARTED, "timeout": task.get("timeout"),
            "dependencies_json": json.dumps(task["dependencies"]), **filled_task(task, params)})
            for position, task in enumerate(content["tasks"])], now)
        run.params = params
        run.begin(now)
        return run

    @classmethod
    def loaded(cls, workflowrun, now, to_change=False):
        """The stored run with its tasks; to change it, its row is locked. Raises NotFound."""
        for run in (RUN_TO_CHANGE if to_change else RUN_BY_ID).fetch(id=workflowrun):
            run.adopt(TASKS_OF_RUN.fetch(workflow_run=run.number), now)
            return run
        raise NotFound(f"no run has the id {masked(workflowrun)!r}; `flask workflowrun list` shows "
                       "runs")

    def store(self, workflow):
        """Insert the new run and its tasks; False when the workflow is no longer as it is here, or
        when the same delivery has started a run before."""
        self.number = INSERT_RUN.insert(
            self.__data__ | {"name": workflow.name, "definition": workflow.definition})
        if self.number:
            for task in self.tasks:
                task.workflow_run = self.number
                INSERT_TASK.run(task.__data__)
            self.store_notices()
        return bool(self.number)

    def save_changes(self):
        if self.is_dirty():
            UPDATE_RUN.run(self.__data__)
        for task in self.tasks:
            if task.is_dirty():
                UPDATE_TASK.run(task.__data__)
        self.store_notices()

    def store_notices(self):
        if self.notify_json:
            entries = list(self.to_tell())
            ids = sorted(new_id(self.as_of) for _ in entries)  # they are sent in this order
            for notice_id, (kind, task, entry) in zip(ids, entries):
                INSERT_NOTICE.run({
                    "id": notice_id, "workflow_run": self.number, "kind": kind, "task": task,
                    "to": entry["to"], "by": entry.get("by"), "created": self.as_of,
                    "due": self.as_of + entry.get("after", 0) * MINUTE, "attempts": 0,
                    "claimed_until": 0})

    def tell(self):
        """Log what changed, a line each, once it is committed."""
        for line in self.story:
            log.info("%s run=%s", line, self.id)


BY_WORKFLOW_AND_STATUS = WorkflowRun.index(
    WorkflowRun.workflow_ref, WorkflowRun.status, WorkflowRun.number)
WorkflowRun.add_index(WorkflowRun.delivery_key, WorkflowRun.workflow_ref, unique=True,
                      where=WorkflowRun.delivery_key.is_null(False))
WorkflowRun.add_index(WorkflowRun.workflow_ref, WorkflowRun.number)
WorkflowRun.add_index(BY_WORKFLOW_AND_STATUS)
BY_CORRELATE = WorkflowRun.index(
    WorkflowRun.workflow_ref, WorkflowRun.correlate, WorkflowRun.number,
    where=WorkflowRun.correlate.is_null(False))
WorkflowRun.add_index(BY_CORRELATE)
WorkflowRun.add_index(WorkflowRun.status, WorkflowRun.number)
WorkflowRun.add_index(WorkflowRun.due, where=WorkflowRun.due.is_null(False))
WorkflowRun.add_index(WorkflowRun.end_time, where=WorkflowRun.end_time.is_null(False))


class TaskRun(TaskLife, Table):
    """A wait-for-event task of a run."""
    workflow_run = ForeignKeyField(WorkflowRun, backref="task_runs", on_delete="CASCADE",
                                   index=False)  # the primary key begins with it
    position = IntegerField()
    id = CharField(max_length=32)
    name = CharField()
    topic = CharField()
    status = CharField(max_length=10)
    status_message = TextField(null=True)
    timeout = IntegerField(null=True)  # minutes
    dependencies_json = TextField(column_name="dependencies")
    dependencies = value_of("dependencies_json")
    start_time = BigIntegerField(null=True)
    end_time = BigIntegerField(null=True)
    callback_status = CharField(null=True, max_length=9)  # kept from before the start, if need be
    callback_results = TextField(null=True)  # JSON, or the position of the task that has it
    message = TextField(null=True)  # for whoever decides
    resolvers_json = TextField(column_name="resolvers", null=True)
    resolvers = value_of("resolvers_json")  # names of tokens, and `link`; None: whoever is let in

    class Meta:
        primary_key = CompositeKey("workflow_run", "position")


class Notice(Table):
    """What somebody is to be told of a run; notices.py sends it, and then deletes it."""
    id = CharField(primary_key=True, max_length=32)
    workflow_run = ForeignKeyField(WorkflowRun, on_delete="CASCADE")
    kind = CharField(max_length=12)
    task = CharField(null=True)  # its name
    to = TextField()
    by = CharField(null=True)
    created = BigIntegerField()
    due = BigIntegerField(null=True)  # when it is tried next; null: it was given up
    attempts = IntegerField()
    claimed_until = BigIntegerField()  # somebody is sending it


Notice.add_index(Notice.due, Notice.to)


# What every request runs, with parameters that take their values from a row's columns.
def columns(model, *names):
    """Each of these columns, or all that the database does not number, and their parameters."""
    return {name: parameter(name) for name in names or model._meta.sorted_field_names
            if name != "number"}


def rows(model, *names):
    """The rows of which these columns have the values of the parameters of their names."""
    return model.select().where(*(model._meta.fields[name] == parameter(name) for name in names))


WORKFLOW_BY_NAME = Statement(lambda: rows(Workflow, "name"))
FIRST_OF_DELIVERY = Statement(lambda: rows(WorkflowRun, "delivery_key", "workflow_ref"))
RUN_BY_ID = Statement(lambda: rows(WorkflowRun, "id"))
RUN_TO_CHANGE = Statement(lambda: database.locking(rows(WorkflowRun, "id"), "FOR UPDATE"))
TASKS_OF_RUN = Statement(lambda: rows(TaskRun, "workflow_run").order_by(TaskRun.position))
INSERT_RUN = Statement(lambda: WorkflowRun.insert_from(database.locking(
    rows(Workflow, "name", "definition").select(*columns(WorkflowRun).values()).where(
        Workflow.version == parameter("workflow_version")), "FOR SHARE"),
    columns(WorkflowRun)).on_conflict_ignore())
INSERT_TASK = Statement(lambda: TaskRun.insert(columns(TaskRun)))
INSERT_NOTICE = Statement(lambda: Notice.insert(columns(Notice)))
UPDATE_RUN = Statement(lambda: WorkflowRun.update(columns(
    WorkflowRun, "status", "status_message", "end_time", "due")).where(
    WorkflowRun.number == parameter("number")))
UPDATE_TASK = Statement(lambda: TaskRun.update(columns(
    TaskRun, "status", "status_message", "start_time", "end_time", "callback_status",
    "callback_results")).where(TaskRun.workflow_run == parameter("workflow_run"),
                               TaskRun.position == parameter("position")))

TABLES = [Workflow, WorkflowRun, TaskRun, Notice]
#: What makes of a database of version n one of version n + 1, in their order (storage/schema.py).
STEPS = [
    lambda opened: opened.add(BY_WORKFLOW_AND_STATUS),
    lambda opened: opened.add(WorkflowRun.correlate, BY_CORRELATE, TaskRun.message,
                              TaskRun.resolvers_json),
    lambda opened: (opened.add(WorkflowRun.notify_json), opened.create_tables([Notice])),
]
