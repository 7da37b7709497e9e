"""Exact search of an evaluation over a large generated table, beside a plain product in torch. See --help."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import tyro

from benchmarks.watched import watched

BATCH = 50_000
DEPTH = 100
CPUS = 2


@dataclass(frozen=True)
class Options:
    """Measure the exact search of `vista evaluate` on workers, and beside it torch's product and topk over vectors that
    are in memory as float32."""

    rows: int = 1_000_000
    """The number of documents."""
    queries: int = 1_000
    """The number of queries."""
    dimension: int = 768
    """The dimension of the vectors, which are stored as float16."""
    folder: Path | None = None
    """The folder for the table; default: a temporary folder."""


def write_table(uri: str, options: Options) -> None:
    """Random vectors of norm 1."""
    random = np.random.default_rng(0)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, options.rows, BATCH):
            rows = min(BATCH, options.rows - start)
            vectors = random.standard_normal((rows, options.dimension), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            values = pa.array(vectors.astype(np.float16).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(values, options.dimension)
            ids = pa.array([f"d{number}" for number in range(start, start + rows)])
            yield pa.record_batch([ids, column], names=["id", "vector"])

    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float16(), options.dimension))])
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), uri)


def asked(queries: int, dimension: int) -> np.ndarray:
    """Random queries."""
    return np.random.default_rng(1).standard_normal((queries, dimension), np.float32)


def by_vista(uri: str, queries: int, dimension: int) -> None:
    """Search on workers of Ray, and print the figures."""
    import ray

    from pipelines.cluster.tasks import as_completed
    from pipelines.quality.exact import Vectors, search_exactly
    from pipelines.tables.dataset import TableVersion

    ray.init(log_to_driver=False, num_cpus=CPUS)
    list(as_completed(abs, [(1,), (2,)]))  # workers are started
    started = time.monotonic()
    vectors = Vectors(TableVersion(uri, lance.dataset(uri).version), "vector", "id")
    found = search_exactly(vectors, asked(queries, dimension), DEPTH, as_completed, ray.put)
    print(json.dumps({"seconds": time.monotonic() - started, "first": found.ids[0][0]}))


def by_torch(uri: str, queries: int, dimension: int) -> None:
    """Read all vectors into memory, multiply, and print the figures; reading is counted apart."""
    import torch

    started = time.monotonic()
    rows = lance.dataset(uri).to_table(["vector"])["vector"]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).astype(np.float32) for chunk in rows.chunks]
    vectors = torch.from_numpy(np.concatenate(parts).reshape(-1, dimension))
    read = time.monotonic() - started
    queries_matrix = torch.nn.functional.normalize(torch.from_numpy(asked(queries, dimension)))
    started = time.monotonic()
    best = torch.topk(queries_matrix @ vectors.T, DEPTH)
    print(json.dumps({"seconds": time.monotonic() - started, "reading": read, "first": f"d{int(best.indices[0, 0])}"}))


def main(options: Options) -> None:
    """Print the figures of both."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        uri = f"{folder}/t.lance"
        write_table(uri, options)
        for name in ("--vista", "--torch"):
            found = watched("-m", "benchmarks.evaluate", name, uri, str(options.queries), str(options.dimension))
            print(f"{name[2:]}: {found}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["--vista"], ["--torch"]):
        run = by_vista if sys.argv[1] == "--vista" else by_torch
        run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(tyro.cli(Options, description=__doc__))
