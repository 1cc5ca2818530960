"""The seam between models.py and the databases: sqlite.py (the default) and postgres.py.

Each of the two has: prepare(), writing(), gently(), snapshot(), locking(), alone(), insert(),
size(), backup(), is_missing(), renumber(), take_time().
"""
import contextlib

import peewee
from peewee import (DatabaseProxy, InterfaceError, InternalError, Model, OperationalError,
                    Tuple)
from playhouse import db_url

from errors import Unusable
from postgres import Postgres
from sqlite import Sqlite

SCHEMA_VERSION = 2
BATCH = 100  # rows that are copied at a time
SCHEMES = {"sqlite": Sqlite, "postgresql": Postgres}
#: What a caller may try again later: the database is busy, full or out of reach.
UNAVAILABLE = (OperationalError, InterfaceError, InternalError, Unusable)
database = DatabaseProxy()


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False

    @classmethod
    def made(cls, values):
        """An instance with these values by name, as a row of the table gives them."""
        instance = cls(__no_default__=True)
        instance.__data__.update(values)
        return instance


class Statement:
    """A frequent statement: Peewee builds its SQL once, it runs with new values in their order.

    Building takes Peewee some ten times as long as running takes SQLite.
    """

    def __init__(self, build):
        self.build, self.built_for = build, None

    def built(self):
        if self.built_for is not database.obj:
            query = self.build()
            self.sql, self.model = query.sql()[0], query.model
            self.names = [field.name for field in query.model._meta.sorted_fields]
            self.built_for = database.obj
        return self.sql

    def run(self, *values):
        return database.execute_sql(self.built(), values)

    def run_many(self, rows):
        with peewee.__exception_wrapper__:
            database.cursor().executemany(self.built(), rows)

    def fetch(self, *values):
        """The selected rows, all their columns, as instances of the model."""
        with peewee.__exception_wrapper__:
            rows = self.run(*values).fetchall()
        return [self.model.made(zip(self.names, row)) for row in rows]


def make_ready():
    """Make or check the tables of the database in use, unless it is only busy or away.

    Whoever needs it tries again, and says what is wrong. Raises Unusable.
    """
    with contextlib.suppress(OperationalError, InterfaceError):
        database.prepare()


def engine(url, tables):
    """The database that the URL names, not opened yet. Raises ValueError."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    try:
        options = db_url.parse(url, unquote_password=True, unquote_user=True)
    except ValueError as error:  # whose words may quote a password
        raise ValueError("its host or port cannot be read") from error
    made = SCHEMES[scheme](**options)
    made.tables, made.schema_version = tables, SCHEMA_VERSION
    return made


def copy(source, target):
    """Copy every row of one engine's tables into the other's empty ones, all or nothing.

    Yields (table, how many rows so far) after each batch. Raises Unusable.
    """
    if source.is_missing():
        raise Unusable(f"there is no database {source.database}")
    for engine in (source, target):
        engine.take_time()
        engine.prepare()
    with source.snapshot(), target.writing():
        target.alone()
        if any(table.select().bind(target).exists() for table in target.tables):
            raise Unusable("the target is not empty; name a new database")
        for table in source.tables:
            done = 0
            insert = table.insert(dict.fromkeys(table._meta.sorted_fields)).bind(target).sql()[0]
            for batch in batches(table, source):
                with peewee.__exception_wrapper__:
                    target.cursor().executemany(insert, batch)
                done += len(batch)
                yield table._meta.table_name, done
        target.renumber()


def batches(table, source):
    """All rows of the table in the order of their keys, a few at a time: they may be large."""
    key = table._meta.get_primary_keys()
    names = [field.name for field in table._meta.sorted_fields]
    query = table.select().order_by(*key).limit(BATCH).tuples().bind(source)
    batch = list(query)
    while batch:
        yield batch
        last = [batch[-1][names.index(field.name)] for field in key]
        batch = list(query.where(Tuple(*key) > Tuple(*last)))
