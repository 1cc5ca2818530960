"""The steps from one version of the schema to the next, on either database."""
from peewee import SQL, Entity, Field, NodeList

from runs.refusals import Unusable


class Schema:
    """What a database knows of its tables: `tables`, `steps` and `newest_version` are given to it;
    stored_version() (0: there are no tables) and store_version() are its own."""

    def discard(self):
        """Remove what prepare() made, if it is a file."""

    def add(self, *parts):
        """Add columns, as the fields of a table say, and indexes: a step."""
        for part in parts:
            if isinstance(part, Field):
                part = NodeList((SQL("ALTER TABLE"), Entity(part.model._meta.table_name),
                                 SQL("ADD COLUMN"), part.ddl(self.get_sql_context())))
            self.execute(part)

    def bring_up_to_date(self, name):
        """Make the tables, or do the steps that are missing, each in a transaction of its own.

        Raises Unusable for a database that a newer version of the service has written.
        """
        while True:
            with self.snapshot():
                version = self.stored_version()
            if version == self.newest_version:
                return
            if version > self.newest_version:
                raise Unusable(f"{name} was written by a newer Signalbox; upgrade this one (schema "
                               f"{version}, known here: {self.newest_version})")
            with self.writing(), self.bind_ctx(self.tables):
                self.exclusive()
                if self.stored_version() != version:
                    continue  # another process was faster
                if version:
                    self.steps[version - 1](self)
                    self.store_version(version + 1)
                else:
                    self.create_tables(self.tables)
                    self.store_version(self.newest_version)


def code_of(error):
    """SQLite's result code for the error, without its extended part, or PostgreSQL's SQLSTATE; 0
    without one. Peewee wraps the driver's errors, once or twice."""
    while hasattr(error, "orig"):
        error = error.orig
    return getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorcode", 0) & 0xFF
