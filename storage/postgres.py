"""All that is particular to PostgreSQL: sessions that may break, rows locked one by one."""
import threading
import time

from peewee import (ImproperlyConfigured, InterfaceError, OperationalError, PostgresqlDatabase,
                    ProgrammingError)

from runs.refusals import Unusable, one_line
from storage.schema import Schema, code_of

UNREACHABLE = (OperationalError, InterfaceError)
LOCK = 0x51674278  # the advisory lock of whoever makes or changes the tables
#: Nothing waits longer than this for the server, the network or somebody else's lock.
LIMITS = {"connect_timeout": 3, "tcp_user_timeout": 8000}
OPTIONS = "-c lock_timeout=2s -c statement_timeout=4s -c idle_in_transaction_session_timeout=5s"
UNHURRIED = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
#: What psycopg and Peewee would take from a URL besides, and not as text.
DRIVERS_OWN = {"autocommit", "context", "cursor_factory", "isolation_level", "prepare_threshold",
               "row_factory"}
RETRY_SECONDS = 1  # how long nobody connects again once that was in vain
CHANGED = ("42P01", "42501")  # undefined table, insufficient privilege


class Postgres(Schema, PostgresqlDatabase):
    """A PostgreSQL database: one session a thread, made anew when it broke.

    `unhurried`: its statements may last as long as copying a whole database takes.
    """

    silent_until = 0

    def __init__(self, database, options="", unhurried=False, **others):
        if own := others.keys() & DRIVERS_OWN:
            raise ValueError(f"its option {min(own)} is none of PostgreSQL's")
        self.connecting = threading.Lock()
        options = f"{OPTIONS} {options} {UNHURRIED if unhurried else ''}"
        super().__init__(database, prefer_psycopg3=True, options=options, **{**LIMITS, **others})

    def connect(self):
        """Open a session. When no answer came in time, nobody tries for a while: sessions are made
        one at a time, and each would wait as long, one after the other."""
        with self.connecting:
            began = time.monotonic()
            if began < self.silent_until:
                raise OperationalError("PostgreSQL is away: it did not answer a moment ago")
            try:
                super().connect()
            except OperationalError:
                if time.monotonic() - began >= LIMITS["connect_timeout"]:
                    self.silent_until = time.monotonic() + RETRY_SECONDS
                raise

    def writing(self):
        """One write transaction; whoever changes a run locks its row first."""
        return self.atomic()

    in_batches = writing  # rows are locked one by one: nobody waits for a purge

    def snapshot(self):
        """Several reads that see the same state."""
        return self.atomic("REPEATABLE READ")

    def begin(self, isolation_level=None):
        self.ask(super().begin, isolation_level)

    def rollback(self):
        try:
            super().rollback()
        except UNREACHABLE:
            self.close()  # the session is gone, and the server has rolled it back

    def execute_sql(self, sql, params=None):
        """The cursor. Raises Unusable when somebody has taken our tables away, or our rights."""
        try:
            return self.ask(super().execute_sql, sql, params)
        except ProgrammingError as error:
            if code_of(error) not in CHANGED:
                raise
            raise Unusable(
                f"the PostgreSQL database cannot be used: {error.orig.diag.message_primary}; give "
                "the user of DATABASE_URL its tables and rights") from error

    def ask(self, question, *args):
        """The answer; asked again on a new session when this one broke while it was idle."""
        try:
            return question(*args)
        except UNREACHABLE:
            if self.in_transaction() or self.is_closed() or self.is_connection_usable():
                raise
            self.close()
            return question(*args)

    def exclusive(self):
        self.execute_sql("SELECT pg_advisory_xact_lock(%s)", (LOCK,))

    def make_ready(self):
        try:
            encoding = self.execute_sql("SHOW server_encoding").fetchone()[0]
            if encoding != "UTF8":
                raise Unusable(f"the PostgreSQL database is encoded in {encoding}, which does "
                               "not hold every text; make one in UTF8")
            self.bring_up_to_date("the PostgreSQL database")
        except ImproperlyConfigured as error:
            raise Unusable(
                "psycopg is missing: pip install -r requirements-postgres.txt") from error
        except ProgrammingError as error:
            raise Unusable("DATABASE_URL: PostgreSQL refuses to open the database or to make its "
                           f"tables: {one_line(error)}") from error

    def stored_version(self):
        tables = {name for name, in self.execute_sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = ANY(current_schemas(false))")}
        if "signalbox_schema" in tables:
            row = self.execute_sql("SELECT version FROM signalbox_schema").fetchone()
            return row[0] if row else 0
        if taken := tables & {table._meta.table_name for table in self.tables}:
            raise Unusable(f"the PostgreSQL database has a table {min(taken)} of another "
                           "application; name another database")
        return 0

    def store_version(self, version):
        self.execute_sql("CREATE TABLE IF NOT EXISTS signalbox_schema (version integer NOT NULL)")
        self.execute_sql("DELETE FROM signalbox_schema")
        self.execute_sql("INSERT INTO signalbox_schema VALUES (%s)", (version,))

    def size(self):
        """Bytes on the server's disk."""
        return self.execute_sql("SELECT pg_database_size(current_database())").fetchone()[0]

    def is_missing(self):
        return False  # the server says so when it is asked

    def renumber(self):
        self.execute_sql(
            "SELECT setval(pg_get_serial_sequence('workflow', 'id'), max(id)) FROM workflow")
        self.execute_sql("SELECT setval(pg_get_serial_sequence('workflow_run', 'number'), "
                         "max(number)) FROM workflow_run")

    def backup(self, path):
        raise Unusable("this database is PostgreSQL: use pg_dump, or its own backups")
