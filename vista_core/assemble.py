"""Makes a model folder of a text tower and a vision tower, from which training starts.

    python -m vista_core.assemble --text FOLDER --vision FOLDER_OR_FILE_OR_SIZE OUT [--name NAME] [--seed 0]

The text tower is a BERT or XLM-RoBERTa model of transformers; the vision tower is an EVA02-CLIP one of timm or of a
released `.pth`, or a size with random weights. The projection between them is random, as where the paper's training
starts (arXiv 2406.04292), so images mean nothing to the model before it is trained. Loading is strict.

The model takes the state of CLS for its vector. A text model of sentence-transformers that was trained with the mean
over all tokens instead gets one more layer, which computes this mean at CLS: see `mean_layer`.
"""

import argparse
import hashlib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vista_core.checkpoint import Checkpoint, Shape, listing, open_checkpoint, released_shapes
from vista_core.config import EVA02_B16, EVA02_L14, ModelConfig, TextConfig, VisionConfig, read_json, text_config
from vista_core.errors import CheckpointError, UsageError, VistaError
from vista_core.model_folder import CONFIG, MODEL_FILE, ModelFolder, check_name, check_sizes
from vista_core.tokenizer import build_tokenizer, read_tokenizer

SIZES = {
    "tiny": VisionConfig(64, 16, 128, 4, 4, 344),
    "small": VisionConfig(60, 20, 256, 4, 4, 688),
    "base": EVA02_B16,
    "large": EVA02_L14,
}
# names of the weights in a folder of transformers, timm or OpenCLIP
FILES = (MODEL_FILE, "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HEAD_WIDTH = 64  # of all EVA02 towers; their files don't say it
NORMAL = 0.02  # standard deviation of random weights
POOLING = Path("1_Pooling/config.json")  # of sentence-transformers, in the folder of a text model
MEAN_SCALE = 1000.0  # of the mean over all tokens, beside which the state that CLS had is next to nothing

# keys of a text model, after its prefix, that the tower doesn't use
UNUSED_TEXT = re.compile(r"pooler\..*|embeddings\.(position_ids|token_type_ids)")
UNUSED_VISION = re.compile(r"(norm|head)\.(weight|bias)|(.*\.)?rope\..*")
# parts of the keys of a vision tower: released, timm's
TIMM_NAMES = (
    ("attn.inner_attn_ln.", "attn.norm."),
    ("attn.q_bias", "attn.q_proj.bias"),
    ("attn.v_bias", "attn.v_proj.bias"),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
    ("mlp.ffn_ln.", "mlp.norm."),
)


@dataclass(frozen=True)
class TowerFile:
    """The tensors of a file whose keys start with `prefix`, by the rest of their keys; others are no part of it."""

    checkpoint: Checkpoint
    prefix: str

    @classmethod
    def open(cls, path: Path, landmark: str) -> "TowerFile":
        """Open the weights in a file or folder; `landmark` is the end of a key, whose beginning is the prefix.

        Raises UsageError if there is no weights file, CheckpointError if it holds no such tower.
        """
        checkpoint = open_checkpoint(weights_file(path))
        found = [key.removesuffix(landmark) for key in checkpoint.shapes if key.endswith(landmark)]
        if len(found) != 1:
            raise CheckpointError(f"{checkpoint.name} holds {len(found)} towers with {landmark} instead of one")
        return cls(checkpoint, found[0])

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of the tower's tensors, by their keys without the prefix."""
        shapes = self.checkpoint.shapes.items()
        return {key.removeprefix(self.prefix): shape for key, shape in shapes if key.startswith(self.prefix)}

    def read(
        self, keys: Mapping[str, str], expected: Mapping[str, Shape], unused: re.Pattern[str]
    ) -> dict[str, Tensor]:
        """The tower's tensors in float32, by released keys: `keys` has those of the file, `expected` the shapes.

        Raises CheckpointError with the keys that are missing, unexpected (unless `unused`) or of another shape.
        """
        found = self.shapes
        misshaped = [
            f"{key} {list(found[key])}, not {list(expected[released])}"
            for released, key in keys.items()
            if found.get(key, expected[released]) != expected[released]
        ]
        problems = [
            listing("missing", sorted(set(keys.values()) - found.keys())),
            listing("unexpected", sorted(key for key in found.keys() - keys.values() if not unused.fullmatch(key))),
            listing("of another shape", misshaped),
        ]
        if any(problems):
            raise CheckpointError(f"{self.checkpoint.name} does not fit. {' '.join(filter(None, problems))}")
        return {released: self.checkpoint.read(self.prefix + key).float() for released, key in keys.items()}


def weights_file(path: Path) -> Path:
    """The weights in a folder, or the file itself. Raises UsageError if there are none."""
    if path.is_file():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise UsageError(f"{path} is no weights file, and no folder that has one of {', '.join(FILES)}")
    return found


def read_text_sizes(folder: Path) -> TextConfig:
    """Sizes of a text model of transformers. Raises UsageError if it is neither a BERT nor an XLM-RoBERTa one."""
    if not folder.is_dir():
        raise UsageError(f"--text {folder}: there is no such folder; give one with config.json, tokenizer and weights")
    return text_config(read_json(folder / CONFIG), folder / CONFIG)


def text_tower(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Weights of a text model of transformers, by released keys; its pooler and heads are left out.

    Raises CheckpointError, with a list of keys, if they don't fit its `config.json`.
    """
    tower = TowerFile.open(folder, "embeddings.word_embeddings.weight")
    shapes, found = shapes_of("bge_", config), tower.shapes
    keys = {released: released.removeprefix("bge_") for released in shapes}
    for released, key in keys.items():
        old = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        keys[released] = old if old in found else key  # names in files that were converted from TensorFlow
    return tower.read(keys, shapes, UNUSED_TEXT)


def takes_mean(folder: Path) -> bool:
    """True if a text model was trained with the mean over all tokens, as sentence-transformers notes it."""
    path = folder / POOLING
    return path.is_file() and bool(read_json(path).get("pooling_mode_mean_tokens"))


def mean_layer(config: TextConfig) -> dict[str, Tensor]:
    """The last layer of a tower of these sizes, by released keys, so that CLS is the mean of what the layer gets.

    All queries and keys are 0, so attention is uniform: with values as they are, it is the mean. Its multiple by
    MEAN_SCALE outweighs what is added to it, and the norm removes the scale, so the direction of the mean is left but
    for the mean over its own dimensions. The feed-forward part adds nothing until it is trained; its first weights
    are for the caller to draw.
    """
    layer, width = f"bge_encoder.layer.{config.layers - 1}.", config.width
    state = {}
    for part, scale in (("self.query", 0.0), ("self.key", 0.0), ("self.value", 1.0), ("output.dense", MEAN_SCALE)):
        state[f"{layer}attention.{part}.weight"] = scale * torch.eye(width)
        state[f"{layer}attention.{part}.bias"] = torch.zeros(width)
    state[f"{layer}output.dense.weight"] = torch.zeros(width, config.mlp_width)
    state[f"{layer}output.dense.bias"] = torch.zeros(width)
    return state


def read_vision_sizes(tower: TowerFile) -> VisionConfig:
    """Sizes of a vision tower by the shapes in its file. Raises CheckpointError if they are no EVA02-CLIP tower's."""
    shapes = tower.shapes
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    layers = len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})
    gates = [shapes[key] for key in ("blocks.0.mlp.fc1_g.weight", "blocks.0.mlp.w1.weight") if key in shapes]
    grid = math.isqrt(shapes.get("pos_embed", (1, 1, width))[1])
    head_width = shapes.get("rope.freqs_cos", (0, HEAD_WIDTH))[-1]
    if not gates or not grid or width % head_width:
        raise CheckpointError(
            f"{tower.checkpoint.name} holds no EVA02-CLIP vision tower, such as timm's eva02_base_patch16_clip_224 "
            "and eva02_large_patch14_clip_224"
        )
    return VisionConfig(grid * patch, patch, width, layers, width // head_width, gates[0][0])


def vision_tower(tower: TowerFile, config: ModelConfig) -> dict[str, Tensor]:
    """Weights of a vision tower by released keys. Raises CheckpointError, with a list of keys, if they don't fit."""
    shapes = shapes_of("model_visual.", config)
    keys = {released: released.removeprefix("model_visual.visual.") for released in shapes}
    if "blocks.0.mlp.fc1_g.weight" in tower.shapes:
        keys = {released: timm_key(key) for released, key in keys.items()}
    return tower.read(keys, shapes, UNUSED_VISION)


def timm_key(key: str) -> str:
    """timm's name for a key of the released vision tower."""
    for released, theirs in TIMM_NAMES:
        key = key.replace(released, theirs)
    return key


def random_tensor(key: str, shape: Shape, seed: int) -> Tensor:
    """A random tensor for a released key, as EVA and timm initialise it, in float32.

    Weights are normal with a standard deviation of 0.02, and divided by sqrt(2 * (layer + 1)) where their product is
    added to what the layer got; biases are 0, and weights of norms 1. It depends on no other tensor.
    """
    if key.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:  # a norm's weight
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    tensor = torch.nn.init.trunc_normal_(torch.empty(shape), std=NORMAL, generator=generator)
    residual = re.search(r"blocks\.(\d+)\.(attn\.proj|mlp\.w3)\.weight$", key)
    return tensor / math.sqrt(2 * (int(residual[1]) + 1)) if residual else tensor


def shapes_of(prefix: str, config: ModelConfig) -> dict[str, Shape]:
    """Shapes of the tensors whose released keys start with `prefix`."""
    return {key: shape for key, shape in released_shapes(config).items() if key.startswith(prefix)}


def assemble(text: Path, vision: str, out: Path, name: str, seed: int = 0) -> ModelFolder:
    """Write a model folder `out` of the text model in `text` and a vision tower: a file, a folder or one of SIZES.

    Raises UsageError if `out` is a model already, if a tower is not there, or if the two don't fit together;
    CheckpointError if the weights of a tower don't fit its sizes.
    """
    check_name(name, Path("--name"))
    if (out / CONFIG).exists() or (out / MODEL_FILE).exists():
        raise UsageError(f"{out} has a model already; choose another folder, or remove it")
    drawn = vision in SIZES
    if not drawn and not Path(vision).exists():
        raise UsageError(f"--vision {vision} is none of {', '.join(SIZES)}, and there is no such file or folder")
    tower = None if drawn else TowerFile.open(Path(vision), "patch_embed.proj.weight")
    sizes, with_mean = read_text_sizes(text), takes_mean(text)
    as_read = ModelConfig(sizes, SIZES[vision] if tower is None else read_vision_sizes(tower))
    config = replace(as_read, text=replace(sizes, layers=sizes.layers + with_mean))
    check_sizes(config, out)
    tokenizer = read_tokenizer(text)
    build_tokenizer(tokenizer, config.max_tokens(), config.text.vocab_size)  # checks that they belong together
    images = {} if tower is None else vision_tower(tower, config)
    state = text_tower(text, as_read) | images | (mean_layer(config.text) if with_mean else {})
    for key, shape in released_shapes(config).items():
        if key not in state:
            state[key] = random_tensor(key, shape, seed)
    made_by = {
        "program": "python -m vista_core.assemble",
        "text": f"{text.resolve().name}{', and a layer that takes the mean over all tokens' if with_mean else ''}",
        "vision": f"{vision}, random weights" if drawn else Path(vision).resolve().name,
        "seed": seed,
        "torch": torch.__version__,
    }
    folder = ModelFolder(out, name, config, made_by)
    folder.write(tokenizer, state)
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m vista_core.assemble`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vista_core.assemble", description="Make a model to train of a text tower and a vision tower."
    )
    parser.add_argument(
        "--text",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a BERT or XLM-RoBERTa model of transformers",
    )
    parser.add_argument(
        "--vision",
        required=True,
        metavar="FOLDER_OR_FILE_OR_SIZE",
        help="an EVA02-CLIP tower of timm or a released .pth, or a size with random weights: " + ", ".join(SIZES),
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the model folder to write")
    parser.add_argument("--name", help="the model's name, which tables will show; default: the folder's name")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights; default: 0")
    options = parser.parse_args(arguments)
    try:
        name = options.name or options.out.absolute().name
        made = assemble(options.text, options.vision, options.out, name, options.seed)
    except VistaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    text, vision = made.config.text, made.config.vision
    print(
        f"{options.out}: {made.name}, a {text.family} text tower of {text.layers} layers, {text.width} wide, and a "
        f"vision tower of {vision.layers} layers, {vision.width} wide, for images of {vision.image_size} px. "
        "Train it before you use it for images"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
