"""The seam between models.py and the databases: sqlite.py (the default) and postgres.py.

Each of the two has: writing(), in_batches(), snapshot(), size(), is_missing(), backup(), how it is
made ready and how it stores the schema's version; schema.py has the rest.
"""
import sqlite3
from contextvars import ContextVar

from peewee import DatabaseError, DatabaseProxy, InternalError, Model, Value
from playhouse import db_url

from runs.refusals import Unusable, one_line
from storage.postgres import UNREACHABLE, Postgres
from storage.schema import code_of
from storage.sqlite import Sqlite

SCHEMES = {"sqlite": Sqlite, "postgresql": Postgres}
#: What a caller may try again later: the database is busy, full or out of reach.
AWAY = (*UNREACHABLE, InternalError, sqlite3.OperationalError)
BROKEN = (*AWAY, Unusable, DatabaseError, sqlite3.Error)  # what ends a command with one line
#: What stands behind an error, by SQLite's result code or PostgreSQL's SQLSTATE.
CAUSES = {sqlite3.SQLITE_FULL: "the disk is full", "53100": "the disk is full",
          sqlite3.SQLITE_IOERR: "the disk cannot be written",
          sqlite3.SQLITE_CORRUPT: "the database is damaged; restore a backup",
          "55P03": "another program holds the database", "57014": "PostgreSQL is too slow",
          "25006": "PostgreSQL takes no writes"}


class Current(DatabaseProxy):
    """The database of the application that works in this thread now, or worked last."""
    used = ContextVar("used", default=None)

    @property
    def obj(self):
        return self.used.get()

    def initialize(self, opened):
        self.used.set(opened)


database = Current()


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False

    @classmethod
    def from_row(cls, values):
        """An instance with these values by name, as a row of the table gives them."""
        instance = cls(__no_default__=True)
        instance.__data__.update(values)
        return instance

    @classmethod
    def new(cls, values):
        """As from_row(), for a row that is not stored yet; the other columns are null."""
        return cls.from_row(dict.fromkeys(cls._meta.sorted_field_names) | values)


def parameter(name):
    """The place in a Statement that takes the value of this name."""
    return Value(name, converter=False)


class Statement:
    """A frequent statement: Peewee builds its SQL once, it runs with new values by their names.

    Building takes Peewee some ten times as long as running takes SQLite.
    """

    def __init__(self, build):
        self.build, self.built = build, {}

    def run(self, values):
        """Execute it with the values of its parameters, a mapping; the cursor."""
        opened = database.obj
        kind = type(opened)
        if kind not in self.built:
            query = self.build()
            self.model = query.model
            self.columns = query.model._meta.sorted_field_names
            self.built[kind] = query.sql()
        sql, parameters = self.built[kind]
        return opened.execute_sql(sql, [values[name] for name in parameters])

    def insert(self, values):
        """Execute it; the number of the inserted row, or None when a unique index ignored it."""
        cursor = self.run(values)
        if cursor.rowcount == 1:
            return cursor.fetchone()[0] if database.obj.returning_clause else cursor.lastrowid

    def fetch(self, **values):
        """The selected rows, all their columns, as instances of the model."""
        rows = self.run(values).fetchall()
        return [self.model.from_row(zip(self.columns, row)) for row in rows]


def open_database(url, tables, steps, **options):
    """The database that the URL names, not connected yet. Raises ValueError.

    `steps` brings older ones up to date: step number n makes of version n one of version n + 1.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    try:
        parts = db_url.parse(url, unquote_password=True, unquote_user=True)
    except ValueError as error:  # whose words may quote a password
        raise ValueError("its host or port cannot be read") from error
    opened = SCHEMES[scheme](**parts, **options)
    opened.tables, opened.steps, opened.newest_version = tables, steps, len(steps) + 1
    return opened


def why(error):
    """What keeps the database from being used, for the log and whoever types a command."""
    said = one_line(error)
    if cause := CAUSES.get(code_of(error)):
        return f"{cause}: {said}"
    is_away = isinstance(database.obj, Postgres) and isinstance(error, UNREACHABLE)
    return f"PostgreSQL is away: {said}" if is_away and hasattr(error, "orig") else said
