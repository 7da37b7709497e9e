"""Synthetic weights "vbge-synth-1": random, untrained, the same on every machine, with the keys of a released file.

    python -m vista_core.synthetic MODEL OUT.safetensors|OUT.pth

They allow trying the model without a network, and comparing it with another implementation.
"""

import argparse
import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import torch

from vista_core.checkpoint import ROPE, Checkpoint, Shape, released_shapes, save_tensors
from vista_core.config import MODELS, ModelConfig
from vista_core.released import unused_shapes
from vista_core.vision import rope_tables

CHUNK = 1 << 18  # values drawn at once, so that the float64 intermediates fit into the cache

# standard deviation by the ending of a key; the first match applies, before the rules by shape
_SCALES = {
    "word_embeddings.weight": 1.0,
    "position_embeddings.weight": 0.3,
    "token_type_embeddings.weight": 0.3,
    "pos_embed": 0.3,
    "cls_token": 1.0,
}
# gain over 1/sqrt(fan_in) by a part of the key
_GAINS = {
    (".query.", ".key.", ".q_proj.", ".k_proj."): 1.7,
    (".value.", ".v_proj.", ".attention.output.dense.", ".attn.proj."): 1.5,
}


def draw(key: str, shape: Shape) -> np.ndarray:
    """The float32 tensor of a key: uniform values from the raw PCG64 stream, seeded with the sha256 of the key."""
    if key.endswith("logit_scale"):
        return np.full(shape, math.log(1 / 0.07), dtype=np.float32)
    loc, scale = _distribution(key, shape)
    generator = np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little"))
    values = np.empty(math.prod(shape), dtype=np.float32)
    for start in range(0, values.size, CHUNK):
        raw = generator.random_raw(min(CHUNK, values.size - start))
        unit = ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5) * math.sqrt(12.0)
        values[start : start + CHUNK] = unit * scale + loc
    return values.reshape(shape)


def _distribution(key: str, shape: Shape) -> tuple[float, float]:
    """Mean and standard deviation of a key's values."""
    if key.rpartition(".")[2] in ("bias", "q_bias", "v_bias"):
        return 0.0, 0.1
    if len(shape) == 1:  # a norm's weight
        return 1.0, 0.1
    for ending, scale in _SCALES.items():
        if key.endswith(ending):
            return 0.0, scale
    gain = next((gain for parts, gain in _GAINS.items() if any(part in key for part in parts)), 1.0)
    return 0.0, gain / math.sqrt(math.prod(shape[1:]))


def synthetic_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shapes of all keys of a released file, including those that the model doesn't use."""
    return released_shapes(config) | unused_shapes(config)


def synthetic_checkpoint(config: ModelConfig) -> Checkpoint:
    """Synthetic weights as a checkpoint without a file; each tensor is drawn when it is read."""
    shapes = synthetic_shapes(config)
    cos, sin = map(torch.from_numpy, rope_tables(config.vision.grid, config.vision.width // config.vision.heads))

    def read(key: str) -> torch.Tensor:
        if match := ROPE.search(key):
            return (cos if match[1] == "cos" else sin).clone()
        return torch.from_numpy(draw(key, shapes[key]))

    return Checkpoint("synthetic weights", shapes, read)


def write_synthetic(config: ModelConfig, path: Path) -> None:
    """Write a model's synthetic weights to a `.safetensors`, or to a `.pth` like the released ones."""
    checkpoint = synthetic_checkpoint(config)
    state = {key: checkpoint.read(key) for key in checkpoint.shapes}
    if path.suffix == ".safetensors":
        save_tensors(path, state)
    else:
        torch.save(state, path)


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m vista_core.synthetic`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vista_core.synthetic", description="Write untrained weights.")
    parser.add_argument("model", choices=tuple(MODELS))
    parser.add_argument("target", type=Path, metavar="OUT.safetensors|OUT.pth")
    options = parser.parse_args(arguments)
    write_synthetic(MODELS[options.model], options.target)
    print(f"{options.target}: synthetic weights of {options.model} (untrained)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
