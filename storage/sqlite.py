"""All that is particular to SQLite: opening the file, one writer at a time, its backup."""
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from peewee import DatabaseError, OperationalError, SqliteDatabase

from runs.refusals import Unusable
from storage.schema import Schema

APPLICATION_ID = 0x51674278  # "QgBx": SQLite's mark for whose file this is
BUSY_SECONDS = 5  # how long another program may hold the file; our own take far less a turn
QUEUE_SECONDS = 20  # how long a thread waits for the others of its process: below nginx's 25
RETRY_SECONDS, HURRY_SECONDS = 1, 0.1  # once that was in vain: for so long, nobody waits longer
POLL_SECONDS = 0.00005
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)
#: Result codes that waiting does not cure (https://sqlite.org/rescode.html).
FATAL = {sqlite3.SQLITE_CANTOPEN: "cannot be opened",
         sqlite3.SQLITE_READONLY: "is not writable",
         sqlite3.SQLITE_PERM: "is not writable",
         sqlite3.SQLITE_NOTADB: "is not a database",
         sqlite3.SQLITE_CORRUPT: "is damaged; restore a backup"}


class Sqlite(Schema, SqliteDatabase):
    """A SQLite file: WAL, a commit waits for the disk, one writer at a time.

    Threads wait for their turn at a lock; whose turn it is asks SQLite again and again, as do the
    other processes. SQLite's own waiting sleeps longer and longer, and starves some writers.
    """

    ready = False  # set by prepare(), before which nothing else may be asked
    hurry_until = 0

    def __init__(self, database, unhurried=False, **options):
        if database == ":memory:":
            raise ValueError("a database in memory would forget every run; name a file")
        self.turn = threading.Lock()
        super().__init__(database, pragmas={"synchronous": "FULL", "foreign_keys": 1},
                         **{**options, "timeout": 0})

    @contextmanager
    def writing(self):
        """One write transaction."""
        if not self.turn.acquire(timeout=QUEUE_SECONDS):
            raise OperationalError("the disk is too slow for the requests that wait to be stored")
        try:
            self.begin("IMMEDIATE")
            try:
                yield
                self.commit()
            except BaseException:
                self.rollback()
                raise
        finally:
            self.turn.release()

    @contextmanager
    def in_batches(self):
        """One write transaction of many: others get at least as much time as each of them takes.

        What it wrote is copied into the file after the writer's turn, not by the commit. Purging
        so made the service's p99 1.5 times as long; without, 17 to 61 times.
        """
        self.pragma("wal_autocheckpoint", 0)
        with self.writing():
            began = time.monotonic()
            yield
        self.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        time.sleep(time.monotonic() - began)

    @contextmanager
    def snapshot(self):
        """Several reads that see the same state."""
        with self.atomic("DEFERRED"):
            yield

    def begin(self, lock_type=None):
        self.ask(super().begin, lock_type)

    def execute_sql(self, sql, params=None):
        return self.ask(super().execute_sql, sql, params)

    def ask(self, question, *args):
        """The answer, asked for again while another connection holds the file.

        After one long wait in vain nobody waits long for a while: otherwise each of them would,
        one after the other.
        """
        began = None
        while True:
            try:
                return question(*args)
            except OperationalError as error:
                if result_code(error) not in BUSY:
                    raise
                now = time.monotonic()
                began = began or now
                if now - began >= (BUSY_SECONDS if now > self.hurry_until else HURRY_SECONDS):
                    self.hurry_until = now + RETRY_SECONDS
                    raise OperationalError("another program holds the database") from error
            time.sleep(POLL_SECONDS)

    def rollback(self):
        """Roll back, unless SQLite already did so by itself (as it does when the disk is full)."""
        if self.connection().in_transaction:
            super().rollback()

    def locking(self, query, mode):
        """The query as it is: there is one writer at a time."""
        return query

    def exclusive(self):
        """Nothing, for the same reason."""

    def insert(self, sql, values):
        """The number of the inserted row; None when a unique index ignored it."""
        cursor = self.execute_sql(sql, values)
        return cursor.lastrowid if cursor.rowcount == 1 else None

    def prepare(self):
        """Make the file and its tables, or check that they are ours and not newer than the code."""
        if self.ready:
            return
        file = Path(self.database).absolute()
        missing = [folder for folder in file.parents if not folder.exists()]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self.snapshot():
                is_foreign = self.application_id != APPLICATION_ID and self.get_tables()
            if is_foreign:
                raise Unusable(f"{self.database} belongs to another application; "
                               "name another file")
            if self.user_version <= self.newest_version:
                if self.pragma("journal_mode", "wal") != "wal":
                    raise Unusable(f"{file}: its file system cannot hold a WAL; use another")
            self.bring_up_to_date(self.database)
        except OSError as error:
            raise Unusable(f"{self.database}: {error.strerror}") from error
        except DatabaseError as error:
            if reason := FATAL.get(result_code(error) & 0xFF):  # without the extended part
                raise Unusable(f"{self.database} {reason}") from error
            raise
        finally:
            self.close()
        for made in [file, *missing]:  # a new name must reach the disk as well
            sync(made.parent)
        self.ready = True

    def stored_version(self):
        return self.user_version

    def store_version(self, version):
        self.application_id, self.user_version = APPLICATION_ID, version

    def size(self):
        """Bytes on the disk, the write-ahead log included."""
        files = (Path(self.database), Path(f"{self.database}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def is_missing(self):
        return not os.path.exists(self.database)

    def renumber(self):
        """Nothing: SQLite goes on from the highest number by itself."""

    def backup(self, path):
        """Copy the database to a new file, as of now, while others go on. Raises Unusable."""
        if os.path.exists(path):
            raise Unusable(f"{path} exists already; name a new file")
        self.execute_sql("VACUUM INTO ?", (path,))
        sync(path)
        sync(Path(path).absolute().parent)


def result_code(error):
    """SQLite's result code for the error; Peewee wraps the driver's once or twice."""
    while hasattr(error, "orig"):
        error = error.orig
    return getattr(error, "sqlite_errorcode", 0)


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
