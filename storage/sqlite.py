"""All that is particular to SQLite: opening the file, one writer at a time, its backup."""
import atexit
import os
import shutil
import sqlite3
import stat
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from peewee import DatabaseError, OperationalError, SqliteDatabase

from runs.refusals import Unusable
from storage.schema import Schema, code_of

APPLICATION_ID = 0x51674278  # "QgBx": SQLite's mark for whose file this is
BUSY_SECONDS = 5  # how long another program may hold the file; our own take far less a turn
QUEUE_SECONDS = 20  # how long a thread waits for the others of its process: below nginx's 25
RETRY_SECONDS, HURRY_SECONDS = 1, 0.05  # once that was in vain: for so long, nobody waits longer
CHECKPOINT_PAGES = 4000  # 16 MB; at SQLite's own 1000 pages a start took 2.5 % longer
POLL_SECONDS, SLOW_SECONDS = 0.000001, 0.01
#: Result codes that waiting does not cure (https://sqlite.org/rescode.html).
FATAL = {sqlite3.SQLITE_CANTOPEN: "cannot be opened",
         sqlite3.SQLITE_READONLY: "is not writable",
         sqlite3.SQLITE_PERM: "is not writable",
         sqlite3.SQLITE_NOTADB: "is not a database",
         sqlite3.SQLITE_CORRUPT: "is damaged; restore a backup"}

# Of what is bound to a statement the driver looks for an adapter, and when there is none for more:
# that took three times as long for a null as all else that binding it takes.
sqlite3.register_adapter(type(None), lambda null: null)
sqlite3.register_adapter(bool, int)


class Sqlite(Schema, SqliteDatabase):
    """A SQLite file: WAL, a commit waits for the disk, one writer at a time.

    Threads wait for their turn at a lock; whose turn it is asks SQLite again and again, as do the
    other processes. SQLite's own waiting sleeps longer and longer, and starves some writers.
    """

    is_new = False  # whether prepare() made the file
    replaced = False
    hurry_until = 0
    first = wal = None  # the process's first connection, and which WAL it uses

    def __init__(self, database, unhurried=False, **options):
        if database == ":memory:":
            raise ValueError("a database in memory would forget every run; name a file")
        sqlite3.connect(":memory:", **options).close()  # raises TypeError for a wrong option
        self.turn = threading.Lock()
        super().__init__(database, pragmas={
            "synchronous": "FULL", "foreign_keys": 1, "wal_autocheckpoint": CHECKPOINT_PAGES},
            **{**options, "timeout": 0})

    @contextmanager
    def writing(self):
        """One write transaction."""
        if not self.turn.acquire(timeout=QUEUE_SECONDS):
            raise OperationalError("the disk is too slow for the requests that wait to be stored")
        try:
            self.execute_sql("BEGIN IMMEDIATE")
            self.hurry_until, began = 0, time.monotonic()
            try:
                yield
                self.execute_sql("COMMIT")
            except BaseException:
                self.connection().rollback()  # if SQLite did not itself, as on a full disk
                raise
            held = time.monotonic() - began
            if held > SLOW_SECONDS:  # the other processes would hardly ever find the file free
                time.sleep(held / 20)
        finally:
            self.turn.release()
        self.check_it_is_the_same()  # or what is answered with 200 would be gone

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
        self.check_it_is_the_same()
        self.execute_sql("BEGIN")
        try:
            yield
        finally:
            self.connection().rollback()

    def connect(self):
        """Open a connection. The first one of a process stays open, and with it the WAL that all
        of them use."""
        self.check_it_is_the_same()  # or SQLite would make a file where one was taken away
        super().connect()
        if self.ready and not self.wal:
            self.first, self.wal = self.connection(), identity(f"{self.database}-wal")

    def close(self):
        if not self.is_closed() and self.connection() is self.first:
            self.first = self.wal = None
        return super().close()

    def check_it_is_the_same(self):
        """Raise Unusable, from then on always, when a file that is open is no longer in its place.

        Somebody has put a backup there: what would be written now would be lost.
        """
        if self.ready and not self.replaced:
            found = identity(self.database)
            if found != self.file and not os.path.isfile(self.database):
                raise Unusable(f"{self.database} is not in its place now; put it back, or restart")
            self.replaced = found != self.file or self.has_lost_its_wal()
        if self.replaced:
            raise Unusable(f"{self.database} was replaced under the running service; stop it, "
                           "restore the backup again, and start it")

    def leave_what_replaced_it(self):
        """At the end of a process: do not close connections that would write their WAL, which is
        no longer in its place, into the file. (SQLite itself sees whether the file is.)"""
        if identity(self.database) == self.file and self.has_lost_its_wal():
            os._exit(1)

    def has_lost_its_wal(self):
        return self.wal and self.wal != identity(f"{self.database}-wal")

    def execute_sql(self, sql, params=None):
        """The cursor; it is asked for again while another connection holds the file.

        After one long wait in vain nobody waits long for a while: otherwise each of them would,
        one after the other.
        """
        began = None
        while True:
            try:
                return self.connection().execute(sql, params or ())
            except (DatabaseError, sqlite3.Error) as error:
                code = code_of(error)
                if code != sqlite3.SQLITE_BUSY:
                    self.check_it_is_the_same()
                    if code in FATAL:
                        raise Unusable(f"{self.database} {FATAL[code]}") from error
                    if code == sqlite3.SQLITE_IOERR and self.has_no_room():
                        raise OperationalError("the disk is full") from error
                    raise
                now = time.monotonic()
                began = began or now
                if now - began >= (BUSY_SECONDS if now > self.hurry_until else HURRY_SECONDS):
                    self.hurry_until = now + RETRY_SECONDS
                    raise OperationalError("another program holds the database") from error
            time.sleep(POLL_SECONDS)

    def make_ready(self):
        file = Path(self.database).absolute()
        missing = [folder for folder in file.parents if not folder.exists()]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                file.touch(0o600, exist_ok=False)
                self.is_new = True
            list(files_of(file))  # raises Unusable
            with self.snapshot():
                if self.application_id != APPLICATION_ID and self.get_tables():
                    raise Unusable(f"{self.database} belongs to another application; "
                                   "name another file")
            for path, mode in files_of(file):  # not before: it may be a file of anybody's
                with suppress(FileNotFoundError):
                    if mode & 0o077:
                        os.chmod(path, mode & 0o700)
            if self.user_version <= self.newest_version:
                if self.pragma("journal_mode", "wal") != "wal":
                    raise Unusable(f"{file}: its file system cannot hold a WAL; use another")
            self.bring_up_to_date(self.database)
            for path in [file, *missing]:  # a new name must reach the disk as well
                sync(path.parent)
        except OSError as error:
            raise Unusable(f"{self.database}: {error.strerror}") from error
        self.file = identity(file)
        atexit.register(lambda kept: kept() and kept().leave_what_replaced_it(), weakref.ref(self))

    def stored_version(self):
        return self.user_version

    def store_version(self, version):
        self.application_id, self.user_version = APPLICATION_ID, version

    def size(self):
        """Bytes on the disk, the write-ahead log included."""
        files = (Path(self.database), Path(f"{self.database}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def has_no_room(self):
        """Whether the disk is full: SQLite says of some writes only that they failed."""
        return shutil.disk_usage(Path(self.database).absolute().parent).free < 65_536

    def is_missing(self):
        return not os.path.exists(self.database)

    def discard(self):
        """Remove the file again, if prepare() made it: what was to be put into it failed."""
        self.close()
        if self.is_new:
            Path(self.database).unlink(missing_ok=True)

    def backup(self, path):
        """Copy the database to a new file, as of now, while others go on. Raises Unusable.

        It gets its name once it is whole and on the disk.
        """
        if not path or os.path.lexists(path):
            raise Unusable(f"{path} exists already; name a new file" if path else "name a new file")
        new = Path(path).absolute()
        try:
            with NamedTemporaryFile(dir=new.parent, prefix=f"{new.name}.", suffix=".part") as part:
                self.execute_sql("VACUUM INTO ?", (part.name,))
                os.fsync(part.fileno())
                os.link(part.name, path)  # unlike a renaming, it refuses a name taken meanwhile
            sync(new.parent)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from error


def files_of(file):
    """The file and what SQLite puts beside it, of that what there is, each with its mode.

    Raises Unusable for what is no regular file of ours: a link may lead anywhere, a pipe never
    ends, and its owner could change it. (They are not opened here: to close a file again would
    drop the locks that this process has on it.)
    """
    for path in (file, *(f"{file}{end}" for end in ("-wal", "-shm", "-journal"))):
        with suppress(FileNotFoundError):
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode):
                raise Unusable(f"{path} is no regular file; name one, or a link's target")
            if os.geteuid() not in (0, found.st_uid):
                raise Unusable(f"{path} belongs to another user; run this as its owner")
            yield path, found.st_mode


def identity(path):
    """Which file the path names; None when there is none."""
    try:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    except OSError:
        return None


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
