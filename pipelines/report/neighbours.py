"""Some rows of the table with their nearest neighbours, by the vectors that are stored: no encoder is loaded.

Where the table has a vector index, it is used. Else what is compared is bounded: all rows of a small table, stretches
of a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import ID, IMAGE_URI, MODALITY, OBJECT, RUN, TEXT, Pictured
from pipelines.tables.dataset import TableVersion
from pipelines.tables.run_ids import is_since
from pipelines.tables.vector_column import VectorColumn

SHOWN: Final = 8  # rows
NEIGHBOURS: Final = 5  # of each
COMPARED: Final = 20_000  # rows, 30 MB of vectors of 768 dimensions
STRETCHES: Final = 8
REFINE: Final = (
    4  # an index may store vectors in few bits: of so many times k candidates the exact distance is computed
)
COLUMNS: Final = (ID, TEXT, IMAGE_URI, MODALITY, OBJECT)


@dataclass(frozen=True)
class Neighbour:
    """A row of the table, and its cosine to the row that was asked with."""

    row: dict[str, Any]
    cosine: float


@dataclass(frozen=True)
class Sampled:
    """A row, and the rows that are nearest to it."""

    row: dict[str, Any]
    neighbours: Sequence[Neighbour]


@dataclass(frozen=True)
class Sample:
    """Rows with their neighbours, and among which rows those were looked for."""

    rows: Sequence[Sampled] = ()
    among: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)  # JPEGs by id

    @property
    def ids(self) -> list[str]:
        """The ids of all rows that are shown, once each."""
        every = [each for sampled in self.rows for each in (sampled.row, *(near.row for near in sampled.neighbours))]
        return list(dict.fromkeys(row[ID] for row in every))


def sample_rows(version: TableVersion, column: VectorColumn, pictures: Sequence[Pictured]) -> Sample:
    """A sample of a version of the table: rows that the run wrote, of which there are `pictures`, or else any."""
    table = version.open()
    total = table.count_rows()
    if not total or column.name not in table.schema.names:
        return Sample()
    index = index_of(table, column.name)
    ids, vectors = stretches(table, column, total) if index is None or len(pictures) < SHOWN else ([], np.empty((0, 0)))
    asked = [each.id for each in pictures if each.reason is None and each.id][:SHOWN]
    asked += [each for each in ids[:: max(1, len(ids) // SHOWN)] if each not in asked][: SHOWN - len(asked)]
    queries = vectors_of(version.find_each(asked, [column.name]), column.name)
    if index is not None:
        found = {key: search(table, column.name, vector) for key, vector in queries.items()}
        among = f"the {total:,} rows of the table, by its index {index}"
    else:
        found = {key: nearest(vector, ids, vectors) for key, vector in queries.items()}
        few = f"{len(ids):,} of the {total:,} rows of the table, in {STRETCHES} stretches"
        among = f"all {total:,} rows of the table" if len(ids) == total else few
    near = {key: [pair for pair in pairs if pair[0] != key][:NEIGHBOURS] for key, pairs in found.items()}
    wanted = list(dict.fromkeys([*near, *(each for pairs in near.values() for each, _ in pairs)]))
    shown = [name for name in COLUMNS if name in table.schema.names]
    rows = {row[ID]: row for row in version.find_each(wanted, shown[1:]).select(shown).to_pylist()}
    sampled = [
        Sampled(rows[key], [Neighbour(rows[each], cosine) for each, cosine in pairs if each in rows])
        for key, pairs in near.items()
        if key in rows
    ]
    return Sample(sampled, among, {each.id: each.jpeg for each in pictures if each.reason is None and each.id})


def index_of(table: lance.LanceDataset, column: str) -> str | None:
    """The name of the vector index of a column; None if it has none."""
    number = table.schema.get_field_index(column)
    for index in table.describe_indices():
        if column in index.field_names or number in index.fields:
            return str(index.name)
    return None


def stretches(table: lance.LanceDataset, column: VectorColumn, total: int) -> tuple[list[str], np.ndarray]:
    """Ids and vectors, float32 [N, D], of all rows or of some stretches: a table in a store is read in few requests."""
    length = COMPARED // STRETCHES
    starts = [0] if total <= COMPARED else [at * (total - length) // (STRETCHES - 1) for at in range(STRETCHES)]
    parts = []
    for start in starts:
        limit = total if total <= COMPARED else length
        rows = table.to_table([ID, RUN, column.name], offset=start, limit=limit)
        sound = pc.and_(pc.is_valid(rows[column.name]), pc.is_valid(rows[ID]))
        parts.append(rows.filter(pc.and_(sound, pc.fill_null(is_since(rows[RUN], column.since), False))))
    found = pa.concat_tables(parts)
    return found[ID].to_pylist(), matrix(found[column.name])


def matrix(vectors: pa.ChunkedArray) -> np.ndarray:
    """Vectors of a table, none of them null, as float32 [N, D]."""
    values = [np.asarray(chunk.flatten(), np.float32) for chunk in vectors.chunks]
    return np.concatenate([*values, np.empty(0, np.float32)]).reshape(-1, vectors.type.list_size)


def vectors_of(rows: pa.Table, column: str) -> dict[str, np.ndarray]:
    """The vectors of rows by id."""
    rows = rows.filter(pc.is_valid(rows[column]))
    return dict(zip(rows[ID].to_pylist(), matrix(rows[column]), strict=True))


def nearest(vector: np.ndarray, ids: Sequence[str], vectors: np.ndarray) -> list[tuple[str, float]]:
    """The ids that are nearest to a vector, and their cosines, best first. Vectors are of norm 1."""
    cosines = vectors @ vector
    best = np.argsort(-cosines, kind="stable")[: NEIGHBOURS + 1]
    return [(ids[at], float(cosines[at])) for at in best]


def search(table: lance.LanceDataset, column: str, vector: np.ndarray) -> list[tuple[str, float]]:
    """The same by the table's index."""
    query = {"column": column, "q": vector, "k": NEIGHBOURS + 1, "metric": "cosine", "refine_factor": REFINE}
    found = table.to_table([ID, "_distance"], nearest=query).to_pylist()
    return [(row[ID], 1 - row["_distance"]) for row in found if row[ID] is not None]
