"""Decoding of photographs with `--resize fast` and with `exact` (Pillow): `python -m benchmarks.decoding`.

JPEGs are decoded to the model's pixels on one core, by both in turn. The cosine compares the vectors of the base model
in float32.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from benchmarks.corpus import photo
from vista_core import MODELS
from vista_core.checkpoint import load_model
from vista_core.encoder import encode_tensors
from vista_core.image import decode_image
from vista_core.linear import pack_for_cpu
from vista_core.synthetic import synthetic_checkpoint

SIZES = ((640, 480), (1280, 960))
PHOTOS = 8  # different ones of each size


@dataclass(frozen=True)
class Options:
    """What to measure."""

    images: int = 100
    """images to decode in each turn"""
    repetitions: int = 5
    """turns, in each of which both are measured once"""
    output: Path | None = None
    """JSON file to write the results to as well"""


@dataclass(frozen=True)
class Result:
    """Results for one size of photograph in pixels: images/s on one core, one value for each turn."""

    width: int
    height: int
    exact: list[float]
    fast: list[float]
    cosine_min: float

    def __str__(self) -> str:
        """One line for people."""
        ratios = np.divide(self.fast, self.exact)
        return (
            f"{self.width}x{self.height}: Pillow {np.median(self.exact):,.0f}/s, fast {np.median(self.fast):,.0f}/s, "
            f"ratio {ratios.min():.2f} / {np.median(ratios):.2f} / {ratios.max():.2f}, cosine {self.cosine_min:.6f}"
        )


def rate(images: list[bytes], count: int, resize: str) -> float:
    """Images/s when `count` images are decoded."""
    started = time.perf_counter()
    for number in range(count):
        decode_image(images[number % len(images)], 224, resize=resize)
    return count / (time.perf_counter() - started)


def main(options: Options) -> None:
    """Measure, print one line for each size, and write the results as JSON."""
    config = MODELS["bge-visualized-base-en-v1.5"]
    model = load_model(config, synthetic_checkpoint(config)).requires_grad_(False)
    pack_for_cpu(model)
    results = []
    for width, height in SIZES:
        images = [photo(number, width, height) for number in range(PHOTOS)]
        plain, quick = (
            encode_tensors(
                model,
                [np.array([101, 102])] * PHOTOS,
                [decode_image(image, config.vision.image_size, resize=resize) for image in images],
            )
            for resize in ("exact", "fast")
        )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        turns = [
            (rate(images, options.images, "exact"), rate(images, options.images, "fast"))
            for _ in range(options.repetitions)
        ]
        torch.set_num_threads(threads)
        exact, fast = (list(side) for side in zip(*turns, strict=True))
        results.append(Result(width, height, exact, fast, float(F.cosine_similarity(plain, quick).min())))
        print(results[-1], flush=True)
    if options.output:
        options.output.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
