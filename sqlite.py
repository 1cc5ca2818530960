"""All that is particular to SQLite: opening the file, its writers' queue, its backup."""
import fcntl
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from peewee import DatabaseError, OperationalError, SqliteDatabase

from errors import Unusable

APPLICATION_ID = 0x51674278  # "QgBx": SQLite's mark for whose file this is
BUSY_SECONDS = 2  # how long a writer waits for its turn, and then for another program
RETRY_SECONDS = 1  # how long nobody waits again once that was in vain
POLL_SECONDS = 0.00005


class Sqlite(SqliteDatabase):
    """A SQLite file: WAL, a commit waits for the disk, writers wait in a queue for each other."""

    #: Result codes that waiting does not cure (https://sqlite.org/rescode.html).
    FATAL = {sqlite3.SQLITE_CANTOPEN: "cannot be opened",
             sqlite3.SQLITE_READONLY: "is not writable",
             sqlite3.SQLITE_PERM: "is not writable",
             sqlite3.SQLITE_NOTADB: "is not a database",
             sqlite3.SQLITE_CORRUPT: "is damaged; restore a backup"}

    ready = False  # set by prepare(), before which nothing else may be asked
    held_until = 0

    def __init__(self, database, **options):
        if database == ":memory:":
            raise ValueError("a database in memory would forget every run; name a file")
        self.turn = threading.Lock()
        super().__init__(database, pragmas={"synchronous": "FULL", "foreign_keys": 1},
                         **{"timeout": BUSY_SECONDS, **options})

    @contextmanager
    def writing(self):
        """One write transaction; the writers of all processes wait for each other in a queue.

        SQLite's own busy handler polls with growing sleeps, which starves some writers under load.
        """
        with self.queue():
            self.begin()
            try:
                yield
                self.commit()
            except BaseException:
                self.rollback()
                raise

    @contextmanager
    def gently(self):
        """One write transaction of many: others get at least as much time as each of them takes.

        What it wrote is copied into the file after the queue is left, not by the commit. Purging
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

    @contextmanager
    def queue(self):
        """Wait for a turn among the threads of this process, then among the processes.

        After one long wait in vain everybody is refused at once for a while: otherwise each of
        them would wait as long, one after the other. A process that dies leaves the queue.
        """
        deadline = time.monotonic() + BUSY_SECONDS
        if time.monotonic() < self.held_until or not self.turn.acquire(timeout=BUSY_SECONDS):
            self.give_up()
        try:
            descriptor = os.open(f"{self.database}-queue", os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                while not locked(descriptor):
                    if time.monotonic() > deadline:
                        self.give_up()
                    time.sleep(POLL_SECONDS)
                yield
            finally:
                os.close(descriptor)
        finally:
            self.turn.release()

    def begin(self, lock_type="IMMEDIATE"):
        try:
            super().begin(lock_type)
        except OperationalError:
            self.held_until = time.monotonic() + RETRY_SECONDS
            raise

    def give_up(self):
        if time.monotonic() >= self.held_until:
            self.held_until = time.monotonic() + RETRY_SECONDS
        raise OperationalError("another program holds the database")

    def locking(self, query, mode):
        """The query as it is: the queue lets one writer in at a time."""
        return query

    def alone(self):
        """Nothing, for the same reason."""

    def insert(self, sql, values):
        """The number of the inserted row; None when a unique index ignored it."""
        cursor = self.execute_sql(sql, values)
        return cursor.lastrowid if cursor.rowcount == 1 else None

    def rollback(self):
        """Roll back, unless SQLite already did so by itself (as it does when the disk is full)."""
        if self.connection().in_transaction:
            super().rollback()

    def prepare(self):
        """Make the file and its tables, or check that they are ours and not newer than the code."""
        if self.ready:
            return
        file = Path(self.database).absolute()
        missing = [folder for folder in file.parents if not folder.exists()]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self.queue():
                self._check_owner()
                if self.pragma("journal_mode", "wal") != "wal":
                    raise Unusable(f"{file}: its file system cannot hold a WAL; use another")
                with self.atomic():
                    self._bring_up_to_date()
        except OSError as error:
            raise Unusable(f"{self.database}: {error.strerror}") from error
        except DatabaseError as error:
            cause = error
            while hasattr(cause, "orig"):  # Peewee wraps the driver's error once or twice
                cause = cause.orig
            code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # without the extended part
            if code in self.FATAL:
                raise Unusable(f"{self.database} {self.FATAL[code]}") from error
            raise
        finally:
            self.close()
        for made in [file, *missing]:  # a new name must reach the disk as well
            sync(made.parent)
        self.ready = True

    def size(self):
        """Bytes on the disk, the write-ahead log included."""
        files = (Path(self.database), Path(f"{self.database}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def is_missing(self):
        return not os.path.exists(self.database)

    def renumber(self):
        """Nothing: SQLite goes on from the highest number by itself."""

    def take_time(self):
        """Nothing: whoever has the file may keep it."""

    def backup(self, path):
        """Copy the database to a new file, as of now, while others go on. Raises Unusable."""
        if os.path.exists(path):
            raise Unusable(f"{path} exists already; name a new file")
        self.execute_sql("VACUUM INTO ?", (path,))
        sync(path)
        sync(Path(path).absolute().parent)

    def _check_owner(self):
        if self.application_id != APPLICATION_ID and self.get_tables():
            raise Unusable(f"{self.database} belongs to another application; name another file")
        if self.user_version > self.schema_version:
            raise Unusable(f"{self.database} was written by a newer Signalbox; upgrade this one "
                           f"(schema {self.user_version}, known here: {self.schema_version})")

    def _bring_up_to_date(self):
        if self.user_version < self.schema_version:
            with self.bind_ctx(self.tables):
                self.create_tables(self.tables)  # and what an older schema lacks
            self.application_id = APPLICATION_ID
            self.user_version = self.schema_version


def locked(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
