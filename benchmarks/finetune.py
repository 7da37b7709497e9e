"""Steps of a training beside those of a plain padded loop over the same modules.

    python -m benchmarks.finetune [--steps 6] [--output FILE]

Two kinds of pairs: edits of drawn scenes, whose texts are short, and descriptions of very different lengths that find a
scene with another description. The plain loop decodes and tokenizes in line, pads the texts of a batch to the longest,
and sends queries, positives and negatives through the model apart. Both take the same batches, turn by turn. The
floating point operations are those of a step without padding; the rate of products is measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.corpus import texts
from pipelines.drawings.training import write_training
from pipelines.finetune.batches import Batches, loaded_ahead
from pipelines.finetune.images import ImageBytes
from pipelines.finetune.layout import read_layout
from pipelines.finetune.plan import Plan
from pipelines.finetune.prepared import Prepared
from pipelines.finetune.processes import Processes
from pipelines.finetune.recipe import Recipe
from pipelines.finetune.step import Computation, loss_and_backward
from pipelines.finetune.training import State
from vista_core import MODELS, EncoderSettings, Preprocessor
from vista_core.checkpoint import load_model
from vista_core.model import VistaModel
from vista_core.synthetic import synthetic_checkpoint

MODEL, BATCH, NEGATIVES = "vista-tiny", 64, 1
TEMPERATURE = 0.02


def described(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pairs of drawn scenes with long texts instead of their own."""
    words = texts(4 * len(lines))
    for line in lines:
        negatives = [[image, next(words)] for image, _ in line["hard_negative"][:NEGATIVES]]
        yield line | {"query": next(words), "positive": [line["positive"][0], next(words)], "hard_negative": negatives}


def prepare(folder: Path) -> Prepared:
    """The pairs of both kinds."""
    train = folder / "train"
    write_training(train, 1500, seed=0)
    lines = [json.loads(line) for line in (train / "t2it.jsonl").read_text().splitlines()]
    (train / "t2i.jsonl").unlink()  # has no hard negatives
    (train / "t2it.jsonl").write_text("".join(json.dumps(line) + "\n" for line in described(lines)))
    prepared = read_layout(str(train))
    prepared.write(str(folder / "prepared"))
    return prepared


@dataclass
class Ours:
    """Steps as `vista finetune` makes them, of a task."""

    batches: Iterator[Any]
    model: VistaModel

    def __call__(self) -> None:
        """One step."""
        loss_and_backward(self.model, next(self.batches), Computation(torch.float32, 100_000, TEMPERATURE), Processes())


@dataclass
class Plain:
    """Steps of a loop as it is usually written."""

    pairs: Iterator[list[dict[str, Any]]]
    preprocessor: Preprocessor
    images: ImageBytes
    model: VistaModel

    def __call__(self) -> None:
        """One step."""
        pairs = next(self.pairs)
        negatives = [each for pair in pairs for each in pair["negatives"][:NEGATIVES]]
        queries, positives, wrong = (
            self.encode(items)
            for items in ([each["query"] for each in pairs], [each["positive"] for each in pairs], negatives)
        )
        scores = queries @ torch.cat([positives, wrong]).T / TEMPERATURE
        F.cross_entropy(scores, torch.arange(len(pairs))).backward()  # type: ignore[no-untyped-call]

    def encode(self, items: list[dict[str, Any]]) -> torch.Tensor:
        """Items of one kind, padded to the longest text."""
        with_image = items[0]["image"] is not None
        tokens = self.preprocessor.tokenize([each["text"] for each in items], [with_image] * len(items))
        longest = max(len(each.input_ids) for each in tokens)
        ids = np.concatenate([np.pad(each.input_ids, (0, longest - len(each.input_ids))) for each in tokens])
        pixels = None
        if with_image:
            decoded = [self.preprocessor.decode_image(self.images.read(each["image"])) for each in items]
            pixels = torch.from_numpy(np.stack(decoded))
        return self.model(torch.from_numpy(ids), np.full(len(items), longest), pixels)


def product_rate() -> float:
    """FLOP/s of a product of matrices as large as the model's."""
    x, weight = torch.randn(4096, 128), torch.randn(512, 128)
    seconds = min(timed(lambda: F.linear(x, weight)) for _ in range(20))
    return 2 * 4096 * 128 * 512 / seconds


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(prepared: Prepared, folder: Path, task: int, steps: int) -> dict[str, float]:
    """Both loops on the pairs of a task, turn by turn: median seconds of a step, their ratio, and FLOP/s."""
    only = Prepared([prepared.tasks[task]], prepared.images, {})
    only.write(str(folder / f"only-{task}"))
    plan = Plan((len(only.tasks[0].pairs),), BATCH, seed=0, held_out=0)
    settings = EncoderSettings(MODEL)
    models = [
        State.new(load_model(MODELS[MODEL], synthetic_checkpoint(MODELS[MODEL])), Recipe(trained="all")).model
    ] * 2
    ours = Ours(
        loaded_ahead(Batches(str(folder / f"only-{task}"), settings, plan, [NEGATIVES]), 0, steps + 3, 1), models[0]
    )
    rows = ([*only.tasks[0].pairs.take(plan.of(step).rows).to_pylist()] for step in range(steps + 3))
    plain = Plain(rows, Preprocessor.load(settings), ImageBytes(only.images), models[1])
    for loop in (ours, plain):
        loop()
    with FlopCounterMode(display=False) as counter:
        ours()
    plain()
    seconds = [(timed(ours), timed(plain)) for _ in range(steps)]
    own, other = (statistics.median(column) for column in zip(*seconds, strict=True))
    rate = product_rate()
    return {
        "seconds a step": own,
        "seconds of the plain loop": other,
        "ratio": other / own,
        "GFLOP/s": counter.get_total_flops() / own / 1e9,
        "GFLOP/s of products": rate / 1e9,
        "share of the product rate": counter.get_total_flops() / own / rate,
    }


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(folder)
        found = {
            task.name: measure(prepared, folder, number, options.steps) for number, task in enumerate(prepared.tasks)
        }
    for task, figures in found.items():
        print(f"{task}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    if options.output:
        options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
