"""Weights files: the released `.pth`, and the `.safetensors` converted from it.

    python -m vista_core.checkpoint convert Visualized_base_en_v1.5.pth base.safetensors [--model NAME]

Loading is strict. Every key of a file is either in KEY_TABLE or known to be unused (IGNORED_KEYS); an error lists the
keys that are missing, unexpected or of another shape.
"""

import argparse
import hashlib
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vista_core.config import MODELS, ModelConfig
from vista_core.errors import CheckpointError, UsageError, VistaError
from vista_core.model import VistaModel
from vista_core.vision import in_halves, rope_tables

Shape = tuple[int, ...]

# Our parameter, and the released ones that are concatenated along its first axis. {i} is the layer, * weight and bias.
_TEXT, _VISION = "bge_encoder.layer.{i}.", "model_visual.visual.blocks.{i}."
KEY_TABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("text.embeddings.word.weight", ("bge_embeddings.word_embeddings.weight",)),
    ("text.embeddings.position.weight", ("bge_embeddings.position_embeddings.weight",)),
    ("text.embeddings.token_type.weight", ("bge_embeddings.token_type_embeddings.weight",)),
    ("text.embeddings.norm.*", ("bge_embeddings.LayerNorm.*",)),
    ("text.layers.{i}.qkv.*", tuple(f"{_TEXT}attention.self.{part}.*" for part in ("query", "key", "value"))),
    ("text.layers.{i}.proj.*", (f"{_TEXT}attention.output.dense.*",)),
    ("text.layers.{i}.norm1.*", (f"{_TEXT}attention.output.LayerNorm.*",)),
    ("text.layers.{i}.up.*", (f"{_TEXT}intermediate.dense.*",)),
    ("text.layers.{i}.down.*", (f"{_TEXT}output.dense.*",)),
    ("text.layers.{i}.norm2.*", (f"{_TEXT}output.LayerNorm.*",)),
    ("visual_proj.*", ("visual_proj.*",)),
    ("vision.cls_token", ("model_visual.visual.cls_token",)),
    ("vision.pos_embed", ("model_visual.visual.pos_embed",)),
    ("vision.patch_weight", ("model_visual.visual.patch_embed.proj.weight",)),
    ("vision.patch_bias", ("model_visual.visual.patch_embed.proj.bias",)),
    ("vision.blocks.{i}.norm1.*", (f"{_VISION}norm1.*",)),
    ("vision.blocks.{i}.attention.qkv.weight", tuple(f"{_VISION}attn.{part}_proj.weight" for part in "qkv")),
    ("vision.blocks.{i}.attention.qkv.q_bias", (f"{_VISION}attn.q_bias",)),
    ("vision.blocks.{i}.attention.qkv.v_bias", (f"{_VISION}attn.v_bias",)),
    ("vision.blocks.{i}.attention.norm.*", (f"{_VISION}attn.inner_attn_ln.*",)),
    ("vision.blocks.{i}.attention.proj.*", (f"{_VISION}attn.proj.*",)),
    ("vision.blocks.{i}.norm2.*", (f"{_VISION}norm2.*",)),
    ("vision.blocks.{i}.mlp.up.*", (f"{_VISION}mlp.w1.*", f"{_VISION}mlp.w2.*")),
    ("vision.blocks.{i}.mlp.norm.*", (f"{_VISION}mlp.ffn_ln.*",)),
    ("vision.blocks.{i}.mlp.down.*", (f"{_VISION}mlp.w3.*",)),
)

ROPE = re.compile(r"\.rope\.freqs_(cos|sin)$")
IGNORED_KEYS = re.compile(  # keys of the reference implementation that the model doesn't load
    r"bge_pooler\.dense\.(weight|bias)|bge_embeddings\.position_ids|model_visual\.logit_scale"
    r"|model_visual\.visual\.(norm|head)\.(weight|bias)|model_visual\.visual\.(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)"
)


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, each read on request; `name` is the file's, for messages."""

    name: str
    shapes: Mapping[str, Shape]
    read: Callable[[str], Tensor]


def open_checkpoint(path: Path) -> Checkpoint:
    """Memory-map a `.pth` or `.safetensors`; no tensor is read yet.

    Raises UsageError if there is no such file, CheckpointError if it is damaged or no weights file.
    """
    if not path.is_file():
        raise UsageError(f"--weights {path}: there is no such file")
    try:
        return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pth(path)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        first_line = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as weights: it is damaged, incomplete or another "
            f"kind of file; fetch or convert it again ({type(error).__name__}: {first_line})"
        ) from error


def _open_safetensors(path: Path) -> Checkpoint:
    file = safe_open(path, framework="pt")
    keys: list[str] = file.keys()  # type: ignore[no-untyped-call]
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}  # type: ignore[no-untyped-call]
    return Checkpoint(str(path), shapes, file.get_tensor)


def _open_pth(path: Path) -> Checkpoint:
    # torch can memory-map only the zip format, which it has written since 1.6
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it is not a plain dict of tensors")
    return Checkpoint(str(path), {key: tuple(value.shape) for key, value in state.items()}, state.__getitem__)


def key_rows(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """KEY_TABLE expanded for a model: each of its parameters with the released keys that it is made of."""
    for own, released in KEY_TABLE:
        layers = config.vision.layers if own.startswith("vision") else config.text.layers
        for i in range(layers if "{i}" in own else 1):
            for kind in ("weight", "bias") if own.endswith("*") else ("",):
                yield _expand(own, i, kind), tuple(_expand(key, i, kind) for key in released)


def _expand(pattern: str, i: int, kind: str) -> str:
    return pattern.replace("{i}", str(i)).replace("*", kind)


class WithoutInitialisation(TorchFunctionMode):
    """Skips the random initialisation of parameters.

    On the "meta" device it has no effect, yet torch imports its whole compiler for it (1.4 s).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, unless it is one of torch.nn.init's, whose results modules ignore."""
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None
        return func(*args, **kwargs or {})


def empty_model(config: ModelConfig) -> VistaModel:
    """A model in evaluation mode whose parameters have shapes but no memory (the "meta" device)."""
    with torch.device("meta"), WithoutInitialisation():
        return VistaModel(config).eval()


def released_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shapes of the tensors that the model uses, by released key."""
    own_shapes = {key: tuple(value.shape) for key, value in empty_model(config).state_dict().items()}
    shapes = {}
    for own, released in key_rows(config):
        rows, *rest = own_shapes.pop(own)
        shapes.update({key: (rows // len(released), *rest) for key in released})
    assert not own_shapes, f"KEY_TABLE lacks {sorted(own_shapes)}"
    return shapes


def check_keys(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if keys, shapes or RoPE tables of a file don't fit the model; the message lists them."""
    expected, found = released_shapes(config), checkpoint.shapes
    unknown = [key for key in found.keys() - expected.keys() if not IGNORED_KEYS.fullmatch(key)]
    misshaped = [
        f"{key} {list(found[key])}, not {list(expected[key])}"
        for key in expected
        if found.get(key, expected[key]) != expected[key]
    ]
    problems = [
        listing("missing", sorted(expected.keys() - found.keys())),
        listing("unexpected", sorted(unknown)),
        listing("of another shape", misshaped),
    ]
    if any(problems):
        raise CheckpointError(
            f"{checkpoint.name} does not fit the model. {_hint(found)}{' '.join(filter(None, problems))}"
        )
    _check_rope(config, checkpoint)


def listing(kind: str, entries: list[str]) -> str:
    """One sentence of a message: how many `entries` there are of a kind, and the first of them; empty for none."""
    return f"{len(entries)} {kind}: {', '.join(entries[:12])}{', ...' if len(entries) > 12 else ''}." if entries else ""


def detect_model(shapes: Mapping[str, Shape]) -> str | None:
    """The known model all of whose tensors are among `shapes`; None if there is none."""
    return next((name for name in MODELS if released_shapes(MODELS[name]).items() <= shapes.items()), None)


def _hint(shapes: Mapping[str, Shape]) -> str:
    model = detect_model(shapes)
    return f"It holds the weights of {model}. " if model else ""


def _check_rope(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the file stores RoPE tables of another grid.

    The model computes its own tables and loads none. A stored table with other values shows that the weights were
    trained for another grid, even where all shapes fit.
    """
    vision = config.vision
    tables = dict(
        zip(("cos", "sin"), map(torch.from_numpy, rope_tables(vision.grid, vision.width // vision.heads)), strict=True)
    )
    for key in checkpoint.shapes:
        if match := ROPE.search(key):
            stored, computed = checkpoint.read(key).float(), tables[match[1]]
            if stored.shape != computed.shape or not torch.allclose(stored, computed, rtol=0, atol=1e-4):
                raise CheckpointError(
                    f"{checkpoint.name}: {key} is the table of another grid than {vision.grid} x {vision.grid} patches"
                )


def weights_digest(config: ModelConfig, checkpoint: Checkpoint) -> str:
    """Sha256 in hex over the tensors that the model uses: key, shape and float32 bytes of each.

    A `.pth` and the `.safetensors` converted from it have the same digest.
    """
    digest = hashlib.sha256()
    for key, shape in sorted(released_shapes(config).items()):
        digest.update(f"{key} {list(shape)}\n".encode())
        digest.update(checkpoint.read(key).float().contiguous().numpy().view(np.uint8).data)
    return digest.hexdigest()


def load_model(config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> VistaModel:
    """Load a model in evaluation mode onto the CPU; CheckpointError if the file doesn't fit `config`.

    Apart from the model itself, one tensor at a time is in memory.
    """
    check_keys(config, checkpoint)
    model = empty_model(config)
    state = {own: _joined(checkpoint, released, dtype) for own, released in key_rows(config)}
    _reorder_heads(state, config, in_halves)
    model.load_state_dict(state, assign=True)
    model.vision.rope.to(dtype)
    return model


def _joined(checkpoint: Checkpoint, released: Iterable[str], dtype: torch.dtype) -> Tensor:
    parts = [checkpoint.read(key).to(dtype) for key in released]
    return parts[0].clone() if len(parts) == 1 else torch.cat(parts)  # a copy, since the mapped file may change later


def _reorder_heads(state: dict[str, Tensor], config: ModelConfig, order: Callable[[int], list[int]]) -> None:
    """Reorder the rows of the vision tower's query and key projections in place, within each head.

    `order` takes a head's width and returns the new order of its values.
    """
    width, heads = config.vision.width, config.vision.heads
    head = order(width // heads)
    rows = torch.tensor([start + offset for start in range(0, 2 * width, width // heads) for offset in head])
    for i in range(config.vision.layers):
        qkv = f"vision.blocks.{i}.attention.qkv"
        weight, bias = state[f"{qkv}.weight"], state[f"{qkv}.q_bias"]
        state[f"{qkv}.weight"] = torch.cat([weight[rows], weight[2 * width :]])
        state[f"{qkv}.q_bias"] = bias[rows[:width]]


def released_state(model: VistaModel) -> dict[str, Tensor]:
    """The inverse of `load_model`: a model's parameters under their released keys."""
    state, rows = model.state_dict(), key_rows(model.config)
    _reorder_heads(state, model.config, lambda width: np.argsort(in_halves(width)).tolist())
    return {
        key: part for own, released in rows for key, part in zip(released, state[own].chunk(len(released)), strict=True)
    }


def save_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a `.safetensors` atomically: to a temporary name, then renamed."""
    partial = path.with_name(f"{path.name}.partial")
    save_file({key: value.contiguous() for key, value in state.items()}, partial, {"format": "pt"})
    partial.chmod(0o644)  # the library writes files that only the owner can read
    partial.replace(path)


def convert(source: Path, target: Path, model: str | None = None) -> str:
    """Write the tensors that a model uses from `source` to a `.safetensors`, in float32; returns the weights digest.

    Without `model`, the model is detected from the keys. Raises UsageError for an unknown model or a target with
    another extension, CheckpointError if `source` doesn't fit the model.
    """
    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: the name of the converted file must end in .safetensors")
    checkpoint = open_checkpoint(source)
    name = model or detect_model(checkpoint.shapes)
    if name is None or name not in MODELS:
        raise UsageError(f"{source} fits none of {', '.join(MODELS)}; to see what differs from one, give --model")
    check_keys(MODELS[name], checkpoint)
    state = {key: checkpoint.read(key).float() for key in released_shapes(MODELS[name])}
    save_tensors(target, state)
    return weights_digest(MODELS[name], open_checkpoint(target))


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m vista_core.checkpoint`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vista_core.checkpoint", description="Convert released weights.")
    command = parser.add_subparsers(required=True).add_parser("convert", help="write a .safetensors from a .pth")
    command.add_argument("source", type=Path, metavar="IN.pth")
    command.add_argument("target", type=Path, metavar="OUT.safetensors")
    command.add_argument("--model", choices=tuple(MODELS), help="default: detected from the keys of the file")
    options = parser.parse_args(arguments)
    try:
        print(f"{options.target}: weights {convert(options.source, options.target, options.model)}")
    except VistaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
