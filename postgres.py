"""All that is particular to PostgreSQL: sessions that may break, rows locked one by one."""
import time
from contextlib import contextmanager

from peewee import (ImproperlyConfigured, InterfaceError, OperationalError, PostgresqlDatabase,
                    ProgrammingError)

from errors import Unusable

BROKEN = (OperationalError, InterfaceError)
LOCK = 0x51674278  # the advisory lock of whoever makes or changes the tables
REPEATABLE_READ = 3  # Peewee's number for it
#: Nothing waits longer than this for the server, the network or somebody else's lock.
LIMITS = {"connect_timeout": 3, "tcp_user_timeout": 8000}
OPTIONS = "-c lock_timeout=2s -c statement_timeout=4s -c idle_in_transaction_session_timeout=5s"
ANSWER_SECONDS = 5  # a server that does not hang has ended every statement before
RETRY_SECONDS = 1  # how long nobody connects again once that was in vain
CHANGED = ("42P01", "42501")  # undefined table, insufficient privilege


class Postgres(PostgresqlDatabase):
    """A PostgreSQL database: one session a thread, made anew when it broke."""

    ready = False  # set by prepare(), before which nothing else may be asked
    patience, silent_until = ANSWER_SECONDS, 0

    def __init__(self, database, options="", **others):
        super().__init__(database, prefer_psycopg3=True, options=f"{OPTIONS} {options}",
                         **{**LIMITS, **others})

    def take_time(self):
        """Let sessions made from now on last as long as copying a whole database may take."""
        self.connect_params["options"] += (
            " -c statement_timeout=0 -c idle_in_transaction_session_timeout=0")
        self.patience = 600

    def _connect(self):
        """A session that is closed when no answer comes in time.

        The kernel of a server that hangs acknowledges what is sent: no limit of TCP ends the wait.
        """
        if time.monotonic() < self.silent_until:
            raise OperationalError("the server did not answer a moment ago")
        with self.answering(2):
            session = super()._connect()
        wait = session.wait

        def wait_in_time(generator, *args, **kwargs):
            with self.answering(self.patience, session.close):
                return wait(generator, timeout=self.patience)

        session.wait = wait_in_time
        return session

    @contextmanager
    def answering(self, seconds, give_up=lambda: None):
        """When the block fails after so long, new sessions are refused at once for a while.

        Peewee makes them one at a time: each would wait as long, one after the other.
        """
        began = time.monotonic()
        try:
            yield
        except BaseException:
            if time.monotonic() - began >= seconds:
                self.silent_until = time.monotonic() + RETRY_SECONDS
                give_up()
            raise

    @contextmanager
    def writing(self):
        """One write transaction; whoever changes a run locks its row first."""
        with self.transaction_or_new_session(self.atomic()):
            yield

    gently = writing  # rows are locked one by one: nobody waits for a purge

    @contextmanager
    def snapshot(self):
        """Several reads that see the same state."""
        with self.transaction_or_new_session(self.atomic(REPEATABLE_READ)):
            yield

    @contextmanager
    def transaction_or_new_session(self, transaction):
        try:
            with unchanged(), transaction:
                yield
        except BROKEN:
            self.drop_broken_session()
            raise

    def begin(self, isolation_level=None):
        try:
            super().begin(isolation_level)
        except BROKEN:
            if not self.drop_broken_session():
                raise
            super().begin(isolation_level)  # the session broke while it was idle

    def rollback(self):
        try:
            super().rollback()
        except BROKEN:
            pass  # the session is gone, and the server has rolled it back

    def execute_sql(self, sql, params=None):
        with unchanged():
            try:
                return super().execute_sql(sql, params)
            except BROKEN:
                if self.in_transaction() or not self.drop_broken_session():
                    raise
                return super().execute_sql(sql, params)  # as in begin()

    def drop_broken_session(self):
        """Forget this thread's session if it can no longer be used; say whether that was so."""
        if self.is_closed() or self.is_connection_usable():
            return False
        self.connection().close()
        self.dispose()
        return True

    def locking(self, query, mode):
        """The query, locking the rows that it finds: FOR UPDATE or FOR SHARE."""
        return query.for_update(mode)

    def alone(self):
        """Wait until nobody else makes tables or applies definitions, and keep others waiting."""
        self.execute_sql("SELECT pg_advisory_xact_lock(%s)", (LOCK,))

    def insert(self, sql, values):
        """The number of the inserted row; None when a unique index ignored it."""
        row = self.execute_sql(sql, values).fetchone()
        return row and row[0]

    def prepare(self):
        """Make the tables, or check that they are ours and not newer than the code."""
        if self.ready:
            return
        try:
            with self.writing():
                encoding = self.execute_sql("SHOW server_encoding").fetchone()[0]
                if encoding != "UTF8":
                    raise Unusable(f"the PostgreSQL database is encoded in {encoding}, which does "
                                   "not hold every text; make one in UTF8")
                self.alone()
                if not self.execute_sql("SELECT to_regclass('signalbox_schema')").fetchone()[0]:
                    self.execute_sql("CREATE TABLE signalbox_schema (version integer NOT NULL)")
                self._bring_up_to_date(self.execute_sql(
                    "SELECT version FROM signalbox_schema").fetchone())
        except ImproperlyConfigured as error:
            raise Unusable(
                "psycopg is missing: pip install -r requirements-postgres.txt") from error
        except ProgrammingError as error:
            raise Unusable("DATABASE_URL: PostgreSQL refuses to open the database or to make its "
                           f"tables: {error}") from error
        finally:
            self.close()  # a session must not be shared with the processes forked later
        self.ready = True

    def _bring_up_to_date(self, row):
        version = row[0] if row else 0
        if version > self.schema_version:
            raise Unusable("the PostgreSQL database was written by a newer Signalbox; upgrade this "
                           f"one (schema {version}, known here: {self.schema_version})")
        taken = {table._meta.table_name for table in self.tables} & set(self.get_tables())
        if not version and taken:
            raise Unusable(f"the PostgreSQL database has a table {min(taken)} of another "
                           "application; name another database")
        if version < self.schema_version:
            with self.bind_ctx(self.tables):
                self.create_tables(self.tables)
            self.execute_sql("DELETE FROM signalbox_schema")
            self.execute_sql("INSERT INTO signalbox_schema VALUES (%s)", (self.schema_version,))

    def size(self):
        """Bytes on the server's disk."""
        return self.execute_sql("SELECT pg_database_size(current_database())").fetchone()[0]

    def is_missing(self):
        return False  # the server says so when it is asked

    def renumber(self):
        """Let new rows be numbered after those that were copied."""
        self.execute_sql(
            "SELECT setval(pg_get_serial_sequence('workflow', 'id'), max(id)) FROM workflow")
        self.execute_sql("SELECT setval(pg_get_serial_sequence('workflow_run', 'number'), "
                         "max(number)) FROM workflow_run")

    def backup(self, path):
        raise Unusable("this database is PostgreSQL: use pg_dump, or its own backups")


@contextmanager
def unchanged():
    """Refuse for now when somebody has taken our tables away, or our rights."""
    try:
        yield
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) not in CHANGED:
            raise
        raise Unusable(f"the PostgreSQL database cannot be used: {error.orig.diag.message_primary};"
                       " give the user of DATABASE_URL its tables and rights") from error
