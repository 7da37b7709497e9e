"""Golden vectors of the reference implementation, for two tiny models with synthetic weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vista_core.checkpoint import load_model
from vista_core.config import MODELS, ModelConfig, TextConfig, VisionConfig
from vista_core.encoder import Encoder, EncoderSettings
from vista_core.image import decode_image
from vista_core.model import VistaModel
from vista_core.synthetic import synthetic_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden"
IMAGES = GOLDEN / "images"
BASE, M3, TINY = MODELS

TINY_CONFIGS = {
    "tiny_bert": ModelConfig(
        TextConfig("bert", 1000, 64, 2, 4, 128, 64, 2, 0, 1e-12), VisionConfig(64, 16, 64, 2, 4, 170)
    ),
    "tiny_xlmr": ModelConfig(
        TextConfig("xlm-roberta", 1000, 64, 2, 4, 128, 66, 1, 1, 1e-5), VisionConfig(56, 14, 64, 2, 2, 170)
    ),
}


@dataclass(frozen=True)
class Golden:
    """One tiny model: its sizes, the loaded model, inputs, and the vectors of the reference."""

    name: str
    config: ModelConfig
    model: VistaModel
    facts: dict
    arrays: dict[str, np.ndarray]

    def inputs(self, kind: str) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """Token ids and pixels for `kind`: "text", "image" or "pair"."""
        ids = [np.array(text["input_ids"], dtype=np.int32) for text in self.facts["texts"]]
        pixels = [decode_image((IMAGES / name).read_bytes(), self.config.vision.image_size) for name in self.images]
        if kind == "text":
            return ids, [None] * len(ids)
        if kind == "image":
            return [ids[0]] * len(pixels), pixels
        return [ids[text] for _, text in self.facts["pairs"]], [pixels[image] for image, _ in self.facts["pairs"]]

    @property
    def images(self) -> list[str]:
        return self.facts["images"]


@pytest.fixture(scope="session", params=TINY_CONFIGS)
def golden(request) -> Golden:
    name, config = request.param, TINY_CONFIGS[request.param]
    model = load_model(config, synthetic_checkpoint(config)).requires_grad_(False)
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    return Golden(name, config, model, facts, dict(np.load(GOLDEN / f"{name}.npz")))


@pytest.fixture(scope="session")
def tiny_encoder() -> Encoder:
    return Encoder.load(EncoderSettings(device="cpu"))


@pytest.fixture(scope="session")
def photo() -> bytes:
    return (IMAGES / "00_rgb_640x480.jpg").read_bytes()
