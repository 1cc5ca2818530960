"""Carry everything over from one database to another."""
from peewee import Tuple

from runs.refusals import Unusable

BATCH = 100  # rows that are copied at a time: they may be large


def copy(source, target):
    """Copy every row of one database's tables into the other's empty ones, all or nothing.

    Yields (table, how many rows so far) after each batch. Raises Unusable.
    """
    if source.is_missing():
        raise Unusable(f"there is no database {source.database}")
    source.prepare()
    try:
        target.prepare()
        if source.file and source.file == target.file:
            raise Unusable("source and target are the same file; name a new one")
        with source.snapshot(), target.writing():
            target.exclusive()
            if any(table.select().bind(target).exists() for table in target.tables):
                raise Unusable("the target is not empty; name a new database")
            for table in source.tables:
                key, done = table._meta.get_primary_keys(), 0
                rows = table.select().order_by(*key).limit(BATCH).dicts().bind(source)
                rest = rows
                while batch := list(rest):
                    target.execute(table.insert_many(batch).bind(target))
                    done += len(batch)
                    yield table._meta.table_name, done
                    rest = rows.where(Tuple(*key) > Tuple(*(batch[-1][part.name] for part in key)))
            target.renumber()
    except BaseException:
        target.discard()
        raise
