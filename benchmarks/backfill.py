"""A backfill of a large table with a no-op encoder: the cost of everything but encoding. See --help."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lance
import numpy as np
import pyarrow as pa
import tyro

from benchmarks.scale import GPU_BATCH, records
from benchmarks.watched import watched

if TYPE_CHECKING:
    from pipelines.backfill.run import Setup

FRAGMENT_ROWS = 250_000
WRITTEN = 100_000  # rows that are generated at once
DIMENSION = 128  # of vista-tiny
TWO_CPUS = 2


@dataclass(frozen=True)
class Options:
    """Measure a first backfill of a generated table of texts, one that has nothing to do, and `lance_ray.add_columns`
    on the same rows (needs the extra `bench`)."""

    rows: int = 10_000_000
    """The number of rows."""
    folder: Path | None = None
    """The folder for the tables; default: a temporary folder."""
    output: Path | None = None
    """Write the figures to this file, as JSON."""


def write_table(uri: str, rows: int) -> None:
    """A table of products, as another client makes it."""
    parts = (records(np.arange(start, min(start + WRITTEN, rows))) for start in range(0, rows, WRITTEN))
    batches = (batch for part in parts for batch in part.to_batches())
    schema = records(np.arange(1)).schema
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), uri, max_rows_per_file=FRAGMENT_ROWS)


def without_encoder() -> Setup:
    """A run with a no-op encoder and without the canary gate, which would reject its vectors."""
    from benchmarks.scale import NoEncoder
    from pipelines.backfill.gates import GATES
    from pipelines.backfill.run import Setup
    from pipelines.stages.pool import Stages

    return Setup(stages=Stages(encoder=NoEncoder), gates=[gate for gate in GATES if gate.__name__ != "canary"])


def fill(db: str) -> None:
    """Run a backfill in this process and print its figures."""
    from pipelines.backfill.config import BackfillConfig
    from pipelines.backfill.run import backfill
    from pipelines.backfill.summary import Summary

    started = time.monotonic()
    config = BackfillConfig(db, "t", ("vector",), ("vista-tiny",), transport_rows=GPU_BATCH, report="none")
    summary = backfill(config, without_encoder())
    assert isinstance(summary, Summary)
    print(json.dumps(figures(f"{db}/t.lance", started) | {"written": summary.counts.written}))


def add_columns(uri: str) -> None:
    """Add a column of vectors by lance_ray in this process and print the figures."""
    import lance_ray
    import ray

    started = time.monotonic()
    ray.init(log_to_driver=False, num_cpus=TWO_CPUS)
    schema = pa.schema([("vector", pa.list_(pa.float16(), DIMENSION))])
    lance_ray.add_columns(uri, transform=random_vectors, read_columns=["text"], reader_schema=schema, concurrency=2)
    print(json.dumps(figures(uri, started)))


def random_vectors(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Vectors of norm 1, as the no-op encoder gives them."""
    random = np.random.default_rng(0).standard_normal((1024, DIMENSION)).astype(np.float32)
    vectors = (random / np.linalg.norm(random, axis=1, keepdims=True)).astype(np.float16)
    values = pa.array(vectors[np.arange(len(batch)) % len(vectors)].reshape(-1))
    return pa.record_batch([pa.FixedSizeListArray.from_arrays(values, DIMENSION)], names=["vector"])


def figures(uri: str, started: float) -> dict[str, float]:
    """What a run took, and what it left."""
    table = lance.dataset(uri)
    return {
        "seconds": time.monotonic() - started,
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": len(table.versions()),
        "fragments": len(table.get_fragments()),
        "rows": table.count_rows(),
        "without": table.count_rows("vector IS NULL"),
    }


def main(options: Options) -> None:
    """Print the figures of each run when it ends."""
    found: dict[str, object] = {"rows": options.rows}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_table(f"{folder}/t.lance", options.rows)
        shutil.copytree(f"{folder}/t.lance", f"{folder}/other.lance")
        module = "benchmarks.backfill"
        for name, arguments in (
            ("first run", ("--fill", folder)),
            ("second run", ("--fill", folder)),
            ("lance_ray.add_columns", ("--add-columns", f"{folder}/other.lance")),
        ):
            found[name] = watched("-m", module, *arguments)
            print(f"{name}: {found[name]}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fill"]:
        fill(sys.argv[2])
    elif sys.argv[1:2] == ["--add-columns"]:
        add_columns(sys.argv[2])
    else:
        main(tyro.cli(Options, description=__doc__))
