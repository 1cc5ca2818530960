"""A PostgreSQL server for the tests: in a temporary folder, on a socket, without root."""
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from functools import cached_property

import psycopg

from server import stat

MISSING = "no PostgreSQL programs here (Debian: apt install postgresql)"


class Server:
    """A server that `initdb` made in `folder` and `pg_ctl` starts and stops."""

    def __init__(self, folder, programs, user):
        self.folder, self.programs, self.user = folder, programs, user
        self.numbers = itertools.count(1)
        self.run("initdb", "-D", f"{folder}/data", "-U", "signalbox", "-A", "trust", "-E", "UTF8",
                 "--no-sync")

    def run(self, program, *args):
        subprocess.run([f"{self.programs}/{program}", *args], user=self.user, cwd=self.folder,
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=60)

    def start(self, *options):
        """Start it; options as of `postgres`, such as "-c", "max_connections=10"."""
        text = " ".join(["-k", self.folder, "-c", "listen_addresses=''", *options])
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w",
                 "-o", text, "start")

    def stop(self, mode="fast"):
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def is_running(self):
        return os.path.exists(f"{self.folder}/data/postmaster.pid")

    @contextmanager
    def away(self, mode="fast"):
        """It is stopped within the block, which may start it earlier."""
        self.stop(mode)
        try:
            yield
        finally:
            if not self.is_running():
                self.start()

    @contextmanager
    def hanging(self):
        """All its processes are stopped within the block, while their kernel goes on."""
        with open(f"{self.folder}/data/postmaster.pid") as file:
            first = int(file.readline())
        os.kill(first, signal.SIGSTOP)  # it starts no more of them
        pids = [first, *(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                         if (stat(pid) or [0])[0] == first)]
        try:
            self.send(signal.SIGSTOP, pids)
            yield
        finally:
            self.send(signal.SIGCONT, pids)

    def send(self, number, pids):
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, number)

    @contextmanager
    def started_with(self, *options):
        """It runs with other options within the block."""
        self.stop()
        try:
            self.start(*options)
            yield
        finally:
            if self.is_running():
                self.stop()
            self.start()

    def url(self, name="postgres", user="signalbox"):
        return f"postgresql:///{name}?host={self.folder}&user={user}"

    def connect(self, name="postgres"):
        return psycopg.connect(host=self.folder, user="signalbox", dbname=name, autocommit=True)

    def empty(self):
        """The URL of the database, without rows."""
        session = self.session  # kept, and no TRUNCATE: both took longer than most tests
        if session.execute("SELECT to_regclass('workflow_run')").fetchone()[0]:
            session.execute("DELETE FROM workflow_run")
            session.execute("DELETE FROM workflow")
        return self.url()

    @cached_property
    def session(self):
        return self.connect()

    def new(self, options=""):
        """The name of a new database; options as of CREATE DATABASE."""
        name = f"signalbox_{next(self.numbers)}"
        with self.connect() as session:
            session.execute(f"CREATE DATABASE {name} {options}")
        return name


@contextmanager
def running(*options, durable=False):
    """A started server, or None where its programs are missing; a durable one syncs its disk."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    program = found[-1] if found else shutil.which("initdb")
    if program is None:
        yield None
        return
    user = "postgres" if os.geteuid() == 0 else None  # a server refuses to run as root
    with tempfile.TemporaryDirectory(prefix="signalbox-") as folder:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        server = Server(folder, os.path.dirname(program), user)
        server.start(*([] if durable else ["-F"]), *options)
        try:
            yield server
        finally:
            if server.is_running():
                server.stop("immediate")
