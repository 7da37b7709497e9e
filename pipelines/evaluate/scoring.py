"""What a system finds for the queries, and the scores of that."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import ray

from pipelines.cluster.tasks import as_completed
from pipelines.evaluate.embedded import Queries, vectors_of
from pipelines.index.measure import normalised
from pipelines.quality.exact import Ranked, Vectors, search_exactly, vectors_by_id
from pipelines.quality.intervals import Interval, interval_of
from pipelines.quality.judgements import Judgements, some
from pipelines.quality.metrics import DEPTH, chance, scores_of, subset_recall
from pipelines.search.pinned import PinnedTable
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from vista_core import UsageError

WHOLE: Final = ""  # the name of the queries as they are, among the baselines
CHANCE: Final = "chance"
THROUGH_INDEX: Final = "through the index"
SUBSET_CUTS: Final = (1, 2, 3)  # of CIRR
THREADS: Final = 8


@dataclass(frozen=True)
class Scored:
    """The scores of one system: for each metric a float64 [queries]."""

    values: Mapping[str, np.ndarray]

    @functools.cached_property
    def intervals(self) -> dict[str, Interval]:
        """The mean of each metric, with its interval."""
        return {name: interval_of(values) for name, values in self.values.items()}

    def of(self, chosen: np.ndarray) -> Scored:
        """Those of some of the queries."""
        return Scored({name: values[chosen] for name, values in self.values.items()})


@dataclass(frozen=True)
class Result:
    """One system, evaluated."""

    table: PinnedTable
    documents: int  # rows with a vector
    queries: Sequence[str]  # those that were evaluated
    excluded: Counter[str]  # why others were not
    ranked: Ranked  # what was found for each
    scored: Scored
    beside: Mapping[str, Scored] = field(default_factory=dict)  # baselines, and the search through an index

    def by(self, groups: Mapping[str, str]) -> dict[str, tuple[int, Scored]]:
        """The scores by group of queries: how many queries each has, and their scores."""
        names = np.array([groups.get(query, "") for query in self.queries], object)
        found = {}
        for name, number in Counter(names.tolist()).most_common():
            found[name or "none"] = (number, self.scored.of(names == name))
        return found


@dataclass(frozen=True)
class Asked:
    """The queries, and what they should find."""

    queries: Queries
    judgements: Judgements
    competing: Mapping[str, Sequence[str]]  # documents among which alone is searched, too, by query

    def evaluated(self) -> tuple[np.ndarray, list[str], dict[str, np.ndarray], Counter[str]]:
        """Which queries are evaluated, their ids and vectors, and why others are not.

        Raises UsageError if a judged query does not exist, or if none is left.
        """
        ids, vectors = self.queries.matrix()
        rejected = self.queries.every.rejected
        self.judgements.require_queries([*ids, *rejected])
        relevant = self.judgements.relevant
        chosen = np.array([key in relevant for key in ids], bool)
        excluded = Counter({"nothing is judged relevant": int(np.count_nonzero(~chosen))})
        excluded.update(f"rejected: {reason}" for key, reason in rejected.items() if key in relevant)
        excluded.update("nothing is judged relevant" for key in rejected if key not in relevant)
        if not chosen.any():
            raise UsageError(f"{self.judgements.uri}: no query is left to evaluate: {dict(+excluded)}")
        kept = [key for key, use in zip(ids, chosen, strict=True) if use]
        return chosen, kept, {name: each[chosen] for name, each in vectors.items()}, +excluded


def evaluate_table(table: PinnedTable, rejected: Mapping[str, str], asked: Asked, through_index: bool) -> Result:
    """Search a table exactly for all queries in one pass, and score what was found.

    `rejected` are the records of the corpus that are not in the table: a judged one counts, and can't be found.
    """
    _, queries, vectors, excluded = asked.evaluated()
    corpus = vectors_of(table)
    documents = table.dataset.count_rows(f"`{table.vector}` IS NOT NULL")
    require_documents(corpus, asked.judgements, rejected)
    names = list(vectors)
    every = search_exactly(corpus, np.concatenate([vectors[name] for name in names]), DEPTH, as_completed, ray.put)
    scored, grades = {}, asked.judgements.grades
    for number, name in enumerate(names):
        part = slice(number * len(queries), (number + 1) * len(queries))
        scored[name] = Scored(scores_of(grades, dict(zip(queries, every.ids[part], strict=True))))
    whole = scored.pop(WHOLE)
    if asked.competing:
        whole = Scored({**whole.values, **subset_scores(corpus, queries, vectors[WHOLE], asked)})
    if through_index:
        found = search_by_index(table, vectors[WHOLE])
        scored[THROUGH_INDEX] = Scored(scores_of(grades, dict(zip(queries, found, strict=True))))
    scored[CHANCE] = Scored(chance(grades, queries, documents))
    ranked = Ranked(every.ids[: len(queries)], every.scores[: len(queries)])
    return Result(table, documents, queries, excluded, ranked, whole, scored)


def require_documents(corpus: Vectors, judgements: Judgements, rejected: Mapping[str, str]) -> None:
    """Raise UsageError if a judged document is neither in the table nor among the rejected ones, or there twice."""
    judged = {key for found in judgements.grades.values() for key in found}
    seen, twice = set[str](), set[str]()
    for batch in corpus.table.open().scanner([corpus.id], batch_size=65_536, batch_readahead=1).to_batches():
        there = [key for key in map(str, batch.column(0).to_pylist()) if key in judged]
        twice.update(key for key, number in Counter(there).items() if number > 1 or key in seen)
        seen.update(there)
    if missing := sorted(judged - seen - rejected.keys()):
        raise UsageError(
            f"{judgements.uri}: {len(missing):,} of {len(judged):,} judged documents are not in {corpus.table.uri}: "
            f"{some(missing)}"
        )
    if twice:
        raise UsageError(f"{corpus.table.uri}: {len(twice):,} judged ids are there twice: {some(sorted(twice))}")


def subset_scores(corpus: Vectors, queries: Sequence[str], vectors: np.ndarray, asked: Asked) -> dict[str, np.ndarray]:
    """Scores where only the competing documents of each query are ranked. Raises UsageError if a query has none."""
    if missing := [query for query in queries if query not in asked.competing]:
        raise UsageError(f"top_ranked: {len(missing):,} queries have no documents that compete: {some(missing)}")
    wanted = list(dict.fromkeys(key for query in queries for key in asked.competing[query]))
    ids, there = vectors_by_id(corpus, wanted)
    place = {key: at for at, key in enumerate(ids)}
    asked_with, there = normalised(vectors.astype(np.float64)), normalised(there.astype(np.float64))
    found = {}
    for query, vector in zip(queries, asked_with, strict=True):
        keys = [key for key in asked.competing[query] if key in place]
        cosines = there[[place[key] for key in keys]] @ vector
        found[query] = sorted(keys, key=dict(zip(keys, cosines, strict=True)).__getitem__, reverse=True)
    return subset_recall(asked.judgements.grades, found, SUBSET_CUTS)


def search_by_index(table: PinnedTable, vectors: np.ndarray) -> list[list[str]]:
    """What searches of the product find, by the setting that is stored with the table's index."""
    if table.method.setting is None:
        raise UsageError(f"--index: the column `{table.vector}` of {table.name} has no vector index: `vista index`")
    searcher = Searcher(table, None, None)

    def search(vector: np.ndarray) -> list[str]:
        found = searcher.answer(Query("", k=DEPTH), vector)
        if isinstance(found, UsageError):
            raise found
        return [str(key) for key in found["id"].to_pylist()]

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(search, vectors))
