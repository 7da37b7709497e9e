"""Nightly runs over a large catalog with a no-op encoder: the cost of the job without encoding. See --help."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro

from benchmarks.watched import watched
from pipelines.records import INPUT_IDS, PIXELS, VECTOR, Slot
from vista_core import EncoderIdentity

if TYPE_CHECKING:
    from pipelines.embed.run import Setup

FILE_ROWS = 100_000
GROUP_ROWS = 25_000
# Shares of the records in a night; changes are scattered over all files.
CHANGED, NEW, GONE, MOVED = 0.01, 0.005, 0.001, 0.001
GPU_BATCH = 1024  # rows per batch, as for an encoder on a GPU


@dataclass(frozen=True)
class Options:
    """Measure a first load of a generated catalog, a night without changes, and one with 1 % changes in all files."""

    rows: int = 10_000_000
    """The number of records."""
    folder: Path | None = None
    """The folder for catalog and table; default: a temporary folder."""
    output: Path | None = None
    """Write the figures to this file, as JSON."""


class NoEncoder:
    """Replaces the encode actor: returns random vectors of norm 1 immediately."""

    def __init__(self, settings: object, identity: EncoderIdentity, actors_per_node: int, slot: Slot) -> None:
        random = np.random.default_rng(0).standard_normal((1024, identity.dimension)).astype(np.float32)
        self.vectors = (random / np.linalg.norm(random, axis=1, keepdims=True)).astype(np.float16)

    def __call__(self, records: pa.Table) -> pa.Table:
        """Replace the encoder's input columns by a vector column, like the encode actor."""
        vectors = self.vectors[np.arange(len(records)) % len(self.vectors)]
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        return records.drop_columns([INPUT_IDS, PIXELS]).append_column(VECTOR, column)


def records(numbers: np.ndarray) -> pa.Table:
    """A product for each number, with about 60 bytes of text."""
    text = pa.array(numbers).cast(pa.string())
    ids = pc.binary_join_element_wise("item-", pc.utf8_lpad(text, 12, "0"), "")
    texts = pc.binary_join_element_wise("a lamp for the desk, made of oak and brass, number ", text, "")
    return pa.table({"id": ids, "text": texts, "price": pa.array(numbers % 1000)})


def write_catalog(folder: Path, rows: int) -> None:
    """Write the files of the first load."""
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        table = records(np.arange(start, min(start + FILE_ROWS, rows)))
        pq.write_table(table, folder / f"part-{number:05d}.parquet", row_group_size=GROUP_ROWS)


def next_night(folder: Path, rows: int) -> dict[str, int]:
    """Change, add, remove and move records in every file; return the number of each."""
    random, done = np.random.default_rng(1), dict.fromkeys(("changed", "new", "gone", "moved"), 0)
    moving, added = None, rows
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        order = random.permutation(len(table))
        cuts = np.cumsum([round(share * len(table)) for share in (CHANGED, GONE, MOVED)])
        changed, gone, moved = np.split(order[: cuts[-1]], cuts[:-1])
        texts = table["text"].to_numpy(zero_copy_only=False).astype(object)
        texts[changed] = texts[changed] + ", now in walnut"
        table = table.set_column(1, "text", pa.array(texts, pa.string()))
        leaving = table.take(moved)
        kept = table.filter(pa.array(~np.isin(np.arange(len(table)), np.concatenate([gone, moved]))))
        new = records(np.arange(added, added + round(NEW * len(table))))
        parts = [kept, new] if moving is None else [kept, new, moving]
        pq.write_table(pa.concat_tables(parts), path, row_group_size=GROUP_ROWS)
        for name, number in zip(
            done, (len(changed), len(new), len(gone), 0 if moving is None else len(moving)), strict=True
        ):
            done[name] += number
        moving, added = leaving, added + len(new)
    done["gone"] += 0 if moving is None else len(moving)  # records leaving the last file have no file to move to
    return done


def without_encoder() -> Setup:
    """A run with a no-op encoder and without the canary gate, which would reject its vectors."""
    from benchmarks.scale import NoEncoder as Imported  # under a module name that workers can import
    from pipelines.embed.finish import Gates
    from pipelines.embed.run import Setup
    from pipelines.gates.judge import OF_THE_RUN, OF_THE_TABLE
    from pipelines.stages.pool import Stages

    of_the_table = tuple(gate for gate in OF_THE_TABLE if gate.__name__ != "canary")
    return Setup(stages=Stages(encoder=Imported), gates=Gates(OF_THE_RUN, of_the_table))


def night(source: str, db: str) -> None:
    """Run the job once in this process and print its figures."""
    from pipelines.embed.config import EmbedConfig
    from pipelines.embed.run import embed
    from pipelines.embed.summary import Summary

    started = time.monotonic()
    summary = embed(EmbedConfig(source, db, "t", transport_rows=GPU_BATCH), without_encoder())
    assert isinstance(summary, Summary)
    counts = {name: value for name, value in vars(summary.counts).items() if isinstance(value, int)}
    table = lance.dataset(f"{db}/t.lance")
    figures = {
        "seconds": time.monotonic() - started,
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": len(table.versions()),
        "fragments": len(table.get_fragments()),
        "rows": table.count_rows(),
    }
    print(json.dumps(figures | counts))


def main(options: Options) -> None:
    """Print the figures of each night when it ends."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, db = Path(folder, "source"), Path(folder, "db")
        source.mkdir()
        write_catalog(source, options.rows)
        figures: dict[str, object] = {"rows": options.rows}
        for name in ("first load", "no change", "1 % changed"):
            if name == "1 % changed":
                figures["changes"] = next_night(source, options.rows)
                print(figures["changes"], flush=True)
            figures[name] = watched("-m", "benchmarks.scale", "--night", str(source), str(db))
            print(f"{name}: {figures[name]}", flush=True)
        size = sum(path.stat().st_size for path in db.rglob("*") if path.is_file())
        print(f"the database takes {size / 1e9:.2f} GB")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--night"]:
        night(*sys.argv[2:])
    else:
        main(tyro.cli(Options, description=__doc__))
