"""Some rows of the table with their nearest neighbours, by the vectors that are stored: no encoder is loaded.

Where the table has a vector index, it is used. Else what is compared is bounded: all rows of a small table, stretches
of a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import ID, IMAGE_URI, MODALITY, OBJECT, RUN, TEXT, Pictured
from pipelines.tables.dataset import TableVersion
from pipelines.tables.run_ids import is_since
from pipelines.tables.search_setting import SearchSetting, vector_indexes
from pipelines.tables.vector_column import VectorColumn

SHOWN: Final = 8  # rows
NEIGHBOURS: Final = 5  # of each
COMPARED: Final = 20_000  # rows, 30 MB of vectors of 768 dimensions
COMPARED_FOR_IDS: Final = 64  # rows that are read to have some to ask with
STRETCHES: Final = 8
REFINE: Final = (
    4  # an index may store vectors in few bits: of so many times k candidates the exact distance is computed
)
NOTHING: Final = np.empty((0, 0), np.float32)
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
    pictures: dict[str, bytes] = field(default_factory=dict)  # WebPs by id

    @property
    def ids(self) -> list[str]:
        """The ids of all rows that are shown, once each."""
        every = [each for sampled in self.rows for each in (sampled.row, *(near.row for near in sampled.neighbours))]
        return list(dict.fromkeys(row[ID] for row in every))


def sample_rows(
    version: TableVersion, column: VectorColumn, pictures: Sequence[Pictured], compared: int = COMPARED
) -> Sample:
    """A sample of a version of the table: rows that the run wrote, of which there are `pictures`, or else any.

    Without an index, neighbours are looked for among `compared` rows.
    """
    table = version.open()
    total = table.count_rows()
    if not total or column.name not in table.schema.names:
        return Sample()
    way = way_of_searching(table, column.name)
    pictured = {each.id: each.picture for each in pictures if each.reason is None and each.id is not None}
    some = COMPARED_FOR_IDS if way else compared
    ids, vectors = stretches(table, column, some) if way is None or len(pictured) < SHOWN else ([], NOTHING)
    asked = [*pictured][:SHOWN]
    asked += [each for each in ids[:: max(1, len(ids) // SHOWN)] if each not in pictured][: SHOWN - len(asked)]
    queries = vectors_of(version.find_each(asked, [column.name]), column.name)
    if way is None:
        found = {key: nearest(vector, ids, vectors) for key, vector in queries.items()}
        number = f"all {total:,}" if total <= compared else f"{len(ids):,} of the {total:,}"
        among = f"{number} rows of the table"
    else:
        index, options = way
        found = {key: search(table, column.name, vector, options) for key, vector in queries.items()}
        among = f"the {total:,} rows of the table, by the index {index}"
    near = {key: [pair for pair in pairs if pair[0] != key][:NEIGHBOURS] for key, pairs in found.items()}
    return Sample(with_rows(version, near), among, pictured)


def with_rows(version: TableVersion, near: Mapping[str, Sequence[tuple[str, float]]]) -> list[Sampled]:
    """Ids, each with those that are near to it, as rows of the table."""
    wanted = list(dict.fromkeys([*near, *(key for pairs in near.values() for key, _ in pairs)]))
    shown = [name for name in COLUMNS if name in version.open().schema.names]
    rows = {row[ID]: row for row in version.find_each(wanted, shown[1:]).select(shown).to_pylist()}
    return [
        Sampled(rows[key], [Neighbour(rows[other], cosine) for other, cosine in pairs if other in rows])
        for key, pairs in near.items()
        if key in rows
    ]


def way_of_searching(table: lance.LanceDataset, column: str) -> tuple[str, dict[str, Any]] | None:
    """The name of the column's vector index, and how to search by it: as it is stored, else with a refinement.

    None if there is no index for cosines, or there are several, of which Lance would take any.
    """
    names = vector_indexes(table, column)
    if len(names) != 1:
        return None
    setting = SearchSetting.of(table, column)
    if setting is None:
        return names[0], {"metric": "cosine", "refine_factor": REFINE}
    return (names[0], setting.nearest()) if setting.metric == "cosine" else None


def stretches(table: lance.LanceDataset, column: VectorColumn, rows: int) -> tuple[list[str], np.ndarray]:
    """Ids and vectors, float32 [N, D], of all rows or, if there are more than `rows`, of stretches of the table.

    Stretches, since a table in a store is read in few requests. Null vectors, and those of an encoder that is being
    replaced, are left out.
    """
    total, parts = table.count_rows(), []
    length = total if total <= rows else max(1, rows // STRETCHES)
    for start in [0] if total <= rows else [at * (total - length) // (STRETCHES - 1) for at in range(STRETCHES)]:
        found = table.to_table([ID, RUN, column.name], offset=start, limit=length)
        sound = pc.and_(pc.is_valid(found[column.name]), pc.is_valid(found[ID]))
        is_of_encoder = is_since(found[RUN], column.since) if column.since else sound
        parts.append(found.filter(pc.and_(sound, is_of_encoder)))
    every = pa.concat_tables(parts)
    return every[ID].to_pylist(), matrix(every[column.name])


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


def search(
    table: lance.LanceDataset, column: str, vector: np.ndarray, options: Mapping[str, Any]
) -> list[tuple[str, float]]:
    """The same by the table's index."""
    query = {"column": column, "q": vector, "k": NEIGHBOURS + 1, **options}
    found = table.to_table([ID, "_distance"], nearest=query).to_pylist()
    return [(row[ID], 1 - row["_distance"]) for row in found if row[ID] is not None]
