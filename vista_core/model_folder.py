"""Model folders: what `--model FOLDER` reads, and what assembling and training write.

    config.json         sizes of both towers, the name, how transparent images were made opaque, and what made it
    tokenizer.json      the tokenizer (or an older vocabulary, see vista_core.tokenizer)
    model.safetensors   the weights, by their released keys (KEY_TABLE of vista_core.checkpoint)

The name in config.json, and not the folder's, is the model's: moving a folder changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vista_core.config import ALPHAS, ModelConfig, VisionConfig, hugging_face_config, read_json, text_config
from vista_core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TOKENIZER, MODEL_FILE = "config.json", "tokenizer.json", "model.safetensors"
MODEL_TYPE = "vista"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
FEW_TOKENS = 8  # of text that must fit beside an image: [CLS], some words, [SEP]


@dataclass(frozen=True)
class ModelFolder:
    """A model on a disk: `name` is stored with the columns that it fills, `made_by` is whatever its maker noted."""

    path: Path
    name: str
    config: ModelConfig
    made_by: Mapping[str, Any] = field(default_factory=dict)
    alpha: str = "drop"  # what became of transparent images in its training, see vista_core.image

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Read the `config.json` of a model folder. Raises UsageError if there is none, or it describes no model."""
        where = path / CONFIG
        if not where.is_file():
            if not path.is_dir():
                raise UsageError(f"--model {path}: there is no such folder")
            raise UsageError(
                f"--model {path} has no {CONFIG}. A model folder has {CONFIG}, {TOKENIZER} and {MODEL_FILE}: "
                "`python -m vista_core.assemble` makes one"
            )
        stored = read_json(where)
        if stored.get("model_type") != MODEL_TYPE:
            raise UsageError(
                f"--model {path}: its {CONFIG} is that of a {stored.get('model_type')!r} model, not {MODEL_TYPE!r}. "
                "`python -m vista_core.assemble` makes a model folder of a text and a vision tower"
            )
        absent = [name for name in ("name", "text", "vision") if name not in stored]
        if absent or not isinstance(stored["text"], dict) or not isinstance(stored["vision"], dict):
            raise UsageError(f"{where} needs a `name`, and the sizes of the towers `text` and `vision`")
        config = ModelConfig(text_config(stored["text"], where), vision_config(stored["vision"], where))
        check_sizes(config, where)
        check_name(stored["name"], where)
        alpha = stored.get("alpha", "drop")
        if alpha not in ALPHAS:
            raise UsageError(f"{where}: alpha {alpha!r} is none of {', '.join(ALPHAS)}")
        return cls(path, stored["name"], config, stored.get("made_by", {}), alpha)

    @property
    def weights(self) -> Path:
        """The file of the weights. Raises UsageError if it isn't there, as while a folder is written."""
        path = self.path / MODEL_FILE
        if not path.is_file():
            raise UsageError(f"--model {self.path} has no {MODEL_FILE}, so it is incomplete: write or copy it again")
        return path

    def write(self, tokenizer: str, state: Mapping[str, Tensor]) -> None:
        """Write the folder: `tokenizer` is the content of a tokenizer.json, `state` the weights by released keys.

        Each file is replaced as a whole, and the weights last: a new folder that has weights is complete. Weights of
        another model that are there are removed first. Raises UsageError for a name or sizes that can't be, and
        CheckpointError if `state` doesn't fit the sizes.
        """
        # torch takes seconds to import, and workers that only tokenize read folders, too
        from vista_core.checkpoint import Checkpoint, check_keys, released_shapes, save_tensors

        check_name(self.name, self.path)
        check_sizes(self.config, self.path)
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        check_keys(self.config, Checkpoint(f"the weights of {self.name}", shapes, state.__getitem__))
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / MODEL_FILE).unlink(missing_ok=True)
        replace_text(self.path / CONFIG, json.dumps(self.to_json(), indent=2) + "\n")
        replace_text(self.path / TOKENIZER, tokenizer)
        save_tensors(self.path / MODEL_FILE, {key: state[key] for key in released_shapes(self.config)})

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {
            "model_type": MODEL_TYPE,
            "name": self.name,
            "text": hugging_face_config(self.config.text),
            "vision": asdict(self.config.vision),
            "alpha": self.alpha,
            "made_by": dict(self.made_by),
        }


def is_model_folder(path: Path) -> bool:
    """True if a local folder's `config.json` is that of a model folder, whether or not it can be read as one."""
    return (path / CONFIG).is_file() and read_json(path / CONFIG).get("model_type") == MODEL_TYPE


def replace_text(path: Path, content: str) -> None:
    """Write a text file atomically: to a temporary name, then renamed."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


def vision_config(stored: Mapping[str, Any], where: Path) -> VisionConfig:
    """Sizes of the vision tower from the fields that `ModelFolder.to_json` writes."""
    names = [each.name for each in fields(VisionConfig)]
    if missing := [name for name in names if name not in stored]:
        raise UsageError(f"{where} lacks {', '.join(missing)} of the vision tower")
    return VisionConfig(**{name: stored[name] for name in names})


def check_name(name: object, where: Path) -> None:
    """Raise UsageError unless `name` can be a model's."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(
            f"{where}: a model's name has letters, digits, '_', '-' and '.', and starts with a letter or digit; "
            f"{name!r} is none"
        )


def check_sizes(config: ModelConfig, where: Path) -> None:
    """Raise UsageError for sizes that no model can have, or with which no text fits beside an image."""
    text, vision = config.text, config.vision
    for tower, sizes in (("text", asdict(text)), ("vision", asdict(vision))):
        for name, value in sizes.items():
            least = 0 if name == "pad_id" else 1
            if name not in ("family", "norm_eps") and (type(value) is not int or value < least):
                raise UsageError(f"{where}: {name} of the {tower} tower must be a whole number, not {value!r}")
        if not isinstance(sizes["norm_eps"], float) or not 0 < sizes["norm_eps"] < 1:
            raise UsageError(f"{where}: norm_eps of the {tower} tower must be between 0 and 1")
    if text.width % text.heads:
        raise UsageError(f"{where}: {text.heads} heads don't divide the text tower's width, {text.width}")
    if vision.width % (4 * vision.heads):  # RoPE rotates pairs of values by the row, and as many by the column
        raise UsageError(
            f"{where}: each of {vision.heads} heads needs a multiple of 4 values of the vision tower's width, "
            f"{vision.width}"
        )
    if vision.image_size % vision.patch_size:
        raise UsageError(f"{where}: patches of {vision.patch_size} px don't tile images of {vision.image_size} px")
    if config.max_tokens()[1] < FEW_TOKENS:
        raise UsageError(
            f"{where}: an image has {vision.tokens} tokens, and the text tower {text.max_positions} positions, so no "
            "words fit beside an image. Take a text tower with more positions, or a vision tower with fewer patches"
        )
