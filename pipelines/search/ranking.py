"""Which rows match, best first: by vector, by words, and by both. A row is its address in one version of the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.query import MatchQuery

from pipelines.search.pinned import PinnedTable
from pipelines.search.query import Query
from pipelines.storage.errors import lance_store_failed, without_rust_location
from pipelines.tables.filter import enclosed
from vista_core import UsageError

DISTANCE: Final = "_distance"  # Lance's names of columns
RELEVANCE: Final = "_score"
ROW: Final = "_rowid"
CANDIDATES: Final = 200  # of either ranking, for a hybrid one; more if more results are asked for
RANK_CONSTANT: Final = 60  # of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)


class Ranking(NamedTuple):
    """Rows and their scores, best first."""

    rows: list[int]
    scores: list[float]

    def part(self, query: Query, without: int | None) -> Ranking:
        """What a query asks for: from its offset on, `k` rows, and not the row `without`."""
        kept = [(row, score) for row, score in zip(self.rows, self.scores, strict=True) if row != without]
        kept = kept[query.offset : query.offset + query.k]
        return Ranking([row for row, _ in kept], [score for _, score in kept])


def rank(table: PinnedTable, query: Query, vector: np.ndarray | None) -> Ranking:
    """At least the `query.depth` best rows, if there are so many. `vector` is float32 [D]; None for keywords alone.

    Raises UsageError if the query's filter can't be used.
    """
    try:
        if vector is None:
            return by_words(table, query, max(query.depth, CANDIDATES))
        if query.mode == "vector":
            return by_vector(table, query, vector, query.depth)
        depth = max(query.depth, CANDIDATES)
        return fused([by_vector(table, query, vector, depth), by_words(table, query, depth)])
    except (ValueError, RuntimeError, pa.ArrowException) as error:
        if query.where is None or lance_store_failed(error):
            raise
        raise UsageError(f"--where {query.where!r}: {without_rust_location(str(error))}") from error


def by_vector(table: PinnedTable, query: Query, vector: np.ndarray, depth: int) -> Ranking:
    """The nearest rows. Rows without a vector, or with one that has no direction, are not among them."""
    where = enclosed(query.where)
    options = table.method.options(query.exact, filtered=where is not None)
    nearest = {"column": table.vector, "q": vector, "k": depth, **options}
    found = table.dataset.to_table([DISTANCE], where, nearest=nearest, prefilter=True, with_row_id=True)
    found = found.filter(pc.is_finite(found[DISTANCE]))
    scores = table.method.score(found[DISTANCE].to_numpy().astype(np.float64))
    return Ranking(found[ROW].to_pylist(), scores.tolist())


def by_words(table: PinnedTable, query: Query, depth: int) -> Ranking:
    """The rows whose text has most of the query's words, by BM25. Raises UsageError without a full-text index.

    Lance can search without one, but then it takes words as they are written: neither in lower case nor by their stem.
    """
    if table.text is None:
        raise UsageError(
            f"{table.name} has no full-text index, so it can't be searched for words: `vista index` builds one"
        )
    found = table.dataset.to_table(
        [RELEVANCE],
        enclosed(query.where),
        limit=depth,
        full_text_query=MatchQuery(query.text or "", table.text),
        prefilter=True,
        with_row_id=True,
    )
    found = found.sort_by([(RELEVANCE, "descending"), (ROW, "ascending")])
    return Ranking(found[ROW].to_pylist(), found[RELEVANCE].to_pylist())


def fused(rankings: Sequence[Ranking]) -> Ranking:
    """Reciprocal rank fusion: a row's score is the sum of 1 / (60 + its rank) over the rankings that have it."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for place, row in enumerate(ranking.rows, 1):
            scores[row] += 1 / (RANK_CONSTANT + place)
    best = sorted(scores, key=lambda row: (-scores[row], row))
    return Ranking(best, [scores[row] for row in best])
