"""Carry everything over from one database to another."""
from peewee import Tuple

from runs.refusals import Unusable

BATCH = 100  # rows that are copied at a time


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
                done = 0
                for batch in batches(table, source):
                    target.execute(table.insert_many(batch).bind(target))
                    done += len(batch)
                    yield table._meta.table_name, done
            target.renumber()
    except BaseException:
        target.discard()
        raise


def batches(table, source):
    """All rows of the table in the order of their keys, a few at a time: they may be large."""
    key = table._meta.get_primary_keys()
    query = table.select().order_by(*key).limit(BATCH).dicts().bind(source)
    batch = list(query)
    while batch:
        yield batch
        last = [batch[-1][field.name] for field in key]
        batch = list(query.where(Tuple(*key) > Tuple(*last)))
