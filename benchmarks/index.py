"""An index of a large generated table: its build, its recall, and searches beside plain LanceDB. See --help."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import tyro

from benchmarks.watched import watched
from pipelines.cluster.calls import in_this_process
from pipelines.index.measure import NOBODY, K, Queries, Searched, best_scores, found_shares, scores
from pipelines.index.scalar import cover_rows
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.tables.dataset import TableVersion
from pipelines.tables.search_setting import SearchSetting

BATCH_ROWS = 50_000
FRAGMENT_ROWS = 250_000
CLUSTERS = 1_000
INNER = 64  # dimensions in which the rows of a cluster differ, apart from a little noise in all
CATEGORIES = 100  # so that a filter on one keeps 1 % of the rows
FILTER = "category = 7"
CHANGED = "category = 11"  # the rows that change in a night
CLIENTS = 16
NAME = "t"


@dataclass(frozen=True)
class Options:
    """Build an index of generated, clustered vectors by `vista index`, and measure searches through it."""

    rows: int = 1_000_000
    """The number of rows."""
    dimension: int = 768
    """The dimension of the vectors, which are float16."""
    queries: int = 256
    """The number of queries in each measurement; they are no rows of the table."""
    repetitions: int = 5
    """How often each measurement is done, alternating with the other side."""
    folder: Path | None = None
    """The folder for the table; default: a temporary folder."""
    output: Path | None = None
    """Write the figures to this file, as JSON."""


class Generator:
    """Vectors like those of an encoder: clusters of unequal size, whose rows differ in a few directions."""

    def __init__(self, dimension: int) -> None:
        random = np.random.default_rng(0)
        self.centres = random.standard_normal((CLUSTERS, dimension)).astype(np.float32)
        self.shares = random.dirichlet(np.full(CLUSTERS, 0.5))
        directions = random.standard_normal((INNER, dimension)).astype(np.float32)
        self.directions = 0.5 * directions / np.sqrt(INNER)  # two rows of a cluster have a cosine of about 0.8

    def vectors(self, number: int, seed: int) -> np.ndarray:
        """float32 [number, dimension], of length 1."""
        random = np.random.default_rng(seed)
        chosen = random.choice(CLUSTERS, number, p=self.shares)
        inner = random.standard_normal((number, INNER)).astype(np.float32) @ self.directions
        noise = random.standard_normal((number, self.centres.shape[1]), np.float32)
        found = self.centres[chosen] + inner + 0.1 * noise
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def rows_of(numbers: np.ndarray, generator: Generator, seed: int) -> pa.RecordBatch:
    """Rows with these numbers, and generated vectors."""
    vectors = generator.vectors(len(numbers), seed).astype(np.float16)
    return pa.record_batch(
        {
            "id": pa.array([f"item-{number:09}" for number in numbers]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            "text": pa.array([f"a lamp of wood and brass, number {number}" for number in numbers]),
            "category": pa.array((numbers * 7919 % CATEGORIES).astype(np.int64)),
        }
    )


def write_table(uri: str, options: Options, generator: Generator) -> None:
    """Generate the table."""

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, options.rows, BATCH_ROWS):
            yield rows_of(np.arange(start, min(start + BATCH_ROWS, options.rows)), generator, seed=1 + start)

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("vector", pa.list_(pa.float16(), options.dimension)),
            ("text", pa.string()),
            ("category", pa.int64()),
        ]
    )
    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, uri, max_rows_per_file=FRAGMENT_ROWS, data_storage_version="2.1")


def night(uri: str, options: Options, generator: Generator) -> float:
    """Change 1 % of the rows as a night does, and let the indexes cover them. Returns the seconds of the latter."""
    table, numbers = lance.dataset(uri), np.arange(options.rows)
    table.delete(CHANGED)
    changed = rows_of(numbers[numbers * 7919 % CATEGORIES == int(CHANGED.split()[-1])], generator, seed=2)
    lance.write_dataset(pa.Table.from_batches([changed]), uri, mode="append")
    began = time.monotonic()
    cover_rows(uri)
    return time.monotonic() - began


def build(db: Path) -> dict[str, Any]:
    """Run `vista index`, and watch its memory."""
    began = time.monotonic()
    result = watched("jobs/build_index.py", "--db", str(db), "--table", NAME, "--json")
    indexes = lance.dataset(f"{db}/{NAME}.lance").describe_indices()
    return {
        "seconds": time.monotonic() - began,
        "peak_mb": result.pop("peak_mb"),
        "index_mb": {index.index_type: (index.total_size_bytes or 0) / 1e6 for index in indexes},
        "result": {name: value for name, value in result.items() if name != "worker_peak_mb"},
    }


Search = Callable[[np.ndarray, str | None], pa.Table]


def by_vista(db: Path) -> Search:
    """`Searcher` without its encoder."""
    searcher = Searcher.open(str(db), NAME, encoder=None)

    def search(vector: np.ndarray, where: str | None) -> pa.Table:
        found = searcher.answer(Query("a lamp", where=where), vector)
        assert isinstance(found, pa.Table), found
        return found

    return search


def by_lancedb(db: Path, setting: SearchSetting) -> Search:
    """Plain LanceDB by the same setting, with the same columns as a result."""
    table = lancedb.connect(str(db)).open_table(NAME)

    def search(vector: np.ndarray, where: str | None) -> pa.Table:
        query: Any = table.search(vector, vector_column_name="vector")
        query = query.distance_type(setting.metric).limit(K)
        query = query.select(["id", "text", "category", "_distance"])
        options = setting.nearest(filtered=where is not None)
        if "refine_factor" in options:
            query = query.refine_factor(options["refine_factor"])
        if where is None:
            return query.nprobes(options["nprobes"]).to_arrow()
        return query.where(where).minimum_nprobes(options["minimum_nprobes"]).maximum_nprobes(0).to_arrow()

    return search


def latencies(search: Search, vectors: np.ndarray, where: str | None, clients: int) -> tuple[np.ndarray, float]:
    """Milliseconds of each query, of `clients` at the same time, and queries per second."""

    def timed(vector: np.ndarray) -> float:
        began = time.perf_counter()
        search(vector, where)
        return (time.perf_counter() - began) * 1000

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = np.array(list(pool.map(timed, vectors)))
    return found, len(vectors) / (time.perf_counter() - began)


def compare(sides: dict[str, Search], vectors: np.ndarray, options: Options) -> list[dict[str, Any]]:
    """Latencies of all sides, which take turns, alone and with many clients, filtered and not."""
    rows = []
    for clients in (1, CLIENTS):
        for where in (None, FILTER):
            for search in sides.values():
                latencies(search, vectors, where, clients)  # once, so that all is in memory
            found: dict[str, list[tuple[np.ndarray, float]]] = {name: [] for name in sides}
            for _ in range(options.repetitions):
                for name, search in sides.items():
                    found[name].append(latencies(search, vectors, where, clients))
            row: dict[str, Any] = {"clients": clients, "filter": where or ""}
            for name, runs in found.items():
                every = np.concatenate([each for each, _ in runs])
                row |= {f"{name}_p50": float(np.percentile(every, 50)), f"{name}_p95": float(np.percentile(every, 95))}
                row[f"{name}_qps"] = float(np.median([rate for _, rate in runs]))
            medians = [[float(np.median(each)) for each, _ in runs] for runs in found.values()]
            row["ratios_p50"] = sorted(ours / theirs for ours, theirs in zip(*medians, strict=True))
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def recall(search: Search, db: Path, vectors: np.ndarray, where: str | None) -> float:
    """recall@10 of queries that are no rows of the table, against exact search."""
    table = lance.dataset(f"{db}/{NAME}.lance")
    searched = Searched(TableVersion(table.uri, table.version), "vector", "cosine")
    best = best_scores(searched, Queries(vectors, np.full(len(vectors), NOBODY)), in_this_process, where)
    found = np.full((len(vectors), K), -np.inf, np.float32)
    for number, vector in enumerate(vectors):
        keys = search(vector, where)["id"].to_pylist()
        if keys:
            listed = ", ".join(f"'{key}'" for key in keys)
            rows = table.to_table(["vector"], f"id IN ({listed})")["vector"]
            near = np.stack(rows.to_numpy()).astype(np.float32)
            found[number, : len(keys)] = scores(vector[None], near, "cosine")[0]
    return float(found_shares(found, best).mean())


def main(options: Options) -> None:
    """Print the figures of each part when it ends."""
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        generator, db = Generator(options.dimension), folder / "db"
        began = time.monotonic()
        write_table(f"{db}/{NAME}.lance", options, generator)
        print(f"{options.rows:,} rows generated in {time.monotonic() - began:.0f} s", flush=True)
        figures: dict[str, Any] = {"rows": options.rows, "dimension": options.dimension, "build": build(db)}
        print(json.dumps(figures["build"]), flush=True)
        setting = SearchSetting.of(lance.dataset(f"{db}/{NAME}.lance"), "vector")
        assert setting is not None, "too few rows for an index"
        vectors = generator.vectors(options.queries, seed=0)
        sides = {"vista": by_vista(db), "lancedb": by_lancedb(db, setting)}
        figures["recall"] = {
            f"{name}{', filtered' if where else ''}": recall(search, db, vectors, where)
            for name, search in sides.items()
            for where in (None, FILTER)
        }
        print(json.dumps(figures["recall"]), flush=True)
        figures["searches"] = compare(sides, vectors, options)
        figures["night_seconds"] = night(f"{db}/{NAME}.lance", options, generator)
        figures["recall_after_night"] = [recall(by_vista(db), db, vectors, where) for where in (None, FILTER)]
        print(json.dumps({name: figures[name] for name in ("night_seconds", "recall_after_night")}), flush=True)
    finally:
        shutil.rmtree(folder)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
