"""The released `.pth` layout, written for other programs.

    python -m vista_core.released FOLDER OUT.pth      # a model folder as a `.pth`

The reference implementation loads such a file strictly, so it must also have the keys that no vector depends on.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vista_core.checkpoint import Shape, check_keys, open_checkpoint, released_shapes
from vista_core.config import ModelConfig
from vista_core.errors import UsageError, VistaError
from vista_core.model_folder import ModelFolder
from vista_core.vision import rope_tables


def unused_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shapes of the tensors of a released file that the model doesn't use, by key."""
    text, vision = config.text, config.vision
    clip_width = 768 if vision.patch_size == 14 else 512  # EVA02-CLIP-L, EVA02-CLIP-B
    table = (vision.tokens, vision.width // vision.heads)
    ropes = ["rope", *(f"blocks.{i}.attn.rope" for i in range(vision.layers))]
    return {
        "bge_pooler.dense.weight": (text.width, text.width),
        "bge_pooler.dense.bias": (text.width,),
        "model_visual.logit_scale": (),
        "model_visual.visual.norm.weight": (vision.width,),
        "model_visual.visual.norm.bias": (vision.width,),
        "model_visual.visual.head.weight": (clip_width, vision.width),
        "model_visual.visual.head.bias": (clip_width,),
        **{f"model_visual.visual.{rope}.freqs_{kind}": table for rope in ropes for kind in ("cos", "sin")},
    }


def unused_state(config: ModelConfig) -> dict[str, Tensor]:
    """Values of these tensors for a model that has none: tables of RoPE, norms and layers that change nothing."""
    vision = config.vision
    cos, sin = map(torch.from_numpy, rope_tables(vision.grid, vision.width // vision.heads))
    special = {"freqs_cos": cos, "freqs_sin": sin, "logit_scale": torch.tensor(math.log(1 / 0.07))}
    state = {}
    for key, shape in unused_shapes(config).items():
        ending = key.rpartition(".")[2]
        filled = torch.ones(shape) if key.endswith("norm.weight") else torch.zeros(shape)
        state[key] = special[ending].clone() if ending in special else filled
    return state


def save_pth(path: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Write a `.pth` in the released layout atomically, in float32; `state` has the weights by released keys."""
    used = {key: state[key].detach().to("cpu", torch.float32).clone() for key in released_shapes(config)}
    partial = path.with_name(f"{path.name}.partial")
    torch.save(used | unused_state(config), partial)
    partial.replace(path)


def released_pth(folder: ModelFolder, path: Path) -> None:
    """Write the weights of a model folder as a `.pth` in the released layout.

    Raises UsageError for a target with another extension, CheckpointError if the weights don't fit the folder's sizes.
    """
    if path.suffix != ".pth":
        raise UsageError(f"{path}: the name of the file must end in .pth")
    checkpoint = open_checkpoint(folder.weights)
    check_keys(folder.config, checkpoint)
    save_pth(path, folder.config, {key: checkpoint.read(key) for key in released_shapes(folder.config)})


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m vista_core.released`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vista_core.released", description="Write a released .pth.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a model folder")
    parser.add_argument("target", type=Path, metavar="OUT.pth")
    options = parser.parse_args(arguments)
    try:
        released_pth(ModelFolder.open(options.folder), options.target)
    except VistaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{options.target}: the weights of {options.folder}, in the released layout")
    return 0


if __name__ == "__main__":
    sys.exit(main())
