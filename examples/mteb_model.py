"""Visualized-BGE, as vista runs it, for MTEB and MIEB: `pip install mteb`, then for example

    python examples/mteb_model.py --model bge-visualized-base-en-v1.5 --task VisualNewsI2TRetrieval --output results

`VistaModel` is what `mteb.evaluate` takes. mteb pads a batch of its own, and holds a whole corpus in memory; `vista
evaluate` is the way for large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mteb
import numpy as np
import tyro
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta

from vista_core import Encoder, EncoderSettings, Record
from vista_core.hub import model_name


class VistaModel(AbsEncoder):
    """An encoder of texts, images, and texts with images; cosines are dot products of its vectors."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.encoder = Encoder.load(settings)
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": f"vista/{model_name(settings)}", "revision": "1", "modalities": ["text", "image"]}
        )

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Batches with `text` and/or `image` (of Pillow) to vectors, float32 [N, D], in the same order."""
        return np.concatenate([self.encoder.encode(records_of(batch)) for batch in inputs])


def records_of(batch: dict[str, Any]) -> list[Record]:
    """The records of a batch of mteb's; a text or an image that is missing is None."""
    texts, images = batch.get("text"), batch.get("image")
    number = len(texts if texts is not None else images or [])
    return [
        Record(texts[row] or None if texts is not None else None, images[row] if images is not None else None)
        for row in range(number)
    ]


@dataclass(frozen=True)
class Options:
    """Evaluate a model on a task of MTEB."""

    task: str
    """The name of the task in mteb."""
    output: str
    """A folder for the results."""
    model: str = "vista-tiny"
    """bge-visualized-base-en-v1.5, bge-visualized-m3, or vista-tiny."""
    weights: str | None = None
    """The model's weights; default: those on the Hugging Face hub."""


def main(options: Options) -> None:
    """Print the scores."""
    model = VistaModel(EncoderSettings(options.model, options.weights))
    cache = mteb.ResultCache(cache_path=options.output)
    print(mteb.evaluate(model, mteb.get_tasks(tasks=[options.task]), cache=cache))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
