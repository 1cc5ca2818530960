"""What the two kinds of database share: how they are opened, and how their schema changes."""
import threading

from peewee import SQL, Entity, Field, NodeList

from runs.refusals import Unusable


class Schema:
    """What a database knows of its tables: `tables`, `steps` and `newest_version` are given to it;
    make_ready(), stored_version() (0: there are no tables) and store_version() are its own."""

    ready = False  # set by prepare(), before which nothing else may be asked
    preparing = threading.Lock()
    file = None  # which file it is, once it is ready, if it is one

    def prepare(self):
        """Make the tables, or check that they are ours and not newer than the code.

        Raises Unusable.
        """
        if self.ready:
            return
        with self.preparing:
            try:
                if not self.ready:  # another thread was faster
                    self.make_ready()
            finally:
                self.close()  # a session must not be shared with the processes forked later
            self.ready = True

    def discard(self):
        """Remove what prepare() made, if it is a file."""

    def exclusive(self):
        """Wait until nobody else makes tables or applies definitions, and keep others waiting; all
        writers of SQLite do."""

    def locking(self, query, mode):
        """The query, locking the rows that it finds, FOR UPDATE or FOR SHARE, where that is known:
        SQLite has one writer at a time."""
        return query.for_update(mode) if self.for_update else query

    def renumber(self):
        """Let new rows be numbered after those that were copied, as SQLite does by itself."""

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
