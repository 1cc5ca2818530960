"""Workflows, their runs and the tasks that wait: the tables, and every transaction.

Times are milliseconds since 1970 (UTC) and always come in as `now`; nothing here reads a clock.
"""
import contextlib
import json
import logging
import secrets
from functools import lru_cache

from marshmallow import ValidationError
from peewee import (AutoField, BigIntegerField, BooleanField, Case, CharField, CompositeKey,
                    ForeignKeyField, IntegerField, OperationalError, TextField)

from runs.conditions import correlated, filled_task, is_enabled, unmet
from runs.life import MINUTE, RunLife, TaskLife, new_id
from runs.refusals import (ConditionsNotMet, Conflict, NotAllowed, NotFound, PayloadDiffers,
                           TriggerDisabled)
from runs.strictjson import same_json
from runs.words import (CANCELLED, ENDED, FAILED, NOT_STARTED, RUN_STARTED, RUNNING, SUCCEEDED,
                        WAITING, masked)
from storage import Statement, Table, database, parameter

log = logging.getLogger("signalbox")


@lru_cache(maxsize=1024)
def parsed(text):
    """The value of stored JSON. Shared between callers, so never changed."""
    return json.loads(text)


class Workflow(Table):
    """A named definition: what starts it and what its runs wait for."""
    name = CharField(unique=True)
    version = IntegerField(default=1)
    definition = TextField()  # JSON, of which `content` is the value

    @property
    def content(self):
        return parsed(self.definition)

    @classmethod
    def known(cls, name):
        """The workflow of that name, or None."""
        return next(iter(WORKFLOW_BY_NAME.fetch(name=name)), None)

    @classmethod
    def named(cls, name):
        """The workflow of that name. Raises NotFound."""
        if workflow := cls.known(name):
            return workflow
        raise NotFound(f"no workflow is named {name!r}; `flask workflow list` shows all")

    @classmethod
    def apply(cls, definitions):
        """Store all definitions or none; (name, version, "created"|"updated"|"unchanged") each."""
        outcome = []
        with database.writing():
            database.exclusive()
            for content in definitions:
                workflow = cls.get_or_none(cls.name == content["name"])
                if workflow is None:
                    workflow = cls.create(name=content["name"], definition=json.dumps(content))
                    said = "created"
                elif same_json(workflow.content, content):
                    said = "unchanged"
                else:
                    workflow.definition = json.dumps(content)
                    workflow.version += 1
                    workflow.save()
                    said = "updated"
                outcome.append((workflow.name, workflow.version, said))
        for name, version, said in outcome:
            if said != "unchanged":
                log.info("workflow %s workflow=%s version=%d", said, name, version)
        return outcome


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
    timeout = IntegerField(null=True)  # minutes
    start_time = BigIntegerField()
    end_time = BigIntegerField(null=True)
    due = BigIntegerField(null=True)  # when the run or one of its waiting tasks times out next
    correlate = CharField(null=True)  # by which callers who do not know the id name the run
    notify_json = TextField(column_name="notify", null=True)  # as defined when it started

    @classmethod
    def start(cls, workflow, delivery, routed, now, by=None):
        """Start a run of the workflow; a repeated delivery gets the first run as it stands now.
        `by` is who asks, for the log.

        Raises PayloadDiffers, NotFound when the workflow is deleted meanwhile; as planned() does.
        """
        while True:
            try:
                run = cls.planned(workflow, delivery, routed, now)
            except (TriggerDisabled, ConditionsNotMet, ValidationError):
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
            secret_env = workflow.content.get("secret_env")
            workflow = Workflow.named(workflow.name)  # it has changed
            if workflow.content.get("secret_env") != secret_env:
                raise OperationalError("the workflow's secret changed while a request came in")

    @classmethod
    def resolve(cls, workflowrun, topic, status, results, may_resolve, now):
        """End every task of the run that waits on the topic; those not started yet remember it.
        Which of them the caller may end says `may_resolve`, a function of a task.

        Raises NotFound for an unknown run or topic, Conflict when every task has ended otherwise,
        NotAllowed.
        """
        text, kept = json.dumps(results), None
        said = "".join(f" {result['name']}={masked(result['value'])!r}" for result in results
                       if result["name"] != "data")
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
    def expire_overdue(cls, workflowrun, now):
        """End what is overdue in the run. Raises NotFound."""
        with cls.changing(workflowrun, now):
            pass

    @classmethod
    def find(cls, workflowrun, now):
        """The run as it would stand if what is overdue ended now; nothing is stored.

        Raises NotFound.
        """
        with database.snapshot():
            run = cls.loaded(workflowrun, now)
        run.expire(now)
        return run

    @classmethod
    def correlated(cls, workflow, correlate):
        """The id of the workflow's newest run with that value, of those that run if any does.

        Raises NotFound.
        """
        has_ended = Case(None, [(cls.status == RUNNING, 0)], 1)
        run = cls.select(cls.id).where(cls.workflow_ref == workflow, cls.correlate == correlate
                                       ).order_by(has_ended, cls.number.desc()).first()
        if run:
            return run.id
        raise NotFound(f"workflow {workflow!r} has no run that correlates with {correlate!r}")

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

        Raises TriggerDisabled, ConditionsNotMet; ValidationError when a topic cannot be filled in.
        """
        content = workflow.content
        if not is_enabled(content, delivery.trigger):
            raise TriggerDisabled(f"the {delivery.trigger} trigger of workflow {workflow.name} is "
                                  "switched off in its definition")
        if missing := unmet(content, delivery):
            raise ConditionsNotMet(workflow.name, missing)
        params = delivery.params(content["params"])
        run = cls.from_row({
            **dict.fromkeys(cls._meta.sorted_field_names), "id": new_id(now),
            "workflow_ref": workflow.name, "workflow_display_name": content.get("display_name"),
            "workflow_version": workflow.version, "trigger": delivery.trigger, "routed": routed,
            "delivery_key": delivery.key, "status": RUNNING, "timeout": content.get("timeout"),
            "correlate": correlated(content.get("correlate"), delivery, params),
            "notify_json": json.dumps(content["notify"]) if content.get("notify") else None,
            "params_json": json.dumps(params), "start_time": now})
        run.adopt([TaskRun.from_row({
            **dict.fromkeys(TaskRun._meta.sorted_field_names), "position": position,
            "id": secrets.token_hex(16), "name": task["name"], **filled_task(task, params),
            "resolvers_json": json.dumps(task["resolvers"]) if "resolvers" in task else None,
            "status": NOT_STARTED, "timeout": task.get("timeout"),
            "dependencies_json": json.dumps(task["dependencies"])})
            for position, task in enumerate(content["tasks"])], now)
        run.happened.append((RUN_STARTED, None))
        run.to_consider.extend(run.tasks)
        run.advance(now)
        waiting = [masked(task.topic) for task in run.tasks if task.status == WAITING]
        run.story = [f"run started workflow={run.workflow_ref} version={run.workflow_version} "
                     f"trigger={run.trigger} topics={waiting!r}", *run.story[len(waiting):]]
        return run

    @classmethod
    def loaded(cls, workflowrun, now, to_change=False):
        """The stored run with its tasks; to change it, its row is locked. Raises NotFound."""
        for run in (RUN_TO_CHANGE if to_change else RUN_BY_ID).fetch(id=workflowrun):
            run.adopt(TASKS_OF_RUN.fetch(workflow_run=run.number), now)
            return run
        raise NotFound(f"no run has the id {workflowrun!r}; `flask workflowrun list` shows runs")

    def store(self, workflow):
        """Insert the new run and its tasks; False when the workflow is no longer as it is here, or
        when the same delivery has started a run before."""
        self.number = database.insert(*INSERT_RUN.bound(
            self.__data__ | {"name": workflow.name, "definition": workflow.definition}))
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
            told = list(self.to_tell())
            ids = sorted(new_id(self.as_of) for _ in told)  # they are sent in this order
            for notice_id, (kind, task, entry) in zip(ids, told):
                INSERT_NOTICE.run({
                    "id": notice_id, "workflow_run": self.number, "kind": kind, "task": task,
                    "to": entry["to"], "by": entry.get("by"), "created": self.as_of,
                    "due": self.as_of + entry.get("after", 0) * MINUTE, "attempts": 0,
                    "claimed_until": 0})

    def tell(self):
        """Log what changed, a line each, once it is committed."""
        for line in self.story:
            log.info("%s run=%s", line, self.id)

    @property
    def params(self):
        return json.loads(self.params_json)

    @property
    def notify(self):
        return parsed(self.notify_json)


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
    start_time = BigIntegerField(null=True)
    end_time = BigIntegerField(null=True)
    callback_status = CharField(null=True, max_length=9)  # kept from before the start, if need be
    callback_results = TextField(null=True)  # JSON, or the position of the task that has it
    message = TextField(null=True)  # for whoever decides
    resolvers_json = TextField(column_name="resolvers", null=True)  # who may end it

    class Meta:
        primary_key = CompositeKey("workflow_run", "position")

    @property
    def dependencies(self):
        return parsed(self.dependencies_json)

    @property
    def resolvers(self):
        """Names of tokens, and `link`; None for whoever is let in."""
        return self.resolvers_json and parsed(self.resolvers_json)

    @property
    def answer_text(self):
        """What the callback brought, as JSON, whether the task has ended with it yet or not."""
        text = self.callback_results or "[]"
        return self.run.tasks[int(text)].callback_results if text.isdigit() else text

    @property
    def answer(self):
        return json.loads(self.answer_text)

    @property
    def has_results(self):
        return self.callback_results is not None and self.status in (SUCCEEDED, FAILED)

    @property
    def results(self):
        return self.answer if self.has_results else []


class Notice(Table):
    """What somebody is to be told of a run; notices.py sends it, and deletes it once that is done.
    """
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
    """Each of these columns, all but a number that the database gives if none are named, and the
    parameter of its name."""
    chosen = names or [name for name in model._meta.sorted_field_names if name != "number"]
    return {name: parameter(name) for name in chosen}


WORKFLOW_BY_NAME = Statement(lambda: Workflow.select().where(Workflow.name == parameter("name")))
FIRST_OF_DELIVERY = Statement(lambda: WorkflowRun.select().where(
    WorkflowRun.delivery_key == parameter("delivery_key"),
    WorkflowRun.workflow_ref == parameter("workflow_ref")))
RUN_BY_ID = Statement(lambda: WorkflowRun.select().where(WorkflowRun.id == parameter("id")))
RUN_TO_CHANGE = Statement(lambda: database.locking(
    WorkflowRun.select().where(WorkflowRun.id == parameter("id")), "FOR UPDATE"))
TASKS_OF_RUN = Statement(lambda: TaskRun.select().where(
    TaskRun.workflow_run == parameter("workflow_run")).order_by(TaskRun.position))
INSERT_RUN = Statement(lambda: WorkflowRun.insert_from(database.locking(
    Workflow.select(*columns(WorkflowRun).values()).where(
        Workflow.name == parameter("name"), Workflow.version == parameter("workflow_version"),
        Workflow.definition == parameter("definition")), "FOR SHARE"),
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
