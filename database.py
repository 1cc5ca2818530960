"""The database below models.py: opening it, one write transaction at a time, its schema's version.

What is particular to SQLite stands here and nowhere else.
"""
import fcntl
import json
import logging
import os
import sqlite3
import time
from contextlib import contextmanager

from peewee import (DatabaseError, DatabaseProxy, InterfaceError, Model, OperationalError,
                    SqliteDatabase, TextField)
from playhouse import db_url

from errors import Unusable

log = logging.getLogger("signalbox")

SCHEMA_VERSION = 1
APPLICATION_ID = 0x51674278  # "QgBx": SQLite's mark for whose file this is
BUSY_SECONDS = 5  # how long a writer waits for another program that holds the database

#: What a caller may try again later: the database is busy, full or out of reach.
UNAVAILABLE = (OperationalError, InterfaceError, Unusable)


class Sqlite(SqliteDatabase):
    """A SQLite file: WAL, a commit waits for the disk, writers queue in the order they came."""

    #: Result codes that waiting does not cure (https://sqlite.org/rescode.html).
    FATAL = {sqlite3.SQLITE_CANTOPEN: "cannot be opened",
             sqlite3.SQLITE_READONLY: "is not writable",
             sqlite3.SQLITE_PERM: "is not writable",
             sqlite3.SQLITE_NOTADB: "is not a database",
             sqlite3.SQLITE_CORRUPT: "is damaged; restore a backup"}

    ready = False

    def __init__(self, database, **options):
        if database == ":memory:":
            raise ValueError("a database in memory would forget every run; name a file")
        super().__init__(database, lock_type="IMMEDIATE", **{"timeout": BUSY_SECONDS, **options},
                         pragmas={"synchronous": "FULL", "foreign_keys": 1})

    @contextmanager
    def writing(self):
        """One write transaction; the writers of all processes wait for each other in a queue.

        SQLite's own busy handler polls with growing sleeps, which starves some writers under load.
        """
        with open(f"{self.database}-queue", "w") as queue:
            fcntl.flock(queue, fcntl.LOCK_EX)
            with self.atomic():
                yield

    def rollback(self):
        """Roll back, unless SQLite already did so by itself (as it does when the disk is full)."""
        if self.connection().in_transaction:
            super().rollback()

    def prepare(self, tables):
        """Make the file and its tables, or check that they are ours and not newer than the code."""
        folder = os.path.dirname(os.path.abspath(self.database))
        try:
            os.makedirs(folder, exist_ok=True)
            with open(f"{self.database}-queue", "w") as queue:
                fcntl.flock(queue, fcntl.LOCK_EX)
                self._check_owner()
                self._use_wal()
                with self.atomic():
                    self._bring_up_to_date(tables)
        except OSError as error:
            raise Unusable(f"{self.database}: {error.strerror}") from error
        except DatabaseError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # without the extended part
            if code in self.FATAL:
                raise Unusable(f"{self.database} {self.FATAL[code]}") from error
            raise
        finally:
            self.close()
        descriptor = os.open(folder, os.O_RDONLY)  # a new file's name must reach the disk as well
        os.fsync(descriptor)
        os.close(descriptor)
        self.ready = True

    def _check_owner(self):
        if self.application_id != APPLICATION_ID and self.get_tables():
            raise Unusable(f"{self.database} belongs to another application; name another file")
        if self.user_version > SCHEMA_VERSION:
            raise Unusable(f"{self.database} was written by a newer Signalbox; upgrade this one "
                           f"(schema {self.user_version}, known here: {SCHEMA_VERSION})")

    def _use_wal(self):
        """Switch to WAL; unlike every other statement, this one does not wait for a busy file."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                if self.pragma("journal_mode", "wal") == "wal":
                    return
                raise Unusable(f"{self.database}: its file system cannot hold a WAL; use another")
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _bring_up_to_date(self, tables):
        if self.user_version < SCHEMA_VERSION:
            self.create_tables(tables)
            self.application_id = APPLICATION_ID
            self.user_version = SCHEMA_VERSION


SCHEMES = {"sqlite": Sqlite}
database = DatabaseProxy()


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False
        only_save_dirty = True


class JSONText(TextField):
    """JSON kept as ASCII text. (Peewee's JSONField is `jsonb` on PostgreSQL, which refuses NUL.)"""

    def db_value(self, value):
        return None if value is None else json.dumps(value)

    def python_value(self, value):
        return None if value is None else json.loads(value)


def connect(url, tables):
    """Use the database that the URL names (as `playhouse.db_url` reads it).

    Raises ValueError when the URL cannot be used and Unusable when the database cannot; one that
    is only busy or away is tried again at the first request.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    database.initialize(SCHEMES[scheme](**db_url.parse(url)))
    try:
        database.prepare(tables)
    except (OperationalError, InterfaceError) as error:
        log.warning("database not ready, tried again at the next request: %s", error)
