"""Recall and latency of searches through a vector index, measured against exact search.

Queries are rows of the table, each of which is left out of its own results, and those of a table `NAME_queries`, if
there is one. A row counts as found if it is as near as the exact search's tenth, so rows with equal vectors can stand
for each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipelines.cluster.calls import Workers, one
from pipelines.events import MeasuredSetting
from pipelines.tables.dataset import ADDRESS, SCAN, TableVersion, open_dataset
from pipelines.tables.search_setting import SearchSetting, options
from pipelines.tables.vector_column import is_vector

K: Final = 10
QUERIES: Final = 256
REFINE_FACTORS: Final = (0, 2, 4, 8, 16, 32, 64)  # 0: distances as the index has them
ONE_PERCENT: Final = "_rowid % 100 = 0"
NOBODY: Final = np.uint64(2**64 - 1)  # the address of a query that is no row of the table
EXACT_PARTS: Final = 64  # of the table, among which an exact search is divided
EXACT_TIMES: Final = 3
USELESS_FROM, USELESS = 8, 0.001  # more probes are no use if twice as many find that little more
TIE: Final = 1e-5  # scores that differ by less are equal, since products are not rounded alike


@dataclass(frozen=True)
class Queries:
    """What is searched for."""

    vectors: np.ndarray  # float32 [N, D]
    addresses: np.ndarray  # uint64 [N]: the row that a query is, or NOBODY

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Searched:
    """A version of a table and a column of vectors, in which is searched by a metric."""

    table: TableVersion
    column: str
    metric: str


def sample_queries(searched: Searched, number: int = QUERIES, seed: int = 0) -> Queries:
    """Random rows of the table as queries; fewer if it has not as many with a vector."""
    table = searched.table.open()
    rows = table.count_rows()
    chosen = np.random.default_rng(seed).choice(rows, min(number, rows), replace=False)
    found = table.take(np.sort(chosen).tolist(), columns=[searched.column, ADDRESS])
    vectors, usable = matrix(found[searched.column])
    return Queries(vectors, found[ADDRESS].to_numpy()[usable])


def stored_queries(searched: Searched, number: int = QUERIES) -> Queries:
    """The latest rows of the table `NAME_queries`, if there is one with such a column; else none."""
    dataset = open_dataset(f"{searched.table.uri.removesuffix('.lance')}_queries.lance")
    kind = searched.table.open().schema.field(searched.column).type
    fits = dataset is not None and searched.column in dataset.schema.names
    theirs = dataset.schema.field(searched.column).type if dataset is not None and fits else None
    if dataset is None or theirs is None or not is_vector(theirs) or theirs.list_size != kind.list_size:
        return Queries(np.empty((0, kind.list_size), np.float32), np.empty(0, np.uint64))
    rows = dataset.count_rows()
    found = dataset.to_table([searched.column], limit=number, offset=max(0, rows - number))
    vectors, usable = matrix(found[searched.column])
    return Queries(vectors, np.full(int(usable.sum()), NOBODY))


def matrix(column: pa.ChunkedArray | pa.Array, floats: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """The vectors that are finite, as `floats` [N, D] (None: as they are stored), and bool [rows]: which those are."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    usable = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.drop_null().flatten().to_numpy(zero_copy_only=False)
    vectors = values.astype(floats or values.dtype, copy=False).reshape(-1, array.type.list_size)
    finite = np.isfinite(vectors).all(axis=1)
    usable[np.flatnonzero(usable)[~finite]] = False
    return vectors if finite.all() else vectors[finite], usable


def scores(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """float32 [N, M]: how near vectors are to queries; the more, the nearer."""
    if metric == "cosine":
        queries, vectors = normalised(queries), normalised(vectors)
    products = queries @ vectors.T
    if metric == "l2":
        squares = np.square(queries).sum(axis=1)[:, None] + np.square(vectors).sum(axis=1)[None, :]
        return 2 * products - squares
    return products


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1; those of length 0 stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length == 0, 1, length)


def exact_scores(searched: Searched, fragments: Sequence[int], queries: Queries, where: str | None) -> np.ndarray:
    """float32 [N, 10]: the best scores of exact search among some fragments, in any order; -inf for too few rows.

    One pass over the vectors for all queries. Runs on a worker.
    """
    table = searched.table.open()
    chosen = [each for each in table.get_fragments() if each.fragment_id in set(fragments)]
    best = np.full((len(queries), K), -np.inf, np.float32)
    scanner = table.scanner([searched.column], where, fragments=chosen, with_row_address=True, **SCAN)
    for batch in scanner.to_batches() if chosen else ():
        vectors, usable = matrix(batch.column(searched.column))
        addresses = batch.column(ADDRESS).to_numpy()[usable]
        found = scores(queries.vectors, vectors, searched.metric)
        found[queries.addresses[:, None] == addresses[None, :]] = -np.inf  # a query is not its own result
        both = np.concatenate([best, found], axis=1)
        best = -np.partition(-both, K - 1, axis=1)[:, :K]
    return best


def best_scores(searched: Searched, queries: Queries, workers: Workers, where: str | None = None) -> np.ndarray:
    """float32 [N, 10]: the best scores of exact search, found on workers, a part of the table each."""
    fragments = [each.fragment_id for each in searched.table.open().get_fragments()]
    parts = [fragments[start::EXACT_PARTS] for start in range(min(EXACT_PARTS, len(fragments)))]
    calls = [(searched, part, queries, where) for part in parts]
    best = [found for _, found in workers(exact_scores, calls)]
    return -np.sort(-np.concatenate([np.full((len(queries), K), -np.inf, np.float32), *best], axis=1), axis=1)[:, :K]


def found_shares(found: np.ndarray, best: np.ndarray) -> np.ndarray:
    """float64 [queries with a result]: the share of the `best` scores [N, 10] that is among those `found` [N, 10]."""
    wanted = np.isfinite(best).sum(axis=1)
    found, best, wanted = found[wanted > 0], best[wanted > 0], wanted[wanted > 0]
    worst = np.where(np.isfinite(best), best, np.inf).min(axis=1, keepdims=True)
    hits = (found >= worst - TIE * np.maximum(1, np.abs(worst))).sum(axis=1)
    return np.minimum(hits, wanted) / wanted


@dataclass(frozen=True)
class Asked:
    """Queries with what exact search finds for them."""

    queries: Queries
    best: np.ndarray  # float32 [N, 10]
    where: str | None = None


@dataclass(frozen=True)
class Point:
    """A setting to be measured."""

    nprobes: int
    refine_factor: int


def search_once(searched: Searched, asked: Asked, number: int, point: Point | None) -> tuple[np.ndarray, float]:
    """float32 [10] the scores of what a search finds for one query, and its seconds; without a point: exact search."""
    query, address = asked.queries.vectors[number], asked.queries.addresses[number]
    nearest: dict[str, Any] = {"column": searched.column, "q": query, "k": K + int(address != NOBODY)}
    nearest |= {"metric": searched.metric, "use_index": point is not None}
    if point is not None:
        nearest |= options(point.nprobes, point.refine_factor, filtered=asked.where is not None)
        if asked.where is not None:
            # Searches go on to more partitions if these have too few rows. How many more depends on how busy the
            # machine is, so their share of the recall is not counted.
            nearest["maximum_nprobes"] = point.nprobes
    table, began = searched.table.open(), time.perf_counter()
    rows = table.to_table(
        [searched.column, "_distance"], asked.where, nearest=nearest, prefilter=True, with_row_address=True
    )
    seconds = time.perf_counter() - began
    others = rows.filter(pa.array(rows[ADDRESS].to_numpy() != address))
    vectors, _ = matrix(others[searched.column])
    found = np.sort(scores(query[None], vectors, searched.metric)[0])[::-1][:K]
    return np.pad(found, (0, K - len(found)), constant_values=-np.inf), seconds


def measure(searched: Searched, groups: Sequence[Asked], point: Point) -> tuple[MeasuredSetting, float]:
    """One setting, with the smallest recall of all groups of queries, and the standard error of that recall."""
    recalls, seconds = list[tuple[float, float]](), list[float]()
    for asked in groups:
        results = [search_once(searched, asked, number, point) for number in range(len(asked.queries))]
        seconds += [each for _, each in results]
        shares = found_shares(np.array([found for found, _ in results]).reshape(-1, K), asked.best)
        if len(shares):
            recalls.append((float(shares.mean()), float(shares.std() / np.sqrt(len(shares)))))
    recall, error = min(recalls, default=(1.0, 0.0))
    p50, p95 = (float(each) * 1000 for each in np.percentile(seconds or [0.0], [50, 95]))
    return MeasuredSetting(point.nprobes, point.refine_factor, recall, p50, p95), error


def sweep(searched: Searched, groups: Sequence[Asked], partitions: int, recall: float) -> Swept:
    """Measure settings until it is known which reach `recall` with a standard error to spare, and choose the fastest of
    these. Runs on a worker.

    For each refine factor it goes up in probes until the recall is reached, or more probes are no use; then, for
    greater factors, down, as long as fewer probes reach it, too. Those that reach it are measured once more at the end,
    now that the index is in memory.
    """
    settings, reaching = list[MeasuredSetting](), list[MeasuredSetting]()

    def reaches(nprobes: int, refine_factor: int) -> bool:
        setting, error = measure(searched, groups, Point(nprobes, refine_factor))
        settings.append(setting)
        if setting.recall - error < recall:  # the smallest that seems to reach it would be so by luck
            return False
        reaching.append(setting)
        return True

    for refine_factor in REFINE_FACTORS:
        if reaching:
            fewer = reaching[-1].nprobes // 2
            while fewer and reaches(fewer, refine_factor):
                fewer //= 2
            if reaching[-1].refine_factor != refine_factor:
                break
            continue
        before = 0.0
        for nprobes in probes(partitions):
            if reaches(nprobes, refine_factor) or (nprobes >= USELESS_FROM and settings[-1].recall < before + USELESS):
                break
            before = settings[-1].recall
    again = [measure(searched, groups, Point(each.nprobes, each.refine_factor))[0] for each in reaching]
    chosen = min(again, key=lambda each: each.p50_ms, default=None)
    exact = [search_once(searched, asked, 0, None)[1] * 1000 for asked in groups for _ in range(EXACT_TIMES)]
    return Swept(tuple(settings), chosen, float(np.median(exact)))


def probes(most: int) -> Iterator[int]:
    """1, 2, 4, ... and `most`."""
    number = 1
    while number < most:
        yield number
        number *= 2
    yield most


@dataclass(frozen=True)
class Swept:
    """What a sweep over settings found."""

    settings: tuple[MeasuredSetting, ...]
    chosen: MeasuredSetting | None  # None if no setting reaches the recall
    exact_ms: float  # median latency of exact search


@dataclass(frozen=True)
class Measurement:
    """The measurement of a new index."""

    swept: Swept
    sampled: int  # queries that are rows of the table
    stored: int  # queries of `NAME_queries`
    filtered: MeasuredSetting | None  # the best for a filter that keeps 1 % of the rows


def measure_index(
    searched: Searched, partitions: int, recall: float, workers: Workers, number: int = QUERIES
) -> Measurement:
    """Measure the index of a version, which has so many partitions, against exact search, with `number` queries."""
    sampled, stored = sample_queries(searched, number), stored_queries(searched)
    groups = [Asked(each, best_scores(searched, each, workers)) for each in (sampled, stored) if len(each)]
    swept = one(workers, sweep, searched, groups, partitions, recall)
    filtered = None
    if swept.chosen is not None:
        few = sample_queries(searched, number // 2)
        asked = Asked(few, best_scores(searched, few, workers, ONE_PERCENT), ONE_PERCENT)
        other = one(workers, sweep, searched, [asked], partitions, recall)
        filtered = other.chosen or max(other.settings, key=lambda each: each.recall)
    return Measurement(swept, len(sampled), len(stored), filtered)


def measure_setting(searched: Searched, setting: SearchSetting, workers: Workers) -> tuple[MeasuredSetting, float]:
    """What searches by the stored setting find in this version, and the standard error of the recall."""
    both = (sample_queries(searched, seed=searched.table.version), stored_queries(searched))
    groups = [Asked(each, best_scores(searched, each, workers)) for each in both if len(each)]
    return one(workers, measure, searched, groups, Point(setting.nprobes, setting.refine_factor))
