"""A PostgreSQL server for the tests: in a temporary folder, on a socket, without root."""
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager

import psycopg


class Server:
    """A server that `initdb` made in `folder` and `pg_ctl` starts and stops."""

    def __init__(self, folder, programs, user):
        self.folder, self.programs, self.user = folder, programs, user
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

    def url(self, name="postgres"):
        return f"postgresql:///{name}?host={self.folder}&user=signalbox"

    def connect(self):
        return psycopg.connect(host=self.folder, user="signalbox", dbname="postgres",
                               autocommit=True)

    def empty(self):
        """The URL of the database, without rows."""
        with self.connect() as session:
            if session.execute("SELECT to_regclass('workflow_run')").fetchone()[0]:
                session.execute("TRUNCATE workflow, workflow_run CASCADE")
        return self.url()


@contextmanager
def running(*options):
    """A started server, or None where its programs are missing."""
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
        server.start("-F", *options)
        try:
            yield server
        finally:
            server.stop("immediate")
