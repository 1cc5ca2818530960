"""`flask deliver` as it is deployed: real processes, killed, stopped, and several at once."""
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from conftest import sql, statuses, wait_task
from server import PROJECT, kill, wait_until
from test_notices import Receiver, notify

pytestmark = pytest.mark.server


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def deliverer(environ, tmp_path):
    """A process that delivers: with deliverer("--once") as process."""
    @contextmanager
    def deliverer(*options):
        with (tmp_path / "deliver.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "deliver", *options], cwd=PROJECT, stdout=log,
                stderr=log, env={"PATH": os.environ["PATH"], **environ})
        try:
            yield process
        finally:
            kill(process.pid)
            process.wait(10)
    return deliverer


@pytest.fixture
def log(tmp_path):
    return lambda: (tmp_path / "deliver.log").read_text()


def ids(receiver):
    return [headers["webhook-id"] for headers, _ in receiver.got]


def run_ids(receiver):
    return [event["data"]["workflowrun"]["id"] for event in receiver.events]


def left(database_url):
    return sql(database_url, "SELECT count(*) FROM notice")[0][0]


@pytest.mark.both
def test_two_deliverers_send_each_notice_once(define, start, deliverer, receiver, database_url,
                                              environ):
    define("release", notify=[notify(receiver.url, "run.started", "run.ended")])
    runs = [start("release")["id"] for _ in range(60)]
    with deliverer("--once") as one, deliverer("--once") as two:
        assert (one.wait(60), two.wait(60)) == (0, 0)
    assert len(ids(receiver)) == len(set(ids(receiver))) == 120
    assert sorted(run_ids(receiver)) == sorted(runs * 2)
    assert left(database_url) == 0


@pytest.mark.both
def test_a_killed_deliverer_loses_no_notice(define, start, deliverer, receiver, database_url,
                                            flask, clock):
    define("release", notify=[notify(receiver.url, "run.ended")])
    runs = [start("release")["id"] for _ in range(40)]
    for count in 1, 7, 20:  # killed while it sends
        with deliverer() as process:
            wait_until(lambda: len(receiver.got) >= count or process.poll() is not None,
                       f"{count} have come", 30)
            kill(process.pid)
    clock.now = time.time_ns() // 1_000_000 + 60_000
    assert flask("deliver", "--once").exit_code == 0
    assert set(run_ids(receiver)) == set(runs) and left(database_url) == 0
    assert len(ids(receiver)) <= len(runs) + 3  # those that were under way came again


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_goes_on_until_it_is_told_to_stop(define, start, deliverer, receiver, show, number,
                                             log):
    define("slow", wait_task("tests", timeout=1), notify=[notify(receiver.url, "task.ended")])
    with deliverer() as process:
        wait_until(lambda: "delivering notices" in log(), "it delivers", 30)
        run = start("slow")  # overdue by the real clock
        wait_until(lambda: receiver.got, "it is noticed and told")
        assert statuses(show(run)) == {"tests": "timedout"}
        process.send_signal(number)
        assert process.wait(10) == 0


def test_what_is_under_way_is_finished_first(define, start, deliverer, database_url):
    with Receiver(hold=threading.Event()) as slow:
        define("release", notify=[notify(slow.url, "run.ended")])
        start("release")
        with deliverer() as process:
            wait_until(lambda: slow.got, "it is sent", 30)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            slow.hold.set()
            assert process.wait(10) == 0
    assert left(database_url) == 0


def test_it_waits_for_a_database_that_is_away(define, start, deliverer, receiver, database_url,
                                              log):
    define("release", notify=[notify(receiver.url, "run.ended")])
    with deliverer() as process:
        wait_until(lambda: "delivering notices" in log(), "it delivers", 30)
        sql(database_url, "ALTER TABLE notice RENAME TO gone")
        wait_until(lambda: "notices wait" in log(), "it has noticed")
        time.sleep(1.5)
        sql(database_url, "ALTER TABLE gone RENAME TO notice")
        start("release")
        wait_until(lambda: receiver.got, "it goes on")
        assert process.poll() is None
    assert log().count("notices wait") == 1


def test_it_says_in_one_line_that_it_cannot_look(deliverer, environ, tmp_path, log):
    (tmp_path / "other.db").write_text("no database, and longer than a header would be" * 9)
    environ["DATABASE_URL"] = f"sqlite:///{tmp_path}/other.db"
    for options in [], ["--once"]:
        with deliverer(*options) as process:
            assert process.wait(30) == 1
    assert "is not a database" in log() and "Traceback" not in log()
