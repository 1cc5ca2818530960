"""The life of a run in memory: what a callback, a timeout or an end does to it (contract 4.5, 5).

models.py mixes these into its tables and puts each change into a transaction. What happens is noted
in the run's `story`, a line each, to be logged once it is stored.
"""
import base64
import json
import secrets
import weakref
from collections import defaultdict, deque
from functools import cached_property

from runs.refusals import NotFound, did_you_mean
from runs.words import (ANSWERS, CANCELLED, CONDITIONS, ENDED, EVENT, FAILED, LINK, NOT_STARTED,
                        PHASES, RAN, RUN_ENDED, RUN_STARTED, RUNNING, SKIPPED, SUCCEEDED, SUCCESS,
                        TASK_ENDED, TASK_WAITING, TIMED_OUT, WAITING, masked)

MINUTE = 60_000


def new_id(now):
    """An id that nobody can guess (125 random bits) and that sorts after those of earlier seconds.

    So the index grows at its end: scattered ids made a start among a million runs 1.17 times as
    dear as among a thousand (in-process), these 1.01.
    """
    number = now // 1000 << 125 | secrets.randbits(125)
    return base64.b32hexencode(number.to_bytes(20)).decode().lower()


def brief(text):
    """What a stranger wrote, on one line: at most 100 characters, a blank for what none prints."""
    shown = "".join(char if char.isprintable() else " " for char in text[:101])
    return shown if len(shown) <= 100 else f"{shown[:99]}…"


class Timed:
    """What a run and its tasks share, `run` among it: the run itself or the task's."""

    @property
    def phase(self):
        return PHASES[self.status]

    @property
    def duration(self):
        """Milliseconds, as of the time at which the run was looked at."""
        until = self.end_time or self.run.as_of
        return max(0, until - self.start_time) if self.start_time else 0

    @property
    def deadline(self):
        if self.status in (RUNNING, WAITING) and self.timeout:
            return self.start_time + self.timeout * MINUTE


class RunLife(Timed):
    """A run, its `tasks` beside it."""

    def adopt(self, tasks, now):
        """Take the tasks, and note as of when the run is looked at."""
        self.tasks, self.as_of = tasks, now
        self.story, self.to_consider, self.happened = [], deque(), []
        for part in self.parts():
            part.run = weakref.proxy(self)  # no circle, so all of it is freed at once

    def begin(self, now):
        """Let the tasks that depend on none wait."""
        self.happened.append((RUN_STARTED, None))
        self.to_consider.extend(self.tasks)
        self.advance(now)
        waiting = [masked(task.topic) for task in self.tasks if task.status == WAITING]
        self.story = [f"run started workflow={self.workflow_ref} version={self.workflow_version} "
                      f"trigger={self.trigger} topics={waiting!r}", *self.story[len(waiting):]]

    @cached_property
    def dependents(self):
        """For each task's name those that depend on it."""
        dependents = {task.name: [] for task in self.tasks}
        for task in self.tasks:
            for dependency in task.dependencies:
                dependents[dependency["task_ref"]].append(task)
        return dependents

    @cached_property
    def by_name(self):
        return {task.name: task for task in self.tasks}

    def advance(self, now):
        """Start or skip the tasks whose turn has come; the last task's end ends the run (4.5)."""
        while self.to_consider:
            self.to_consider.popleft().consider(now)
        if self.status == RUNNING and all(task.status in ENDED for task in self.tasks):
            handled = {dependency["task_ref"] for task in self.tasks if task.status in RAN
                       for dependency in task.dependencies
                       if dependency["execution_condition"] != SUCCESS}
            failures = [f"{task.name} {task.status}" for task in self.tasks
                        if task.status in (FAILED, TIMED_OUT) and task.name not in handled]
            self.end(FAILED if failures else SUCCEEDED, ", ".join(failures) or None, now)
        due = min((part.deadline for part in self.parts() if part.deadline), default=None)
        if due != self.due:
            self.due = due

    def expire(self, now):
        """End what is overdue, what was due first ends first, and go on from there (section 5)."""
        while self.due is not None and self.due <= now:
            late = min((part for part in self.parts() if part.deadline), key=lambda p: p.deadline)
            if late is self:
                self.stop(TIMED_OUT, f"not done within {self.timeout} minutes", now)
            else:
                late.end(TIMED_OUT, f"no callback within {late.timeout} minutes", now)
            self.advance(now)

    def stop(self, status, message, now):
        """End the run before its tasks have ended; those are cancelled."""
        for task in self.tasks:
            if task.status not in ENDED:
                task.end(CANCELLED, message, now)
        self.end(status, message, now)

    def end(self, status, message, now):
        self.status, self.status_message, self.end_time, self.due = status, message, now, None
        self.happened.append((RUN_ENDED, None))
        self.story.append(f"run {status}" + (f" reason={message!r}" if message else ""))

    def to_tell(self):
        """Who is to be told of what happened (contract 10): (kind, task's name, entry)."""
        for kind, task in self.happened:
            for entry in self.notify:
                if kind in entry["on"] and task in [None, *entry.get("tasks", [task])]:
                    yield kind, task, entry

    def tasks_on(self, topic):
        """The tasks on the topic, at least one. Raises NotFound."""
        if tasks := [task for task in self.tasks if task.topic == topic]:
            return tasks
        raise NotFound(f"no task of run {self.id} waits on topic {masked(topic)!r}"
                       + did_you_mean(topic, [task.topic for task in self.tasks]))

    def who_may_resolve(self, topic):
        """In words, where not everybody may."""
        names = {name for task in self.tasks_on(topic) for name in task.resolvers or ()}
        return " or ".join("a signed link" if name == LINK else f"the token {name!r}"
                           for name in sorted(names)) + " only"

    def tree(self):
        """Each task and how deep it stands: under the first that it depends on."""
        below = defaultdict(list)
        for task in reversed(self.tasks):
            below[next((needed["task_ref"] for needed in task.dependencies), None)].append(task)
        left = [(0, task) for task in below[None]]
        while left:
            depth, task = left.pop()
            yield depth, task
            left += [(depth + 1, other) for other in below[task.name]]

    def parts(self):
        """What has a deadline; the run first, as it wins over a task due at the same moment."""
        return [self, *self.tasks]

    @property
    def origin(self):
        """What started the run, in words, as far as it tells."""
        event, data = self.params.get("event"), self.params.get("data")
        if self.trigger == EVENT:
            return f"an event {brief(event['type'])} from {brief(event['source'])}"
        ref = data.get("ref") if isinstance(data, dict) else None
        return f"a webhook for {brief(ref)}" if isinstance(ref, str) else "a webhook"


class TaskLife(Timed):
    """A task of a `run`."""

    def consider(self, now):
        """Start or skip this task, if it has not started and its dependencies allow it."""
        if self.status != NOT_STARTED:
            return
        may_start = True
        for dependency in self.dependencies:
            condition = dependency["execution_condition"]
            other = self.run.by_name[dependency["task_ref"]]
            if other.status not in ENDED:
                may_start = False
            elif other.status not in CONDITIONS[condition]:
                return self.end(
                    SKIPPED, f"needs {condition} of {other.name}, which {other.status}", now)
        if may_start:
            self.status, self.start_time = WAITING, now
            self.run.happened.append((TASK_WAITING, self.name))
            self.run.story.append(f"task waiting task={self.name!r} topic={masked(self.topic)!r}")
            if self.callback_status:
                self.end(self.callback_status, None, now)

    def take_callback(self, status, results, said, now):
        self.callback_status, self.callback_results = status, results
        if self.status == WAITING:
            self.end(status, None, now, said)
        else:
            self.run.story.append(f"callback kept task={self.name!r} status={status}{said}")

    def end(self, status, message, now, said=""):
        self.status, self.status_message, self.end_time = status, message, now
        self.run.to_consider.extend(self.run.dependents[self.name])
        if status != SKIPPED:
            self.run.happened.append((TASK_ENDED, self.name))
        self.run.story.append(f"task {status} task={self.name!r} topic={masked(self.topic)!r}{said}"
                              + (f" reason={message!r}" if message else ""))

    @property
    def outcome(self):
        """How the task ended, or will end by the callback that it remembers; None while open."""
        return self.callback_status or (self.status if self.status in ENDED else None)

    @property
    def takes_links(self):
        """Whether whoever has a signed link may end it."""
        return self.resolvers is None or LINK in self.resolvers

    @property
    def has_results(self):
        return self.callback_results is not None and self.status in ANSWERS

    @property
    def answer_text(self):
        """What the callback brought, as JSON, whether the task has ended with it yet or not."""
        text = self.callback_results or "[]"
        return self.run.tasks[int(text)].callback_results if text.isdigit() else text

    @property
    def answer(self):
        return json.loads(self.answer_text)

    @property
    def results(self):
        return self.answer if self.has_results else []
