"""Compare forecasts with what runs take: `python -m benchmarks.forecast` (`make bench-forecast`).

Of each catalog `vista embed --plan` forecasts the run by a probe, then the run itself does by its first minute. Both
are compared with what the run took, from its start to its end. Nothing else should run on the machine: a forecast holds
only as long as the run has the cores that it was made with.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import lance
import tyro

from benchmarks.corpus import mixed, write
from benchmarks.job import settings

ROOT = Path(__file__).resolve().parents[1]
PLANNED = re.compile(r"rows to embed: (?:(\d+) h )?(?:(\d+) min ?)?(?:(\d+) s)? at ")
GOAL = 0.2


@dataclass(frozen=True)
class Options:
    """How many records each catalog has. A run should take two minutes, to have a first minute."""

    mixed: int = 6000
    """with the base model, a third of the records has an image"""
    images: int = 3000
    """with the base model, each record has an image, half of them a text as well"""
    texts: int = 12_000
    """with the base model, texts only"""
    quick: int = 200_000
    """texts with vista-tiny"""


def embed(*arguments: str) -> str:
    """What `vista embed` prints; it starts a Ray of its own."""
    environment = os.environ | {"RAY_ADDRESS": "local"}
    command = [sys.executable, "jobs/embed_corpus.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def planned_seconds(said: str) -> float:
    """The forecast in the output of --plan."""
    if (found := PLANNED.search(said)) is None:
        raise SystemExit(f"--plan has no forecast:\n{said}")
    hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def beside(forecast: float, took: float) -> str:
    """A forecast, and by how much it is too high or too low."""
    share = forecast / took - 1
    return f"{forecast:>5.0f} s {share:+4.0%}{' ' if abs(share) <= GOAL else '!'}"


def measure(name: str, catalog: Path, encoder: list[str], folder: Path) -> None:
    """Forecast a run, run it, and print both."""
    db = str(folder / "db")
    arguments = ["--source", str(catalog), "--db", db, "--table", name, "--report", "none", *encoder]
    planned = planned_seconds(embed(*arguments, "--plan"))
    embed(*arguments)
    [run] = lance.dataset(f"{db}/{name}_runs.lance").to_table().to_pylist()
    took = (run["finished"] - run["started"]).total_seconds()
    if run["forecast_seconds"] is None:
        minute = "too short for one"
    else:
        minute = f"{beside(run['forecast_seconds'], took)} (after {run['forecast_after']:.0f} s)"
    print(f"{name:<8} took {took:>4.0f} s   --plan {beside(planned, took)}   its first minute {minute}", flush=True)


def main(options: Options) -> None:
    """Measure each catalog once. `!` marks a forecast that missed by more than 20 %."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        chosen = settings(folder)
        base = ["--model", chosen.model, "--weights", str(chosen.weights), "--from-pretrained", str(folder / "text")]
        for name, records, share, encoder in (
            ("mixed", options.mixed, 1 / 3, base),
            ("images", options.images, 1.0, base),
            ("texts", options.texts, 0.0, base),
            ("quick", options.quick, 0.0, []),
        ):
            if records:
                measure(name, write(mixed(records, share), folder / f"{name}.parquet"), encoder, folder)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
