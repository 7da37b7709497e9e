"""Compares the reading speed of each source with that of the library for its format: `python -m benchmarks.sources`.

Records with small images are written in each form to a local folder. They are read in turns by the source, and by a
plain loop over pyarrow, tarfile or Lance that reads the same bytes without any checks. Both use one thread, except for
folders, of which the source fetches 16 files at a time.
"""

from __future__ import annotations

import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import tyro

from benchmarks import catalogs
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.source import Source


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rows: int = 2000
    """records with an image; text formats get a hundred times as many, without images"""
    image_bytes: int = 50_000
    """size of an image"""
    repetitions: int = 5
    """how often each form is read"""


def catalog(rows: int, image_bytes: int) -> pa.Table:
    """Records with random bytes as images, which are as expensive to read as real ones."""
    draw = np.random.default_rng(0)
    texts = [" ".join(f"word{n}" for n in draw.integers(0, 5000, 12)) for _ in range(rows)]
    columns = {"id": [f"item-{n:08}" for n in range(rows)], "text": texts, "price": draw.random(rows).round(2)}
    return pa.table(columns | {"image": [draw.bytes(image_bytes) if image_bytes else None for _ in range(rows)]})


def plain_parquet(uri: str) -> int:
    file = pq.ParquetFile(uri)
    return sum(len(batch) for group in range(file.num_row_groups) for batch in file.iter_batches(row_groups=[group]))


def plain_tar(uri: str) -> int:
    keys = set()
    for path in sorted(Path(uri).parent.glob("*.tar")):
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None and content.read():
                    keys.add(member.name.partition(".")[0])
    return len(keys)


def plain_folder(uri: str) -> int:
    contents = {path: path.read_bytes() for path in sorted(Path(uri).iterdir())}
    return sum(path.suffix == ".png" for path in contents)


def plain_arrow(uri: str) -> int:
    with Path(uri, "data-00000-of-00001.arrow").open("rb") as file:
        return sum(len(batch) for batch in pa.ipc.open_stream(file))


def plain_lance(uri: str) -> int:
    return sum(len(batch) for fragment in lance.dataset(uri).get_fragments() for batch in fragment.to_batches())


def plain_json(uri: str) -> int:
    return len(pa.json.read_json(uri, read_options=pa.json.ReadOptions(use_threads=False)))


def plain_csv(uri: str) -> int:
    return len(pa.csv.read_csv(uri, read_options=pa.csv.ReadOptions(use_threads=False)))


PLAIN: dict[str, Callable[[str], int]] = {
    "parquet": plain_parquet,
    "webdataset": plain_tar,
    "folder": plain_folder,
    "arrow": plain_arrow,
    "lance": plain_lance,
    "jsonl": plain_json,
    "csv": plain_csv,
}
TEXT_FORMS = ("jsonl", "csv")


def read(source: Source) -> int:
    """All records of a source, as a worker reads them. Opening it is start-up, which doesn't grow with the rows."""
    return sum(len(records) for unit in source.units() for records, _ in source.read(unit))


def timed(call: Callable[[], int], rows: int) -> float:
    """Rows per second."""
    began = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - began
    assert found == rows, f"{found} of {rows} rows"
    return rows / seconds


def measure(form: str, options: Options, folder: Path) -> None:
    """Measure one form, and print a line."""
    many = form in TEXT_FORMS
    rows = options.rows * (100 if many else 1)
    uri = catalogs.write(catalog(rows, 0 if many else options.image_bytes), form, str(folder / form))
    size = sum(path.stat().st_size for path in (folder / form).rglob("*") if path.is_file()) / 1e6
    ours, theirs = [], []
    for _ in range(options.repetitions):
        theirs.append(timed(partial(PLAIN[form], uri), rows))
        ours.append(timed(partial(read, open_source(uri, Columns())), rows))
    ratios = sorted(mine / plain for mine, plain in zip(ours, theirs, strict=True))
    spread = f"x{ratios[0]:.2f} / x{statistics.median(ratios):.2f} / x{ratios[-1]:.2f}"
    for_all = statistics.median(ours)
    print(f"{form:<12}{statistics.median(theirs):>12,.0f}{for_all:>12,.0f}{for_all / rows * size:>10,.0f}   {spread}")


def main(options: Options) -> None:
    """Measure each form."""
    print(f"{'':<12}{'plain rows/s':>12}{'rows/s':>12}{'MB/s':>10}   ratio min/median/max")
    for form in PLAIN:
        with tempfile.TemporaryDirectory() as folder:
            measure(form, options, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
