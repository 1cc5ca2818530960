"""The service as it is deployed: real processes on a free loopback port, stopped by their pids."""
import http.client
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from inside import commands_on

PROJECT = Path(__file__).parent.parent
GUNICORN = [sys.executable, "-m", "gunicorn", "wsgi:app"]


def as_installed(url):
    """What lets processes on SQLite find no driver of PostgreSQL, as in most installations: they
    start in three quarters of the time."""
    return {} if "postgres" in url else {"PYTHONPATH": str(PROJECT / "tests/data/no_driver")}


def wait_until(condition, what, seconds=10):
    """The first true value of the condition, asked again until the seconds are over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.005)
    return value


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def stat(pid):
    """Its parent and process group; None when there is no such process, or only its corpse."""
    try:
        state, parent, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else (int(parent), int(group))


def processes(group):
    """The pids of a process group; the orphans among them too."""
    found = ((int(pid), stat(pid)) for pid in os.listdir("/proc") if pid.isdigit())
    return [pid for pid, parent_and_group in found
            if parent_and_group and parent_and_group[1] == group]


def kill(*pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def at_once(count, call):
    """The results of call(0) … call(count - 1), all called at the same moment."""
    gate = threading.Barrier(count)

    def one(number):
        gate.wait(10)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def integrity(database):
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        answer = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return answer


class Server:
    """`gunicorn wsgi:app` on a database in the folder; a context manager, and its HTTP client."""

    def __init__(self, folder, command=GUNICORN, cwd=PROJECT, **settings):
        self.command, self.cwd, self.port = command, cwd, free_port()
        self.database, self.log_file = folder / "signalbox.db", folder / "service.log"
        url = settings.get("DATABASE_URL", f"sqlite:///{self.database}")
        self.environ = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(self.port),
                        "WEB_CONCURRENCY": "2", "MALLOC_ARENA_MAX": "2", "DATABASE_URL": url,
                        **as_installed(url), **settings}
        self.mine, self.connections = threading.local(), []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()

    def start(self):
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.cwd, env=self.environ,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        try:
            wait_until(self.answers, "the service answers", 15)
        except BaseException:
            self.kill()
            raise

    def answers(self):
        assert self.process.poll() is None, f"the service ended: {self.log}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                return connection.recv(1)
        except ConnectionError:
            return False

    def signal(self, number):
        os.kill(self.process.pid, number)

    def stop(self):
        """End the service gracefully; its exit code."""
        self.hang_up()
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            try:
                return self.process.wait(8)
            except subprocess.TimeoutExpired:
                for pid in self.workers():  # gunicorn's loses a signal while it starts
                    os.kill(pid, signal.SIGTERM)
                return self.process.wait(7)
        finally:
            self.kill()

    def kill(self):
        """End every process of the service at once, by SIGKILL."""
        while pids := processes(self.process.pid):
            kill(*pids)
            if self.process.pid in pids:
                self.process.wait(5)

    def workers(self):
        """The pids of the workers: the children of the first process."""
        return sorted(pid for pid in processes(self.process.pid)
                      if (stat(pid) or [0])[0] == self.process.pid)

    @property
    def log(self):
        return self.log_file.read_text(errors="replace")

    # A client that keeps its connection, one a thread

    def request(self, method, path, payload=None, headers={}):
        """One request and its answer; a broken connection raises, and is not tried again."""
        connection = self.connection()
        try:
            body = None if payload is None else json.dumps(payload)
            given = {} if payload is None else {"Content-Type": "application/json"}
            connection.request(method, path, body, {**given, **headers})
            answer = connection.getresponse()
            return SimpleNamespace(status=answer.status, headers=answer.headers,
                                   text=answer.read().decode())
        except BaseException:
            connection.close()
            raise

    def connection(self):
        connection = getattr(self.mine, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            self.mine.connection = connection
            self.connections.append(connection)
        idle = time.monotonic() - getattr(connection, "used", 0) > 1
        if connection.sock and (idle or select.select([connection.sock], [], [], 0)[0]):
            connection.close()  # the service closes idle ones, as it may
        connection.used = time.monotonic()
        return connection

    def hang_up(self):
        for connection in self.connections:
            connection.close()

    def post(self, path, payload, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, payload, headers)

    def get(self, path, **headers):
        return self.request("GET", path, None, headers)

    def webhook(self, workflow, payload, **headers):
        return self.post(f"/api/v2/webhook?workflow={workflow}", payload, **headers)

    def run(self, workflow, payload=None, **headers):
        """Start a run and return it."""
        answer = self.webhook(workflow, payload or {}, **headers)
        assert answer.status == 200, answer.text
        return json.loads(answer.text)

    def callback(self, run, topic, status="succeeded", payload=None):
        return self.post(f"/api/v2/callback?workflowrun={run['id']}&topic={topic}&status={status}",
                         payload or {})

    def raw(self, data):
        """Status and body of the answer to these bytes, after which nothing more comes."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it was answered before the end
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read().decode()

    # Commands

    def flask(self, *args, input=None):
        return subprocess.run([sys.executable, "-m", "flask", *map(str, args)], cwd=self.cwd,
                              env=self.environ, input=input, capture_output=True, text=True,
                              timeout=60)

    def define(self, name, *tasks, **keys):
        with commands_on(self.environ) as flask:
            result = flask("workflow", "apply", "-",
                           input=json.dumps({"name": name, "tasks": tasks, **keys}))
        assert result.exit_code == 0, result.output
        return name

    def stored(self, limit=1_000_000):
        """The stored runs, the newest first."""
        with commands_on(self.environ) as flask:
            return flask.json("workflowrun", "list", "--json", "--limit", limit)


class Load:
    """Clients that repeat `step(name)`, each time with a new name, until the block's end.

    A client whose step raises ends; `errors` holds why, `done` what the steps returned.
    """

    def __init__(self, step, clients=8, limit=5000):
        self.step, self.limit = step, limit
        self.done, self.errors, self.stopping = [], [], threading.Event()
        self.clients = [threading.Thread(target=self.go, args=(client,), daemon=True)
                        for client in range(clients)]

    def go(self, client):
        for number in range(self.limit):
            if self.stopping.is_set():
                return
            try:
                self.done.append(self.step(f"{client}-{number}"))
            except Exception as error:  # a thread's own would be lost: whoever waits looks here
                self.errors.append(error)
                return

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *error):
        self.stopping.set()
        self.finish()

    def finish(self):
        """Wait until every client has ended."""
        wait_until(lambda: not any(client.is_alive() for client in self.clients),
                   "every client has ended", 30)

    def more(self, count):
        """Wait until so many more steps are done."""
        goal = len(self.done) + count
        wait_until(lambda: len(self.done) >= goal or self.errors, f"{count} steps are done", 20)
