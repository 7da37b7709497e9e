"""Load on `vista serve` while nights publish: `python -m benchmarks.serve` (`make bench-serve`).

A catalog is embedded and served. Queries arrive at a fixed rate, whether or not earlier ones are answered: by text, by
a row, by words, by an image, with a filter, and for thumbnails. Meanwhile the embedding job runs some nights, each of
which changes the column `night` of every row. An answer whose rows are of two nights, or of another night than its
version, is mixed. Latencies count from the time at which a query was due, so a server that stalls is not flattered.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import lance
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from pipelines.sample_catalog import SCHEMA, draw, records
from pipelines.tables.dataset import PUBLISHED, table_uri

JOBS = Path(__file__).resolve().parents[1] / "jobs"
TABLE = "shapes"
ADDRESS = re.compile(r"at (http://\S+)/ ")
LONGEST_SECONDS = 30.0  # that a query is waited for
SAMPLE_SECONDS = 5.0  # between looks at the server's memory


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rate: float = 50.0
    """queries a second"""
    minutes: float = 10.0
    """how long"""
    nights: int = 2
    """how many runs of the embedding job publish meanwhile"""
    copies: int = 3
    """rows of the catalog, in multiples of 336"""
    output: Path | None = None
    """also write the figures to this file, as JSON"""


@dataclass
class Figures:
    """What was seen."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds, by kind of query
    failed: Counter[str] = field(default_factory=Counter)  # by HTTP status, or error
    mixed: int = 0
    nights: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))  # by version
    memory: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, bytes
    published: list[float] = field(default_factory=list)  # seconds since the start at which a night had ended


def write_catalog(folder: Path, night: int, copies: int) -> None:
    """The sample catalog `copies` times, each row with the number of the night."""
    rows = [{**row, "id": f"{row['id']}-{copy}", "night": night} for copy in range(copies) for row in records()]
    folder.mkdir(exist_ok=True)
    schema = SCHEMA.append(pa.field("night", pa.int64()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "catalog.parquet", row_group_size=256)


def embed_command(folder: Path) -> list[str]:
    """The embedding job, as users run it at night."""
    source, db = folder / "catalog" / "catalog.parquet", folder / "db"
    command = [sys.executable, str(JOBS / "embed_corpus.py"), "--source", str(source), "--db", str(db)]
    return [*command, "--table", TABLE, "--store-images", "--device", "cpu"]


def index_words(folder: Path) -> None:
    """Make a full-text index, for queries by words, and publish the version that has it."""
    table = lance.dataset(table_uri(str(folder / "db"), TABLE))
    table.create_scalar_index("text", "INVERTED", with_position=False)
    table.tags.update(PUBLISHED, lance.dataset(table.uri).version)


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server of the table, and its address."""
    command = [sys.executable, str(JOBS / "serve.py"), "--db", str(folder / "db"), "--table", TABLE, "--port", "0"]
    with (
        (folder / "serve.log").open("w+") as log,
        subprocess.Popen([*command, "--device", "cpu"], stderr=log) as process,
    ):
        try:
            while (address := ADDRESS.search((folder / "serve.log").read_text())) is None:
                if process.poll() is not None:
                    raise RuntimeError((folder / "serve.log").read_text())
                time.sleep(0.2)
            yield address[1], psutil.Process(process.pid)
        finally:
            process.terminate()


def queries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Kinds of queries and their forms, always the same ones in turn."""
    rows = list(records())
    picture = draw("star", "yellow", "blue")
    for number in itertools.count():
        row = rows[number * 37 % len(rows)]
        text = f"a {row['shape']} of {row['id'].split('-')[1]} colour, number {number}"
        yield from (
            ("text", {"text": text}),
            ("like", {"like": f"{row['id']}-0"}),
            ("text", {"text": f"{text}, large", "where": f"price < {20 + number % 60}"}),
            ("words", {"text": f"{row['shape']} {row['id'].split('-')[1]}", "mode": "text"}),
            ("text", {"text": f"{text}, small"}),
            ("image", {"image": picture, "text": text}),
            ("hybrid", {"text": text, "mode": "hybrid"}),
            ("thumbnail", {"id": f"{row['id']}-0"}),
        )


async def ask(session: aiohttp.ClientSession, kind: str, fields: dict[str, Any], due: float, figures: Figures) -> None:
    """Send one query, and note how it went."""
    try:
        if kind == "thumbnail":
            async with session.get("/api/image", params=fields) as answer:
                status = answer.status if answer.status != 404 else 200  # rows without an image are queried, too
                await answer.read()
        else:
            async with session.post("/api/search", data=form_of(fields)) as answer:
                status = answer.status
                found = await answer.json()
                if status == 200:
                    check(found, figures)
    except (aiohttp.ClientError, TimeoutError) as error:
        figures.failed[type(error).__name__] += 1
        return
    if status != 200:
        figures.failed[str(status)] += 1
    figures.latencies[kind].append(time.monotonic() - due)


def form_of(fields: dict[str, Any]) -> aiohttp.FormData:
    """A multipart form; bytes are a file."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(
            name, value if isinstance(value, bytes) else str(value), filename="q" if isinstance(value, bytes) else None
        )
    return form


def check(found: dict[str, Any], figures: Figures) -> None:
    """Count an answer that is of two nights."""
    nights = {row["night"] for row in found["results"]}
    figures.nights[found["version"]] |= nights
    figures.mixed += len(nights) > 1 or len(figures.nights[found["version"]]) > 1


async def load(address: str, process: psutil.Process, folder: Path, options: Options) -> Figures:
    """Send queries at the rate while nights run, and look at the server's memory."""
    figures, start, end = Figures(), time.monotonic(), options.minutes * 60
    timeout = aiohttp.ClientTimeout(total=LONGEST_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(address, timeout=timeout, connector=connector) as session:
        others = [
            asyncio.create_task(watch(process, start, figures)),
            asyncio.create_task(nights(folder, start, options, figures)),
        ]
        asked: set[asyncio.Task[None]] = set()
        for number, (kind, fields) in enumerate(queries()):
            due = start + number / options.rate
            if due - start >= end and others[1].done():
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(ask(session, kind, fields, due, figures))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)
        others[0].cancel()
        await others[1]
    return figures


async def watch(process: psutil.Process, start: float, figures: Figures) -> None:
    """Note the server's memory until cancelled."""
    while True:
        figures.memory.append((time.monotonic() - start, process.memory_info().rss))
        await asyncio.sleep(SAMPLE_SECONDS)


async def nights(folder: Path, start: float, options: Options, figures: Figures) -> None:
    """Run the embedding job, evenly spread over the time."""
    for night in range(1, options.nights + 1):
        due = start + options.minutes * 60 * night / (options.nights + 2)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        write_catalog(folder / "catalog", night, options.copies)
        job = await asyncio.create_subprocess_exec(
            *embed_command(folder), stdout=subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await job.communicate()
        if job.returncode:
            raise RuntimeError(errors.decode())
        figures.published.append(time.monotonic() - start)


def report(figures: Figures, options: Options) -> dict[str, Any]:
    """The figures in short."""
    every = [each for kind in figures.latencies.values() for each in kind]
    quarters = np.array_split([size for _, size in figures.memory], 4)
    return {
        "options": {**asdict(options), "output": None},
        "queries": len(every),
        "failed": dict(figures.failed),
        "mixed": figures.mixed,
        "versions": {version: sorted(of) for version, of in sorted(figures.nights.items())},
        "published at seconds": [round(each) for each in figures.published],
        "latency ms p50, p95, p99": {
            kind: [round(1000 * float(each), 1) for each in np.percentile(values, (50, 95, 99))]
            for kind, values in {**figures.latencies, "all": every}.items()
        },
        "memory MB at the start, and median of each quarter": [
            round(each / 1e6) for each in (figures.memory[0][1], *(float(np.median(part)) for part in quarters))
        ],
        "cores": os.cpu_count(),
    }


def main() -> None:
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_catalog(folder / "catalog", 0, options.copies)
        subprocess.run(embed_command(folder), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        index_words(folder)
        with server(folder) as (address, process):
            figures = asyncio.run(load(address, process, folder, options))
    found = report(figures, options)
    print(json.dumps(found, indent=2))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2))
    if figures.failed or figures.mixed:
        sys.exit(1)


if __name__ == "__main__":
    main()
