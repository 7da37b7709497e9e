"""Scores of retrieval, query by query, as trec_eval computes them (by pytrec-eval-terrier).

Two recalls are in use, and differ by up to 22 points where queries have several relevant documents: `recall@K` is the
share of the relevant documents that is among the first K; `hit_rate@K` is 1 if any is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pytrec_eval

CUTS: Final = (1, 3, 5, 10, 20, 100)
DEPTH: Final = max(CUTS)  # documents that are found for each query
NDCG, MRR = "ndcg@10", "mrr@10"
METRICS: Final = (*(f"recall@{k}" for k in CUTS), *(f"hit_rate@{k}" for k in CUTS), NDCG, MRR)
MEASURES: Final = {f"recall.{','.join(map(str, CUTS))}", f"success.{','.join(map(str, CUTS))}", "ndcg_cut.10"}
OF_TREC: Final = {f"recall@{k}": f"recall_{k}" for k in CUTS} | {f"hit_rate@{k}": f"success_{k}" for k in CUTS}
QUERIES_AT_ONCE: Final = 1_000

Grades = Mapping[str, Mapping[str, int]]  # of documents, by query


def scores_of(grades: Grades, found: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """The scores of each query of `found`, in its order: for each metric a float64 [queries].

    `found` has the documents of each query, best first. Every query must have a relevant document in `grades`.
    """
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    queries = list(found)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries[start : start + QUERIES_AT_ONCE]
        judged = {query: dict(grades[query]) for query in some}
        all_measures = pytrec_eval.RelevanceEvaluator(judged, MEASURES).evaluate(as_run(found, some, DEPTH))
        ranks = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(as_run(found, some, 10))
        for query in some:
            of_query = all_measures.get(query)  # none for a query for which nothing was found
            for name, measure in (*OF_TREC.items(), (NDCG, "ndcg_cut_10")):
                values[name].append(of_query[measure] if of_query else 0.0)
            values[MRR].append(ranks[query]["recip_rank"] if query in ranks else 0.0)
    return {name: np.array(each, np.float64) for name, each in values.items()}


def as_run(found: Mapping[str, Sequence[str]], queries: Sequence[str], depth: int) -> dict[str, dict[str, float]]:
    """The first documents of each query with scores that fall with the rank: trec_eval orders by score."""
    return {
        query: {document: float(depth - rank) for rank, document in enumerate(found[query][:depth])}
        for query in queries
        if len(found[query])
    }


def subset_recall(grades: Grades, found: Mapping[str, Sequence[str]], cuts: Sequence[int]) -> dict[str, np.ndarray]:
    """`recall_subset@K` of each query: its relevant documents among the first K, where only some documents compete.

    `found` has all documents that compete, best first: CIRR's subset metric (Liu et al., ICCV 2021, section 4.3).
    """
    values = {f"recall_subset@{k}": np.zeros(len(found)) for k in cuts}
    for number, (query, documents) in enumerate(found.items()):
        relevant = {document for document, grade in grades[query].items() if grade > 0}
        for k in cuts:
            values[f"recall_subset@{k}"][number] = len(relevant.intersection(documents[:k])) / len(relevant)
    return values


def chance(grades: Grades, queries: Sequence[str], documents: int) -> dict[str, np.ndarray]:
    """What each score of each query is on average if documents are ranked at random, in closed form."""
    found = {name: np.zeros(len(queries)) for name in METRICS}
    discounts = 1 / np.log2(np.arange(2, 12))
    for number, query in enumerate(queries):
        gains = sorted((grade for grade in grades[query].values() if grade > 0), reverse=True)
        none_until = missing_until(len(gains), documents)  # [DEPTH + 1]: no relevant one among the first
        for k in CUTS:
            found[f"recall@{k}"][number] = min(1.0, k / documents)
            found[f"hit_rate@{k}"][number] = 1 - none_until[k]
        firsts = min(10, documents)
        ideal = float(np.dot(gains[:10], discounts[: len(gains[:10])]))
        found[NDCG][number] = sum(gains) / documents * discounts[:firsts].sum() / ideal
        found[MRR][number] = float(np.sum((none_until[:10] - none_until[1:11]) / np.arange(1, 11)))
    return found


def missing_until(relevant: int, documents: int) -> np.ndarray:
    """float64 [DEPTH + 1]: how probable it is that none of the first 0, 1, 2, ... documents is relevant."""
    drawn = np.arange(DEPTH)
    left = documents - drawn
    each = np.where(left > 0, np.clip((left - relevant) / np.maximum(left, 1), 0, 1), 0.0)
    return np.concatenate([[1.0], np.cumprod(each)])
