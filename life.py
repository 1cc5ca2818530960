"""The life of a run in memory: what a callback, a timeout or an end does to it (contract 4.5, 5).

models.py mixes these into its tables and puts each change into a transaction. What happens is noted
in the run's `story`, a line each, to be logged once it is stored.
"""
from errors import NotFound, did_you_mean
from rules import (CANCELLED, CONDITIONS, ENDED, FAILED, NOT_STARTED, PHASES, RAN, RUNNING, SKIPPED,
                   SUCCEEDED, TIMED_OUT, WAITING)

MINUTE = 60_000


class Timed:
    """What a run and its tasks share: `run` is the run itself or the task's."""

    @property
    def phase(self):
        return PHASES[self.status]

    @property
    def creation_date(self):
        return self.run.start_time

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

    def advance(self, now):
        """Start or skip the tasks whose turn has come; the last task's end ends the run (4.5)."""
        by_name = {task.name: task for task in self.tasks}
        while any([task.consider(by_name, now) for task in self.tasks]):
            pass
        if self.status == RUNNING and all(task.status in ENDED for task in self.tasks):
            failures = [f"{task.name} {task.status}" for task in self.tasks
                        if task.status in (FAILED, TIMED_OUT)
                        and not any(other.handled(task) for other in self.tasks)]
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
        self.story.append(f"run {status}" + (f" reason={message!r}" if message else ""))

    def tasks_on(self, topic):
        return [task for task in self.tasks if task.topic == topic]

    def unknown(self, topic):
        return NotFound(f"no task of run {self.id} waits on topic {topic!r}"
                        + did_you_mean(topic, [task.topic for task in self.tasks]))

    def parts(self):
        """What has a deadline; the run first, as it wins over a task due at the same moment."""
        return [self, *self.tasks]

    @property
    def origin(self):
        """What started the run, in words, as far as it tells."""
        event, data = self.params.get("event"), self.params.get("data")
        if self.trigger == "event":
            return f"an event {event['type']} from {event['source']}"
        ref = data.get("ref") if isinstance(data, dict) else None
        return f"a webhook for {ref}" if isinstance(ref, str) else "a webhook"


class TaskLife(Timed):
    """A task of a `run`."""

    def consider(self, tasks, now):
        """Start or skip this task if its dependencies allow it; say whether it moved."""
        if self.status != NOT_STARTED:
            return False
        may_start = True
        for dependency in self.dependencies:
            other, condition = tasks[dependency["task_ref"]], dependency["execution_condition"]
            if other.status not in ENDED:
                may_start = False
            elif other.status not in CONDITIONS[condition]:
                self.end(SKIPPED, f"needs {condition} of {other.name}, which {other.status}", now)
                return True
        if may_start:
            self.status, self.start_time = WAITING, now
            self.run.story.append(f"task waiting task={self.name!r} topic={self.topic!r}")
            if self.callback_status:
                self.end(self.callback_status, None, now)
        return may_start

    def take_callback(self, status, results, said, now):
        self.callback_status, self.callback_results = status, results
        if self.status == WAITING:
            self.end(status, None, now, said)
        else:
            self.run.story.append(f"callback kept task={self.name!r} status={status}{said}")

    def end(self, status, message, now, said=""):
        self.status, self.status_message, self.end_time = status, message, now
        self.run.story.append(f"task {status} task={self.name!r} topic={self.topic!r}{said}"
                              + (f" reason={message!r}" if message else ""))

    def handled(self, other):
        """Whether this task ran because the other one may fail."""
        return self.status in RAN and any(
            dependency["task_ref"] == other.name and dependency["execution_condition"] != "success"
            for dependency in self.dependencies)

    @property
    def outcome(self):
        """How the task ended, or will end by the callback that it remembers; None while open."""
        return self.callback_status or (self.status if self.status in ENDED else None)
