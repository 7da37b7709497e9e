"""Gate: vectors are sound as they are stored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence, of_every_column
from pipelines.ingest.fragments import off_norm
from pipelines.records import ID, OBJECT
from pipelines.tables.dataset import SCAN, TableVersion
from pipelines.tables.vector_column import DEFAULT, VectorColumn


class Vectors(NamedTuple):
    """What was found in some fragments."""

    rows: int = 0
    unsound: int = 0  # not finite, not of norm 1, or null where they must not be
    foreign: int = 0  # those of them in rows that other clients wrote
    example: str | None = None  # the id of one of them
    without: int = 0  # null where they may be


def sound_vectors(evidence: Evidence) -> Verdict:
    """The fresh vectors, read back from the table, are finite and of norm 1 within 1e-3.

    In columns that a backfill fills, rows that it could not embed have none, and so do rows of other clients.
    """
    return of_every_column(evidence, lambda column: are_sound(evidence, column))


def are_sound(evidence: Evidence, column: VectorColumn) -> Verdict:
    """The verdict on the vectors of one column."""
    table, fragments, nulls = evidence.table, [each.fragment_id for each in evidence.fresh], column.name != DEFAULT
    call = (TableVersion(table.uri, table.version), fragments, column.name, nulls)
    [found] = evidence.on_workers(look_at_vectors, [call]) if fragments else [Vectors()]
    faults = "not finite or not of norm 1" if nulls else "null, not finite or not of norm 1"
    message = f"{found.unsound:,} of {found.rows:,} fresh vectors are {faults}"
    if found.without:
        message = f"{message}, and {found.without:,} rows have none"
    if not found.unsound:
        return Verdict("vectors", True, message)
    return Verdict(
        "vectors",
        False,
        f"{message}, such as that of {found.example!r}; {found.foreign:,} of them are in rows that other clients wrote "
        f"(`{OBJECT} IS NULL`). Store normalised vectors there, delete these rows, or add their records to the source. "
        f"Vectors of the job's own rows are computed anew by {cure(evidence, column)}",
    )


def cure(evidence: Evidence, column: VectorColumn) -> str:
    """What embeds a whole column anew."""
    if column == evidence.column:
        return "--reembed"
    return f"`vista backfill` into another column; `vista drop-column` removes `{column.name}`"


def look_at_vectors(table: TableVersion, fragments: list[int], column: str, nulls: bool = False) -> Vectors:
    """Count the vectors in some fragments, and those that are unsound. Null ones are, unless there may be `nulls`."""
    dataset, found = table.open(), Vectors()
    chosen = [each for each in dataset.get_fragments() if each.fragment_id in set(fragments)]
    for batch in dataset.scanner(columns=[column, ID, OBJECT], fragments=chosen, **SCAN).to_batches():
        vectors = batch.column(column)
        valid = np.flatnonzero(vectors.is_valid())
        null = np.flatnonzero(vectors.is_null())
        unsound = ([] if nulls else null.tolist()) + valid[off_norm(vectors.drop_null())[0]].tolist()
        rows = batch.take(pa.array(unsound, pa.int64()))
        found = Vectors(
            found.rows + len(batch),
            found.unsound + len(unsound),
            found.foreign + rows.column(OBJECT).null_count,
            found.example or next(iter(pc.drop_null(rows.column(ID)).to_pylist()), None),
            found.without + (len(null) if nulls else 0),
        )
    return found
