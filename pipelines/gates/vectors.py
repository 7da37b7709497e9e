"""Gate: vectors are sound as they are stored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence
from pipelines.ingest.fragments import off_norm
from pipelines.records import ID, OBJECT
from pipelines.tables.dataset import SCAN, TableVersion


class Vectors(NamedTuple):
    """What was found in some fragments."""

    rows: int = 0
    unsound: int = 0  # null, not finite or not of norm 1
    foreign: int = 0  # those of them in rows that other clients wrote
    example: str | None = None  # the id of one of them


def sound_vectors(evidence: Evidence) -> Verdict:
    """The fresh vectors, read back from the table, are finite and of norm 1 within 1e-3."""
    table, fragments = evidence.table, [each.fragment_id for each in evidence.fresh]
    call = (TableVersion(table.uri, table.version), fragments, evidence.column.name)
    [found] = evidence.on_workers(look_at_vectors, [call]) if fragments else [Vectors()]
    message = f"{found.unsound:,} of {found.rows:,} fresh vectors are null, not finite or not of norm 1"
    if not found.unsound:
        return Verdict("vectors", True, message)
    return Verdict(
        "vectors",
        False,
        f"{message}, such as that of {found.example!r}; {found.foreign:,} of them are in rows that other clients wrote "
        f"(`{OBJECT} IS NULL`). Store normalised vectors there, delete these rows, or add their records to the source. "
        "Vectors of the job's own rows are computed anew by --reembed",
    )


def look_at_vectors(table: TableVersion, fragments: list[int], column: str) -> Vectors:
    """Count the vectors in some fragments, and those that are unsound."""
    dataset, found = table.open(), Vectors()
    chosen = [each for each in dataset.get_fragments() if each.fragment_id in set(fragments)]
    for batch in dataset.scanner(columns=[column, ID, OBJECT], fragments=chosen, **SCAN).to_batches():
        vectors = batch.column(column)
        valid = np.flatnonzero(vectors.is_valid())
        unsound = np.flatnonzero(vectors.is_null()).tolist() + valid[off_norm(vectors.drop_null())[0]].tolist()
        rows = batch.take(pa.array(unsound, pa.int64()))
        found = Vectors(
            found.rows + len(batch),
            found.unsound + len(unsound),
            found.foreign + rows.column(OBJECT).null_count,
            found.example or next(iter(pc.drop_null(rows.column(ID)).to_pylist()), None),
        )
    return found
