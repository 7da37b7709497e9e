"""Exact search for many queries in one pass over a column of vectors, on workers, in bounded memory.

Scores are cosines. A matrix product in float32 finds the candidates; the cosine of each is then computed in float64
from the stored values and rounded to float32, so that equal vectors have equal scores however the work was divided.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lance
import numpy as np
import pyarrow as pa

from pipelines.cluster.calls import Workers
from pipelines.index.measure import matrix, normalised
from pipelines.tables.dataset import ADDRESS, TableVersion

PART_ROWS: Final = 131_072  # of the table, that one task searches
SCORES: Final = 8 << 20  # of a matrix product: 32 MB
PAIRS: Final = 8_192  # of a query and a vector, that are multiplied in float64 at once
WAITING: Final = 4_000_000  # candidates in memory; each takes 16 bytes
LEAST_WAITING: Final = 100_000
MARGIN: Final = (
    28  # more candidates than results: float32 may order close ones wrongly, and ids decide among equal ones
)
IDS_AT_ONCE: Final = 65_536


@dataclass(frozen=True)
class Vectors:
    """A column of vectors in a version of a table. Cheap to send to a worker."""

    table: TableVersion
    column: str
    id: str  # name of the column with the ids


@dataclass(frozen=True)
class Part:
    """Some rows of a fragment."""

    fragment: int
    offset: int
    rows: int


class Best:
    """The best candidates so far for each of some queries."""

    def __init__(self, queries: int, keep: int, waiting: int = WAITING) -> None:
        self.keep = keep
        self.limit = max(waiting, LEAST_WAITING)  # candidates that are sorted at once
        self.threshold = np.full(queries, -np.inf, np.float32)  # what a candidate must have at least
        self.query = np.empty(0, np.int32)
        self.score = np.empty(0, np.float32)
        self.address = np.empty(0, np.uint64)
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.number = 0

    def add(self, query: np.ndarray, score: np.ndarray, address: np.ndarray) -> None:
        """Candidates: the query of each, its score, and the row's address."""
        self.waiting.append((query.astype(np.int32), score, address))
        self.number += len(query)
        if self.number > self.limit:
            self.settle()

    def settle(self) -> None:
        """Keep the best of each query; of those with equal scores, the rows that come first in the table."""
        query, score, address = (
            np.concatenate([before, *(each[part] for each in self.waiting)])
            for part, before in enumerate((self.query, self.score, self.address))
        )
        order = np.lexsort((address, -score, query))
        query = query[order]
        starts = np.searchsorted(query, np.arange(len(self.threshold)))
        kept = np.arange(len(query)) - starts[query] < self.keep
        self.query, self.score, self.address = query[kept], score[order][kept], address[order][kept]
        full = np.flatnonzero(np.bincount(self.query, minlength=len(self.threshold)) == self.keep)
        last = np.searchsorted(self.query, full, side="right") - 1
        self.threshold[full] = self.score[last]
        self.waiting, self.number = [], 0


def parts_of(table: lance.LanceDataset) -> list[Part]:
    """The table in parts of equal size."""
    found = []
    for fragment in table.get_fragments():
        rows = fragment.count_rows()
        for offset in range(0, rows, PART_ROWS):
            found.append(Part(fragment.fragment_id, offset, min(PART_ROWS, rows - offset)))
    return found


def search_part(vectors: Vectors, part: Part, queries: np.ndarray, keep: int) -> tuple[np.ndarray, ...]:
    """The best rows of a part for each query: query number, score and address of each. Runs on a worker.

    The part's vectors stay in memory until the best are known.
    """
    fragment = vectors.table.open().get_fragment(part.fragment)
    assert fragment is not None, "it is of this version"
    asked, best = normalised(queries.astype(np.float32)), Best(len(queries), keep, waiting=keep * len(queries))
    scanner = fragment.scanner(
        columns=[vectors.column],
        with_row_address=True,
        offset=part.offset,
        limit=part.rows,
        batch_size=max(256, SCORES // max(1, len(queries))),
        batch_readahead=1,
    )
    held, addresses, rows = list[np.ndarray](), [np.empty(0, np.uint64)], 0
    for batch in scanner.to_batches():
        there, usable = matrix(batch.column(vectors.column), floats=None)
        held.append(there)
        addresses.append(batch.column(ADDRESS).to_numpy()[usable])
        scores = asked @ normalised(there.astype(np.float32)).T
        query, row = candidates(scores, best)
        best.add(query, scores[query, row], (row + rows).astype(np.uint64))
        rows += len(there)
    best.settle()
    row = best.address.astype(np.int64)
    exact = cosines(queries, np.concatenate(held), best.query, row) if held else best.score
    return best.query, exact, np.concatenate(addresses)[row]


def candidates(scores: np.ndarray, best: Best) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a query and a row that may be among the best: the numbers of both. `scores` are [queries, rows]."""
    if scores.shape[1] > best.keep and not np.isfinite(best.threshold).all():
        rows = np.argpartition(-scores, best.keep - 1, axis=1)[:, : best.keep]
        return np.repeat(np.arange(len(scores)), best.keep), rows.reshape(-1)
    queries, rows = np.nonzero(scores >= best.threshold[:, None])
    return queries, rows


def cosines(queries: np.ndarray, vectors: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float32 [pairs]: the cosine of each pair of a query and a row, computed in float64."""
    exact, found = normalised(queries.astype(np.float64)), np.empty(len(query), np.float32)
    for start in range(0, len(query), PAIRS):
        some = slice(start, start + PAIRS)
        there = vectors[row[some]].astype(np.float64)
        length = np.sqrt(np.einsum("ij,ij->i", there, there))
        found[some] = np.einsum("ij,ij->i", exact[query[some]], there) / np.where(length == 0, 1, length)
    return found


@dataclass(frozen=True)
class Ranked:
    """What was found for some queries, best first."""

    ids: list[list[str]]
    scores: list[np.ndarray]  # float32, one for each id


def itself(value: Any) -> Any:
    """For workers that are this process."""
    return value


def search_exactly(
    vectors: Vectors, queries: np.ndarray, depth: int, workers: Workers, share: Callable[[Any], Any] = itself
) -> Ranked:
    """The `depth` nearest rows for each of `queries` [N, D]; of equal scores, the larger id first, as in trec_eval.

    `share` hands the queries to all workers at once (`ray.put`).
    """
    keep = depth + MARGIN
    shared = share(queries)
    best = Best(len(queries), keep)
    calls = [(vectors, part, shared, keep) for part in parts_of(vectors.table.open())]
    for _, found in workers(search_part, calls):
        best.add(*found)
    best.settle()
    names = ids_at(vectors, best.address)
    ends = np.searchsorted(best.query, np.arange(len(queries) + 1))
    ranked = Ranked([], [])
    for start, end in itertools.pairwise(ends.tolist()):
        order = sorted(range(start, end), key=lambda at: (best.score[at], names[at]), reverse=True)[:depth]
        ranked.ids.append([names[at] for at in order])
        ranked.scores.append(best.score[order])
    return ranked


def ids_at(vectors: Vectors, addresses: np.ndarray) -> list[str]:
    """The ids of the rows at some addresses, as strings."""
    table = vectors.table.open()
    unique, which = np.unique(addresses, return_inverse=True)
    parts = [
        table._take_rows(unique[start : start + IDS_AT_ONCE].tolist(), [vectors.id])[vectors.id].cast(pa.string())
        for start in range(0, len(unique), IDS_AT_ONCE)
    ]
    names = [name for part in parts for name in part.to_pylist()]
    return [names[at] for at in which.tolist()]


def vectors_by_id(vectors: Vectors, ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Those of `ids` whose rows have a vector, in their order, and these vectors: float32 [N, D]."""
    place = {key: number for number, key in enumerate(ids)}
    scanner = vectors.table.open().scanner([vectors.id, vectors.column], batch_size=8_192, batch_readahead=1)
    at: list[int] = []
    found: list[np.ndarray] = []
    for batch in scanner.to_batches():
        values, usable = matrix(batch.column(vectors.column))
        names = batch.column(vectors.id).cast(pa.string()).filter(pa.array(usable)).to_pylist()
        wanted = [row for row, name in enumerate(names) if name in place]
        at += [place[names[row]] for row in wanted]
        found.append(values[wanted])
    order = np.argsort(at)
    every = np.concatenate(found) if found else np.empty((0, 0), np.float32)
    return [ids[at[number]] for number in order], every[order]
