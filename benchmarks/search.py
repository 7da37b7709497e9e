"""Measures the search: the start of the command, and what a warm query takes beside its encoder and LanceDB.

    python -m benchmarks.search [--db URI --table NAME]

Without --db it makes a table of generated rows with the vectors of vista-tiny. What is compared takes turns, in one
run. The start of the command is compared with a Python that imports torch alone. torch gets one thread: on a busy
machine, threads that wait for each other would take longer than all the rest.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import torch
import tyro

from pipelines.search import Searcher
from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.origin import Origin, marked
from pipelines.tables.search_setting import SearchSetting
from pipelines.tables.vector_column import VectorColumn
from vista_core import Encoder, EncoderSettings, Record

MODEL = "vista-tiny"
QUERY = "a small lamp for the desk"
BESIDE = "beside Python and torch"
SETTING = SearchSetting("vector_rq", 16, 4, 0.95, 0.95)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    db: str | None = None
    """the database of a published table; default: one that is made for this"""
    table: str = "generated"
    """name of the table"""
    rows: int = 100_000
    """rows of the table that is made"""
    starts: int = 5
    """how often the command is started"""
    queries: int = 200
    """how many queries are timed"""


def make_table(folder: str, rows: int) -> str:
    """A published table with an index on generated vectors and one on its texts."""
    identity = Encoder.load(EncoderSettings(MODEL, dtype="float32", device="cpu")).identity
    vectors = np.random.default_rng(0).standard_normal((rows, identity.dimension)).astype(np.float16)
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), identity.dimension)
    ids, texts = [f"row-{i}" for i in range(rows)], [f"lamp {i} for desk {i % 997}" for i in range(rows)]
    fields = [pa.field("id", pa.string()), pa.field("text", pa.string()), VectorColumn("vector", identity).field]
    schema = marked(pa.schema(fields), Origin(MODEL))
    dataset = lance.write_dataset(pa.table([ids, texts, values], schema=schema), f"{folder}/generated.lance")
    dataset.create_index("vector", "IVF_RQ", name=SETTING.index, num_partitions=64, num_bits=1, metric="cosine")
    dataset.create_scalar_index("text", "INVERTED", with_position=False)
    dataset = SETTING.store(lance.dataset(dataset.uri))
    dataset.tags.create(PUBLISHED, dataset.version)
    return folder


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, in so many rounds after one that isn't counted."""
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds + 1)]
    return {name: [each[name] for each in times[1:]] for name in calls}


def show_starts(db: str, options: Options) -> None:
    """Print how long the command takes from its start to its end, and a Python that imports torch."""

    def python(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    search = ["jobs/search.py", "--db", db, "--table", options.table, "--text", QUERY]
    calls = {
        "Python": python("-c", ""),
        "Python and torch": python("-c", "import torch"),
        "vista search": python(*search),
        "vista search --mode text": python(*search, "--mode", "text"),
    }
    rounds = [{name: seconds_and_cpu(call) for name, call in calls.items()} for _ in range(options.starts + 1)][1:]
    rounds = [{**each, BESIDE: difference(each["vista search"], each["Python and torch"])} for each in rounds]
    for name in rounds[0]:
        wall, cpu = (statistics.median(each[name][place] for each in rounds) for place in (0, 1))
        print(f"{name:26} {wall:6.2f} s, {cpu:6.2f} s of CPU time (medians of {options.starts})")


def seconds_and_cpu(call: Callable[[], object]) -> tuple[float, float]:
    """How long a call takes that runs a process, and that process's CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = seconds(call)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def difference(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Both figures of the one without those of the other."""
    return one[0] - other[0], one[1] - other[1]


def show_queries(db: str, options: Options) -> None:
    """Print how long a warm query takes, and its encoder and LanceDB alone with the same setting."""
    searcher = Searcher.open(db, options.table)
    encoder = searcher.needed_encoder
    table = lancedb.connect(db).open_table(options.table)
    table.checkout(PUBLISHED)
    [vector] = encoder.encode([Record(QUERY)])
    shown = [*searcher.table.columns.values(), *([searcher.table.id] if searcher.table.id else [])]

    def plain(exact: bool) -> Any:
        query: Any = table.search(vector, vector_column_name=searcher.table.vector)
        query = query.distance_type("cosine").limit(10)
        setting = searcher.table.method.setting
        if exact or setting is None:
            return query.bypass_vector_index().select([*shown, "_distance"]).to_arrow()
        query = query.nprobes(setting.nprobes).select([*shown, "_distance"])
        return (query.refine_factor(setting.refine_factor) if setting.refine_factor else query).to_arrow()

    for exact in (False, True):
        calls: dict[str, Callable[[], object]] = {
            "search": partial(searcher.search, QUERY, exact=exact),
            "encoder": partial(encoder.encode, [Record(QUERY)]),
            "LanceDB": partial(plain, exact),
        }
        times = in_turns(calls, options.queries)
        overhead = [1e3 * (a - b - c) for a, b, c in zip(*times.values(), strict=True)]
        p50 = {name: 1e3 * statistics.median(each) for name, each in times.items()}
        p95 = {name: 1e3 * statistics.quantiles(each, n=20)[-1] for name, each in times.items()}
        print(f"{'exact' if exact else 'by the stored setting'}, {options.queries} queries, ms at p50 / p95:")
        print(", ".join(f"{name} {p50[name]:.2f} / {p95[name]:.2f}" for name in calls))
        print(f"beside the encoder and LanceDB: {statistics.median(overhead):.2f} ms at p50")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        db = str(Path(options.db).resolve()) if options.db else make_table(folder, options.rows)
        show_queries(db, options)
        show_starts(db, options)


if __name__ == "__main__":
    main()
