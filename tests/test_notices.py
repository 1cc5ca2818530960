"""Notices: what is told to whom, when, and what happens when it cannot be (contract 10)."""
import base64
import contextvars
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from peewee import OperationalError
from standardwebhooks import Webhook

import notices
from conftest import sql, wait_task
from models import Notice, WorkflowRun
from storage import database

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECOND = 1000


class Receiver:
    """An http server that keeps what it was sent, and answers as it is told."""

    def __init__(self, status=200, headers={}, hold=None):
        self.status, self.headers, self.hold, self.got = status, headers, hold, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/hook"

    @property
    def events(self):
        return [json.loads(body) for _, body in self.got]

    @property
    def kinds(self):
        return [event["type"].removeprefix("signalbox.") + (
            " " + event["data"]["task"] if "task" in event["data"] else "")
            for event in self.events]

    def __enter__(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length).decode()
                if len(body.encode()) < length:
                    return  # the sender was killed meanwhile
                receiver.got.append((self.headers, body))
                if receiver.hold:
                    receiver.hold.wait(20)
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self):
                receiver.got.append((self.headers, "{}"))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        if self.hold:
            self.hold.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def dead():
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"http://user:s3cret@127.0.0.1:{listener.getsockname()[1]}/hook/tok3n?key=tok3n"


@pytest.fixture
def environ(environ):
    return {**environ, "SECRET_KEY": "key", "PUBLIC_URL": "https://signalbox.example.org"}


@pytest.fixture
def deliver(flask):
    """Send what is due: deliver() says what it printed."""
    def deliver(*options):
        result = flask("deliver", *(options or ["--once"]))
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout.strip()
    return deliver


@pytest.fixture
def told(flask):
    """How many notices wait and how many were given up."""
    def told():
        found = flask.json("status", "--json")["notices"]
        return found["waiting"], found["givenUp"]
    return told


def notify(to, *on, **keys):
    return {"to": to, **({"on": on} if on else {}), **keys}


# What is told, and when

@pytest.mark.both
def test_a_task_that_waits_and_a_run_that_ended_are_told_unless_said_otherwise(
        define, start, callback, deliver, receiver, told):
    define("release", wait_task("tests"), wait_task("approval", tests="success"),
           notify=[notify(receiver.url)])
    run = start("release")
    assert deliver() == "sent 1, failed 0" and receiver.kinds == ["task.waiting tests"]
    callback(run, "tests")
    callback(run, "approval")
    assert deliver() == "sent 1, failed 0"
    assert receiver.kinds == ["task.waiting tests", "run.ended"]  # approval has ended already
    assert told() == (0, 0)


@pytest.mark.both
def test_all_four_kinds_and_only_the_named_tasks(define, start, callback, deliver, receiver):
    define("release", wait_task("tests"), wait_task("approval", tests="success"),
           wait_task("rollback", tests="failure"),
           notify=[notify(receiver.url, "run.started", "task.waiting", "task.ended", "run.ended",
                          tasks=["approval", "rollback"])])
    run = start("release")
    callback(run, "tests")
    deliver()
    callback(run, "approval", "failed")
    deliver()
    assert sorted(receiver.kinds) == [  # a skipped task is not told
        "run.ended", "run.started", "task.ended approval", "task.waiting approval"]


def test_cancelled_and_overdue_tasks_are_told(define, start, flask, deliver, receiver, clock):
    define("release", wait_task("tests", timeout=5), wait_task("approval"),
           notify=[notify(receiver.url, "task.ended", "run.ended")])
    run = start("release")
    clock.advance(minutes=5)
    deliver()  # which notices the timeout by itself
    assert receiver.kinds == ["task.ended tests"]
    assert receiver.events[0]["data"]["workflowrun"]["tasks"][0]["status"] == "timedout"
    flask("workflowrun", "cancel", run["id"])
    deliver()
    assert receiver.kinds[1:] == ["task.ended approval", "run.ended"]


def test_a_workflow_without_notify_stores_none_and_asks_nothing_more(
        define, start, callback, told, monkeypatch):
    monkeypatch.setattr(WorkflowRun, "to_tell", None)
    define("release", wait_task("tests"))
    assert callback(start("release"), "tests").status_code == 200
    assert told() == (0, 0)


def test_a_change_that_is_rolled_back_tells_nothing(define, start, callback, told, monkeypatch):
    define("release", wait_task("tests"), notify=[notify("https://example.org/")])
    run = start("release")
    store_notices = WorkflowRun.store_notices

    def store_and_fail(run):
        store_notices(run)
        raise OperationalError("the disk is full")
    monkeypatch.setattr(WorkflowRun, "store_notices", store_and_fail)
    assert callback(run, "tests").status_code == 503
    assert told() == (1, 0)  # of the start only


def test_a_run_keeps_the_notify_of_its_start(define, start, callback, deliver, receiver):
    define("release", wait_task("tests"), notify=[notify(receiver.url, "run.ended")])
    run = start("release")
    define("release", wait_task("tests"))
    callback(run, "tests")
    deliver()
    assert receiver.kinds == ["run.ended"]


def test_a_question_its_reminder_and_its_escalation(define, start, callback, deliver, receiver,
                                                    clock, told):
    with Receiver() as boss:
        define("release", wait_task("approval"), notify=[
            notify(receiver.url, "task.waiting"),
            notify(receiver.url, "task.waiting", after=60),
            notify(boss.url, "task.waiting", after=120)])
        run, other = start("release"), start("release")
        deliver()
        assert len(receiver.got) == 2
        clock.advance(minutes=60, milliseconds=-1)
        assert deliver() == "sent 0, failed 0"
        callback(other, "approval")
        clock.advance(milliseconds=1)
        deliver()
        assert len(receiver.got) == 3 and boss.got == []
        clock.advance(minutes=60)
        deliver()
        assert [event["data"]["workflowrun"]["id"] for event in boss.events] == [run["id"]]
        assert told() == (0, 0)


# What arrives

@pytest.mark.both
def test_an_http_address_gets_a_cloudevent(define, start, deliver, receiver, client, clock):
    define("release", {**wait_task("approval"), "message": "Release $(params.data.ref)?"},
           displayName="Release approval", notify=[notify(receiver.url, by="Ada")])
    run = start("release", {"ref": "v1.2"})
    clock.advance(minutes=3)
    deliver()
    (headers, body), = receiver.got
    event = json.loads(body)
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    data = event.pop("data")
    assert event == {
        "specversion": "1.0", "id": headers["webhook-id"], "type": "signalbox.task.waiting",
        "source": "https://signalbox.example.org", "time": "2026-11-23T09:00:00.000Z",
        "subject": f"/workflowrun/{run['id']}/task/approval",
        "datacontenttype": "application/json"}
    assert data["workflowrun"]["id"] == run["id"]
    assert (data["task"], data["message"]) == ("approval", "Release v1.2?")
    assert "by=Ada" in data["link"] and "webhook-signature" not in headers
    link = data["link"].removeprefix("https://signalbox.example.org")
    assert client.post(link, json={}).status_code == 200


@pytest.mark.parametrize("name, path", [
    ("is it/ready?", "is%20it%2Fready%3F"), ("freigabe ü", "freigabe%20%C3%BC"), ("a#b", "a%23b"),
    ("100%", "100%25"), ("../x", "..%2Fx")])
def test_a_tasks_name_is_one_part_of_an_events_subject(define, start, deliver, receiver, name,
                                                       path):
    define("release", wait_task(name), notify=[notify(receiver.url)])
    run = start("release")
    deliver()
    assert receiver.events[0]["subject"] == f"/workflowrun/{run['id']}/task/{path}"


@pytest.mark.parametrize("login, sent", [
    ("ada:s3cret@", "ada:s3cret"), ("ada@", "ada:"), ("a%40b:c%3Ad@", "a@b:c:d"),
    ("", None), (":s3cret@", None)])
def test_an_addresss_login_is_sent_as_such(define, start, deliver, receiver, login, sent):
    define("release", wait_task("a"), notify=[
        notify(receiver.url.replace("//", f"//{login}", 1))])
    start("release")
    deliver()
    wanted = sent and "Basic " + base64.b64encode(sent.encode()).decode()
    assert receiver.got[0][0]["Authorization"] == wanted


@pytest.mark.parametrize("name", [
    "a\nBcc: eve@example.org", "a\r\nb", "a\x0bb", "a\u2028b", "a\x85b"])
def test_a_letters_subject_is_one_line(define, start, clock, name):
    define("release", wait_task(name), displayName=f"Release{name}")
    run = WorkflowRun.find(start("release")["id"], clock())
    notice = Notice(id="1", workflow_run=run, kind="task.waiting", task=name, created=clock())
    letter = notices.write(notice, {"SECRET_KEY": [], "PUBLIC_URL": "http://x"}, clock())
    assert len(letter.subject.splitlines()) == 1 and letter.subject.endswith(" waits")


@pytest.mark.parametrize("keys, task, lasts", [
    ({}, {}, 7 * 24 * 60), ({}, {"timeout": 90}, 90), ({"timeout": 60}, {"timeout": 90}, 60),
    ({}, {"timeout": 90 * 24 * 60}, 7 * 24 * 60)])
def test_the_link_works_seven_days_or_until_the_timeout(
        define, start, deliver, receiver, client, clock, keys, task, lasts):
    define("release", wait_task("approval", **task), notify=[notify(receiver.url)], **keys)
    start("release")
    deliver()
    link = receiver.events[0]["data"]["link"].partition("example.org")[2]
    clock.advance(minutes=lasts, milliseconds=-1)
    assert client.get(link).status_code == 200
    clock.advance(milliseconds=1)
    assert client.get(link).status_code == 410


def test_the_link_is_not_stored(define, start, deliver, dead, database_url):
    define("release", wait_task("approval"), notify=[notify(dead)])
    start("release")
    deliver()
    database.close()
    assert "signature" not in str(sql(database_url, "SELECT * FROM notice"))
    assert "callback?" not in str(sql(database_url, "SELECT * FROM notice"))


class TestSigned:
    @pytest.fixture
    def environ(self, environ):
        return {**environ, "NOTIFY_SECRET": f"{SECRET},older"}

    @pytest.fixture
    def clock(self, clock):
        clock.now = time.time_ns() // 1_000_000  # the library looks at its own
        return clock

    def test_a_receiver_checks_it_with_the_library(self, define, start, deliver, receiver):
        define("release", wait_task("approval"), notify=[notify(receiver.url)])
        start("release")
        deliver()
        (headers, body), = receiver.got
        assert Webhook(SECRET).verify(body, dict(headers.items()))["type"]

    def test_the_id_stays_the_same_at_every_try(self, define, start, deliver, receiver, clock):
        define("release", wait_task("approval"), notify=[notify(receiver.url)])
        start("release")
        receiver.status = 500
        deliver()
        clock.advance(milliseconds=5000)
        receiver.status = 200
        deliver()
        one, two = [headers["webhook-id"] for headers, _ in receiver.got]
        assert one == two
        assert receiver.got[0][0]["webhook-timestamp"] != receiver.got[1][0]["webhook-timestamp"]


def test_only_a_task_that_waits_is_told_with_a_link(define, start, callback, deliver, receiver):
    define("release", wait_task("a"), wait_task("b", a="success"), notify=[
        notify(receiver.url, "task.waiting", "task.ended", "run.started", "run.ended")])
    run = start("release")
    callback(run, "a")
    deliver()
    with_link = {kind: "link" in event["data"]
                 for kind, event in zip(receiver.kinds, receiver.events)}
    assert with_link == {"run.started": False, "task.ended a": False, "task.waiting b": True}
    subjects = {event["type"]: event["subject"] for event in receiver.events}
    assert subjects["signalbox.run.started"] == f"/workflowrun/{run['id']}"


def test_an_https_address_gets_nothing_in_plain(define, start, flask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        define("release", wait_task("a"), notify=[
            notify(f"https://127.0.0.1:{listener.getsockname()[1]}/hook")])
        start("release")
        first = []

        def receive():
            connection, _ = listener.accept()
            with connection:
                first.append(connection.recv(1))
        thread = threading.Thread(target=receive)
        thread.start()
        assert flask("deliver", "--once").stdout == "sent 0, failed 1\n"
        thread.join(5)
    assert first == [b"\x16"]  # a TLS handshake (RFC 8446 5.1)


# Failures

@pytest.mark.both
def test_failed_tries_are_made_again_until_it_is_given_up(
        define, start, deliver, receiver, clock, told):
    define("release", wait_task("approval"), notify=[notify(receiver.url, "run.started")])
    start("release")
    receiver.status = 503
    for count, wait in enumerate([5, 60, 300, 1800, 7200, 18000, 36000, 36000], 1):
        assert deliver() == "sent 0, failed 1"
        assert len(receiver.got) == count and told() == (1, 0)
        clock.advance(milliseconds=wait * SECOND - 1)
        assert deliver() == "sent 0, failed 0"
        clock.advance(milliseconds=1)
    assert deliver() == "sent 0, failed 1"
    assert told() == (0, 1)
    clock.advance(minutes=10_000)
    assert deliver() == "sent 0, failed 0"
    assert deliver("--again") == "sent 0, failed 1" and told() == (0, 1)
    receiver.status = 204
    assert deliver("--again") == "sent 1, failed 0" and told() == (0, 0)


def test_410_gives_up_at_once(define, start, deliver, receiver, told, caplog):
    define("release", wait_task("approval"), notify=[notify(receiver.url)])
    start("release")
    receiver.status = 410
    deliver()
    assert told() == (0, 1) and "given up" in caplog.text


@pytest.mark.parametrize("retry_after, wait", [("120", 120), ("0", 5), ("soon", 5), ("-3", 5),
                                               ("172800", 172_800), ("9" * 30, 30 * 86_400)])
def test_retry_after_is_waited_for(define, start, deliver, receiver, clock, retry_after, wait):
    define("release", wait_task("approval"), notify=[notify(receiver.url)])
    start("release")
    receiver.status, receiver.headers = 429, {"Retry-After": retry_after}
    deliver()
    clock.advance(milliseconds=wait * SECOND - 1)
    deliver()
    assert len(receiver.got) == 1
    clock.advance(milliseconds=1)
    deliver()
    assert len(receiver.got) == 2


def test_a_retry_after_may_be_a_date():
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 300))
    assert 290 < notices.seconds(soon) <= 300


def test_a_redirect_is_not_followed(define, start, deliver, receiver, told):
    with Receiver() as elsewhere:
        receiver.status, receiver.headers = 302, {"Location": elsewhere.url}
        define("release", wait_task("approval"), notify=[notify(receiver.url)])
        start("release")
        assert deliver() == "sent 0, failed 1"
        assert elsewhere.got == [] and told() == (1, 0)


def test_a_receiver_that_never_answers_holds_up_no_other(
        define, start, deliver, receiver, monkeypatch, told):
    monkeypatch.setattr(notices, "HTTP_SECONDS", 2)
    with Receiver(hold=threading.Event()) as silent:
        define("stuck", wait_task("approval"), notify=[notify(silent.url)])
        define("release", wait_task("approval"), notify=[notify(receiver.url)])
        for _ in range(3):
            start("stuck")
        start("release")
        stopped = []
        deliver_here = contextvars.copy_context().run  # as it is on this thread's database
        thread = threading.Thread(target=lambda: stopped.append(deliver_here(deliver)))
        thread.start()
        deadline = time.monotonic() + 1.5
        while not receiver.got and time.monotonic() < deadline:
            time.sleep(0.01)
        assert receiver.got, "the receiver that answers had to wait"
        thread.join(20)
        assert stopped and told()[0] == 3


def test_a_receiver_that_answers_a_byte_at_a_time_has_failed(
        define, start, deliver, monkeypatch, told):
    monkeypatch.setattr(notices, "HTTP_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def drip():
            connection, _ = listener.accept()
            with connection:
                for _ in range(40):
                    try:
                        connection.send(b"H")
                    except OSError:
                        return
                    time.sleep(0.2)
        threading.Thread(target=drip, daemon=True).start()
        define("slow", wait_task("a"),
               notify=[notify(f"http://127.0.0.1:{listener.getsockname()[1]}/")])
        start("slow")
        began = time.monotonic()
        assert deliver() == "sent 0, failed 1"
        assert time.monotonic() - began < 5 and told() == (1, 0)


def test_an_address_that_fails_again_and_again_rests(define, start, deliver, receiver, clock):
    define("release", wait_task("approval"), notify=[notify(receiver.url)])
    for _ in range(10):
        start("release")
    receiver.status = 500
    deliver()
    assert len(receiver.got) == 3


def test_no_log_line_shows_an_address(define, start, deliver, dead, caplog, flask, client):
    define("release", wait_task("approval"), notify=[
        notify(dead), notify("mailto://ada:s3cret@127.0.0.1:1/?to=tok3n@example.org"),
        notify("slack://s3crettok3n/s3crettok3n/s3crettok3n"), notify("tgram://s3crettok3n/5")])
    start("release")
    deliver()
    assert caplog.text.count("notice failed") == 4
    assert "to=http://127.0.0.1 " in caplog.text and "to=mailto://127.0.0.1 " in caplog.text
    assert "s3cret" not in caplog.text and "tok3n" not in caplog.text


def test_an_address_in_the_environment(define, start, deliver, receiver, environ, caplog, clock,
                                       told):
    define("release", wait_task("approval"), notify=[notify("env:APPROVERS")])
    start("release")
    assert deliver() == "sent 0, failed 1"
    assert "set APPROVERS" in caplog.text
    environ["APPROVERS"] = f"{receiver.url}\n"
    clock.advance(milliseconds=5000)
    assert deliver() == "sent 1, failed 0" and told() == (0, 0)


@pytest.mark.parametrize("address", ["s3crettok3n", "ada:s3cret@example.org", "slack:s3crettok3n",
                                     "s3cret?x=http://example.org/"])
def test_what_is_no_address_is_not_shown(define, start, deliver, environ, caplog, address):
    environ["APPROVERS"] = address
    define("release", wait_task("approval"), notify=[notify("env:APPROVERS")])
    start("release")
    assert deliver() == "sent 0, failed 1"
    assert "to=env:APPROVERS " in caplog.text and "s3cret" not in caplog.text


# Several deliverers, and the clock

@pytest.mark.both
def test_a_claimed_notice_is_its_deliverers_for_a_minute(define, start, deliver, receiver, clock):
    define("release", wait_task("approval"), notify=[notify(receiver.url)])
    start("release")
    notice, = Notice.select()
    assert notices.claim(notice, clock())
    again, = Notice.select()
    again.claimed_until = 0  # as the other one had read it
    assert not notices.claim(again, clock())
    clock.advance(milliseconds=59_999)
    assert deliver() == "sent 0, failed 0"
    clock.advance(milliseconds=1)
    assert deliver() == "sent 1, failed 0"


def test_a_clock_that_jumps_back_frees_what_was_claimed(define, start, deliver, receiver, clock):
    define("release", wait_task("approval"), notify=[notify(receiver.url)])
    start("release")
    clock.advance(minutes=600)
    notice, = Notice.select()
    assert notices.claim(notice, clock())
    clock.advance(minutes=-600)
    assert deliver() == "sent 1, failed 0"


def test_ten_thousand_notices_for_a_dead_address_go_with_their_runs(
        define, start, callback, deliver, dead, flask, told, clock):
    define("release", *[wait_task(f"t{number}", "t") for number in range(500)],
           notify=[notify(dead, "task.ended")] * 20)
    run = start("release")
    assert callback(run, "t").status_code == 200
    assert told() == (10_000, 0)
    began = time.monotonic()
    deliver()
    assert time.monotonic() - began < 5
    clock.advance(minutes=1)
    assert "purged 1 runs" in flask("workflowrun", "purge", "--older-than", "0s").stdout
    assert told() == (0, 0)


# Without Apprise

@pytest.fixture
def without_apprise(monkeypatch):
    monkeypatch.setattr(notices.importlib.util, "find_spec", lambda name: None)


def test_apply_warns_without_apprise(flask, without_apprise):
    result = flask("workflow", "apply", "-", input=json.dumps(
        {"name": "release", "tasks": [], "notify": [notify("slack://s3cret/")]}))
    assert result.exit_code == 0
    assert "requirements-notify.txt" in result.stderr and "s3cret" not in result.output


def test_deliver_fails_without_apprise(define, start, deliver, without_apprise, caplog, told):
    define("release", wait_task("a"), notify=[notify("mailto://localhost?to=ada@example.org")])
    start("release")
    assert deliver() == "sent 0, failed 1" and told() == (1, 0)
    assert "requirements-notify.txt" in caplog.text
