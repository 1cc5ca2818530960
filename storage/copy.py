"""Carry everything over from one database to another."""
from peewee import Tuple

from runs.refusals import Unusable
from storage.sqlite import identity

BATCH = 100  # rows that are copied at a time


def copy(source, target):
    """Copy every row of one database's tables into the other's empty ones, all or nothing.

    Yields (table, how many rows so far) after each batch. Raises Unusable.
    """
    if source.is_missing():
        raise Unusable(f"there is no database {source.database}")
    source.prepare()
    if identity(target.database) == identity(source.database) is not None:
        raise Unusable("source and target are the same file; name a new one")
    try:
        target.prepare()
        yield from copied(source, target)
    except BaseException:
        target.discard()
        raise


def copied(source, target):
    """As copy(), between databases that are ready."""
    with source.snapshot(), target.writing():
        target.exclusive()
        if any(table.select().bind(target).exists() for table in target.tables):
            raise Unusable("the target is not empty; name a new database")
        for table in source.tables:
            done = 0
            for batch in batches(table, source):
                target.execute(table.insert_many(batch, table._meta.sorted_fields).bind(target))
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
