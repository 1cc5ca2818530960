"""Notices (contract 10): what is sent, to whom, when again. `flask deliver` does it.

One thread asks and writes the database; each address has at most one other thread, which only
sends. So an address that hangs or fails holds up itself.
"""
import base64
import contextlib
import http.client
import importlib.util
import json
import logging
import queue
import re
import threading
import time
from collections import Counter
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from peewee import fn

import upkeep
from models import Notice, WorkflowRun
from runs.words import (CANCELLED, ENDED, FAILED, RUN_STARTED, SUCCEEDED, TASK_WAITING, TIMED_OUT,
                        in_utc, in_words)
from schemas import dump_run, present, time_text
from storage import BROKEN, database, why
from web.signatures import callback_link, sign_standard

log = logging.getLogger("signalbox")

RETRIES = (5, 60, 300, 1800, 7200, 18_000, 36_000, 36_000)  # seconds after each failed try
LONGEST_RETRY_AFTER = 30 * 86_400
LEASE = 60_000  # milliseconds for which a notice is its deliverer's
HTTP_SECONDS, OTHER_SECONDS = 15, 45  # then a try has failed; less than the lease
GRACE_SECONDS = 10  # for what is under way when it is told to stop
AT_ONCE = 32  # addresses
PATIENCE, REST, LONGEST_REST = 3, 5, 60  # from so many failures in a row on an address rests: s
WEEK = 7 * 86_400_000
#: What a letter's subject says, by the kind of notice, or by how what it tells of has ended.
VERBS = {TASK_WAITING: "waits", RUN_STARTED: "started", SUCCEEDED: "succeeded", FAILED: "failed",
         TIMED_OUT: "timed out", CANCELLED: "was cancelled"}


class Failed(Exception):
    """A try was in vain; `retry_after` in seconds, `for_good`: there is no use in another."""

    def __init__(self, reason, retry_after=0, for_good=False):
        super().__init__(reason)
        self.retry_after, self.for_good = retry_after, for_good


# What is sent

class Letter(NamedTuple):
    subject: str
    text: str
    event: str  # the CloudEvent, as JSON


def write(notice, settings, now):
    """The letter of a notice about its run, as that stands now."""
    run = notice.workflow_run
    task = notice.task and run.by_name[notice.task]
    name = run.workflow_display_name or run.workflow_ref
    verb = VERBS.get(notice.kind) or VERBS[(task or run).status]
    subject = f"{task.name} of {name} {verb}" if task else f"{name} {verb}"
    message, link = task.message if task else None, None
    lines = [message, (task or run).status_message]
    if notice.kind == TASK_WAITING:
        lines.append(f"It waits since {in_utc(task.start_time)} ({in_words(task.duration)}).")
        if settings["SECRET_KEY"]:
            until = min([now + WEEK, *(part.deadline for part in (task, run) if part.deadline)])
            link = callback_link(settings, run.id, task.topic, until // 1000, by=notice.by)
            lines.append("To answer, open this page; opening it changes nothing yet. It works "
                         f"until {in_utc(until)}.\n{link}")
    lines += [f"{result['name']}: {result['value']}" for result in (task.results if task else ())
              if result["name"] in ("by", "comment")]
    lines.append(f"Run {run.id}, started {in_utc(run.start_time)} by {run.origin}.")
    event = {"specversion": "1.0", "id": notice.id, "source": settings["PUBLIC_URL"],
             "type": f"signalbox.{notice.kind}", "time": time_text(notice.created),
             "subject": f"/workflowrun/{run.id}" + (
                 f"/task/{quote(task.name, safe='')}" if task else ""),
             "datacontenttype": "application/json",
             "data": present({"workflowrun": dump_run(run), "task": notice.task,
                              "message": message, "link": link})}
    return Letter(" ".join(subject.split()), "\n\n".join(filter(None, lines)), json.dumps(event))


# Where it is sent

def is_http(address):
    return address.lower().startswith(("http://", "https://"))


def shown(address, to):
    """What a log line may show of an address: for many of Apprise's even the host is a token, and
    what has no scheme may be one. Of that nothing but `to`, the name of its variable."""
    scheme, is_address, _ = address.lower().partition("://")
    if not is_address or not re.fullmatch("[a-z][a-z0-9+.-]*", scheme):
        return to
    with contextlib.suppress(ValueError):  # its host cannot be read
        if is_http(address) or scheme in ("mailto", "mailtos"):
            return f"{scheme}://{urlsplit(address).hostname}"
    return scheme


def unsendable(address):
    """Why nothing can be sent to the address with what is installed here, or None."""
    if not is_http(address) and not importlib.util.find_spec("apprise"):
        return "Apprise is missing: pip install -r requirements-notify.txt"


def unsendable_of(definition, environ):
    """What of the definition's notices cannot be sent here: where to, and why not."""
    for entry in definition.get("notify", []):
        address = address_in(entry["to"], environ)
        if address and (reason := unsendable(address)):
            yield shown(address, entry["to"]), reason


def address_in(to, environ):
    """The address itself, which may stand in the environment; "" when it is not there."""
    return environ.get(to[4:], "").strip() if to.startswith("env:") else to


def post(address, letter, headers):
    """POST the letter's event. Raises Failed; OSError, HTTPException and ValueError."""
    parts = urlsplit(address)
    kind = (http.client.HTTPSConnection if parts.scheme.lower() == "https"
            else http.client.HTTPConnection)
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = {**headers, "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = kind(parts.hostname, parts.port, timeout=HTTP_SECONDS)
    try:
        connection.request("POST", quote(target, safe="/?%:@!$&'()*+,;=~"), letter.event, {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": "Signalbox", **headers})
        answer = connection.getresponse()
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise Failed(f"status {answer.status}", seconds(answer.headers.get("Retry-After", "")),
                     for_good=answer.status == 410)


def seconds(retry_after):
    """A Retry-After header as seconds (RFC 9110 10.2.3); 0 when it cannot be read."""
    try:
        wanted = (int(retry_after) if retry_after.isdigit()
                  else parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0
    return min(max(0, wanted), LONGEST_RETRY_AFTER)


def send_by_apprise(address, letter, headers):
    if reason := unsendable(address):
        raise Failed(reason)
    import apprise  # it is optional, and takes a second
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines show addresses
    sender = apprise.Apprise()
    if not sender.add(address):
        raise Failed("Apprise does not know such an address")
    if not sender.notify(letter.text, letter.subject, body_format=apprise.NotifyFormat.TEXT):
        raise Failed("Apprise could not send it")


# When

class Try:
    """A notice on its way to where it is addressed, in a thread of its own."""

    def __init__(self, notice, address, letter, headers, done):
        self.notice, self.is_late = notice, False
        self.said = f"kind={notice.kind}" + (f" task={notice.task!r}" if notice.task else "") + (
            f" to={shown(address, notice.to)} notice={notice.id} run={notice.workflow_run.id}")
        send, seconds = (post, HTTP_SECONDS) if is_http(address) else (
            send_by_apprise, OTHER_SECONDS)
        self.until = time.monotonic() + seconds
        threading.Thread(target=self.go, args=(send, address, letter, headers, done),
                         daemon=True).start()

    def go(self, send, address, letter, headers, done):
        error = None
        try:
            if not address:
                raise Failed(f"set {self.notice.to[4:]} where `flask deliver` runs, and restart it")
            send(address, letter, headers)
        except Failed as failed:
            error = failed
        except Exception as other:  # a service's own; its words may show the address
            error = Failed(getattr(other, "strerror", None) or type(other).__name__)
        done.put((self, error))


class Deliverer:
    """Sends what is due, as one of several that share the work."""

    def __init__(self, settings, environ, clock):
        self.settings, self.environ, self.clock = settings, environ, clock
        self.done = queue.SimpleQueue()  # tries that came to an end; None only wakes
        self.under_way = {}  # the try for each address, as it stands in notices
        self.outcomes = []  # (try, error or None), not stored yet
        self.failures, self.rests_until = Counter(), {}  # by address
        self.counts, self.stopping = Counter(), None

    def stop(self, *signal):
        """Begin nothing more; what is under way has GRACE_SECONDS left. A signal handler."""
        self.stopping = self.stopping or time.monotonic() + GRACE_SECONDS
        self.done.put(None)

    def run(self, once=False):
        """Work until stop(); once: until nothing is due. Raises what is in BROKEN if so."""
        is_broken = False
        while True:
            try:
                if not self.stopping:
                    upkeep.expire_overdue(self.clock())
                began, is_broken = self.work(), False
            except BROKEN as error:
                if once or self.stopping:
                    raise
                if not is_broken:
                    log.error("notices wait, as the database cannot be used: %s", why(error))
                is_broken, began = True, False
            is_busy = began or self.outcomes or any(
                not attempt.is_late for attempt in self.under_way.values())
            if not is_busy and once or self.stopping and (
                    not is_busy or time.monotonic() > self.stopping):
                return
            self.collect(timeout=0 if began and not self.under_way else 1)

    def collect(self, timeout):
        """Wait for a try's end, and take note of all that ended or took too long."""
        with contextlib.suppress(queue.Empty):
            while True:
                if ended := self.done.get(timeout=timeout):
                    attempt, error = ended
                    self.under_way.pop(attempt.notice.to)
                    if not (error and attempt.is_late):
                        self.note(attempt, error)
                timeout = 0
        for attempt in self.under_way.values():
            if time.monotonic() >= attempt.until and not attempt.is_late:
                attempt.is_late = True
                self.note(attempt, Failed("it took too long"))

    def note(self, attempt, error):
        """How a try ended, to be stored; an address that fails again and again rests."""
        to = attempt.notice.to
        self.outcomes.append((attempt, error))
        self.counts["failed" if error else "sent"] += 1
        self.failures[to] = self.failures[to] + 1 if error else 0
        rest = min(REST * max(0, self.failures[to] - PATIENCE + 1), LONGEST_REST)
        self.rests_until[to] = time.monotonic() + rest

    def work(self):
        """Store how tries ended, and begin those that are due; whether there was anything."""
        now = self.clock()
        resting = [to for to, until in self.rests_until.items() if until > time.monotonic()]
        room, claimed = 0 if self.stopping else AT_ONCE - len(self.under_way), []
        with database.snapshot():
            notices = due(now, [*self.under_way, *resting], room)
            for notice in notices:
                upkeep.with_tasks([notice.workflow_run], now)
        if not notices and not self.outcomes:
            return False
        with database.writing():
            said = [store(*outcome, now) for outcome in self.outcomes]
            for notice in notices:
                task = notice.workflow_run.by_name.get(notice.task)
                if notice.kind == TASK_WAITING and task.status in ENDED:
                    notice.delete_instance()
                elif claim(notice, now):
                    claimed.append(notice)
        for level, line in said:
            log.log(level, line)
        self.outcomes = []
        for notice in claimed:
            letter, headers = write(notice, self.settings, now), {"webhook-id": notice.id}
            if keys := self.settings["NOTIFY_SECRET"]:
                headers = sign_standard(keys, notice.id, now // 1000, letter.event)
            self.under_way[notice.to] = Try(notice, address_in(notice.to, self.environ), letter,
                                            headers, self.done)
        return True


def due(now, busy, room):
    """For each address that is not busy the first of its notices that are due, in their order."""
    is_free = (Notice.claimed_until <= now) | (Notice.claimed_until > now + 2 * LEASE)  # a clock
    # that jumped; one lease more, as another deliverer may have looked at its clock after us
    first = Notice.select(fn.MIN(Notice.id)).where(
        Notice.due <= now, is_free, Notice.to.not_in(busy)).group_by(Notice.to).order_by(
            fn.MIN(Notice.due)).limit(room)
    return list(Notice.select(Notice, WorkflowRun).join(WorkflowRun).where(
        Notice.id.in_(first)).order_by(Notice.id))


def claim(notice, now):
    """Make the notice ours for a while; False when another deliverer was faster."""
    mine = Notice.update(claimed_until=now + LEASE).where(
        Notice.id == notice.id, Notice.due <= now, Notice.claimed_until == notice.claimed_until)
    notice.claimed_until = now + LEASE
    return mine.execute()


def store(attempt, error, now):
    """Store how a try ended; the level and the line to log once it is committed."""
    notice = attempt.notice
    if not error:
        notice.delete_instance()
        return logging.INFO, f"notice sent {attempt.said}"
    attempts, wait = notice.attempts + 1, None
    if notice.attempts < len(RETRIES) and not error.for_good:
        wait = int(max(RETRIES[notice.attempts], error.retry_after))
    Notice.update(due=wait and now + 1000 * wait, attempts=attempts, claimed_until=0).where(
        Notice.id == notice.id, Notice.claimed_until == notice.claimed_until).execute()
    what, again = ("failed", f" again_in={wait}s") if wait else ("given up", "")
    return logging.WARNING, (
        f"notice {what} reason={str(error)!r} attempt={attempts}{again} {attempt.said}")


def try_again(now):
    """Let what was given up be tried once more."""
    Notice.update(due=now, attempts=len(RETRIES)).where(Notice.due.is_null()).execute()
