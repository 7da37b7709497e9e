"""A second vector column for the tables and encoded records of `tests.tables`, whose encoder gives negated vectors."""

import dataclasses

import lance
import numpy as np
import pyarrow as pa

from pipelines.ingest.commit import Committer
from pipelines.records import HAS_VECTOR, VECTOR, slot_name
from pipelines.tables.vector_column import VectorColumn
from tests.tables import COLUMN, DIMENSION, IDENTITY, vector_of

SECOND = VectorColumn("b", dataclasses.replace(IDENTITY, alpha="white"))


def second_vector_of(text: str) -> np.ndarray:
    return -vector_of(text)


def with_second(block: pa.Table, needs: tuple[bool, bool] = (True, True)) -> pa.Table:
    """Encoded records with what the second slot adds; a slot that they don't need has zeros, and the table's vector."""
    vectors = [second_vector_of(text) for text in block["text"].to_pylist()]
    columns = [np.array(block[VECTOR].to_pylist(), np.float16), np.array(vectors, np.float16)]
    for number, values in enumerate(columns):
        array = pa.FixedSizeListArray.from_arrays(pa.array((values * needs[number]).reshape(-1)), DIMENSION)
        for name, column in ((VECTOR, array), (HAS_VECTOR, pa.array([not needs[number]] * len(block)))):
            at = block.schema.get_field_index(slot_name(name, number))
            named = slot_name(name, number)
            block = block.append_column(named, column) if at < 0 else block.set_column(at, named, column)
    return block


def add_second(committer: Committer, without: tuple[str, ...] = ()) -> None:
    """Add the column to the table, filled for all rows but those `without`: these have a fingerprint and no vector."""
    table = lance.dataset(committer.base.uri)
    rows = table.to_table(["id", "text", COLUMN.fingerprint])
    vectors = [
        None if key in without else second_vector_of(text)
        for key, text in zip(rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True)
    ]
    schema = pa.schema([SECOND.field, SECOND.fingerprint_field])
    arrays = [pa.array(vectors, SECOND.type), rows[COLUMN.fingerprint].combine_chunks()]
    table.add_columns(pa.table(arrays, schema=schema).to_reader())
    lance.dataset(table.uri).update_field_metadata(SECOND.field_update)


def filling_both(committer: Committer) -> Committer:
    """A committer of the same run on the latest version, which fills both columns."""
    table = lance.dataset(committer.base.uri)
    target = dataclasses.replace(committer.target, table=table, others=(SECOND,))
    return Committer(target, committer.lease, committer.events)


def stored(committer: Committer) -> dict[str, dict]:
    """The rows of the latest version by id."""
    return {row["id"]: row for row in lance.dataset(committer.base.uri).to_table().to_pylist()}
