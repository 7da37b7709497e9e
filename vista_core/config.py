"""Sizes of the models, and the settings from which an encoder is built."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vista_core.errors import UsageError

TextFamily = Literal["bert", "xlm-roberta"]
ALPHAS = ("drop", "white")
RESIZES = ("fast", "exact")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text tower: a BERT or XLM-RoBERTa encoder without its pooler layer."""

    family: TextFamily
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    max_positions: int
    type_vocab_size: int
    pad_id: int
    norm_eps: float

    @property
    def position_offset(self) -> int:
        """First position id of a text without an image: XLM-R starts after its padding row, BERT at 0."""
        return self.pad_id + 1 if self.family == "xlm-roberta" else 0


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower: EVA02-CLIP (arXiv 2303.15389) without its head. `image_size` is in pixels."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    norm_eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Image tokens that the text tower reads: one for each patch."""
        return self.grid**2


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one model."""

    text: TextConfig
    vision: VisionConfig

    @property
    def bf16(self) -> bool:
        """True if bfloat16 keeps a cosine of 0.999 to float32, so that `dtype="auto"` may choose it.

        That was measured with the released models. A narrow model (vista-tiny) only reaches 0.998, and one of 48 layers
        (m3) 0.9988 for 4 % of items, so bfloat16 is chosen only for models as wide as the base one, and no deeper.
        """
        return min(self.text.width, self.vision.width) >= 512 and self.text.layers + self.vision.layers <= 24

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.text.width

    def max_tokens(self, cap: int | None = None) -> tuple[int, int]:
        """Longest text in tokens, including [CLS] and [SEP]: without an image, and with one; at most `cap`."""
        alone = self.text.max_positions - self.text.position_offset
        beside = self.text.max_positions - self.vision.tokens  # with an image, positions start at 0 in both families
        return (alone, beside) if cap is None else (min(alone, cap), min(beside, cap))

    def digest(self) -> str:
        """Sha256 in hex over all sizes of both towers."""
        sizes = {"text": asdict(self.text), "vision": asdict(self.vision)}
        return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()


_BGE_BASE = TextConfig("bert", 30522, 768, 12, 12, 3072, 512, 2, 0, 1e-12)
_BGE_M3 = TextConfig("xlm-roberta", 250002, 1024, 24, 16, 4096, 8194, 1, 1, 1e-5)
EVA02_B16 = VisionConfig(224, 16, 768, 12, 12, 2048)
EVA02_L14 = VisionConfig(224, 14, 1024, 24, 16, 2730)

MODELS: Mapping[str, ModelConfig] = {
    "bge-visualized-base-en-v1.5": ModelConfig(_BGE_BASE, EVA02_B16),
    "bge-visualized-m3": ModelConfig(_BGE_M3, EVA02_L14),
    "vista-tiny": ModelConfig(
        TextConfig("bert", 4096, 128, 4, 4, 512, 128, 2, 0, 1e-12), VisionConfig(64, 16, 128, 4, 4, 344)
    ),
}


_HUGGING_FACE_NAMES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "pad_id": "pad_token_id",
    "norm_eps": "layer_norm_eps",
}


def read_text_config(path: Path, known: TextConfig) -> TextConfig:
    """Sizes of the text tower from a Hugging Face `config.json`; fields missing there are taken from `known`.

    Also from the `config.json` of a model folder. Raises UsageError if the file can't be read or describes another
    architecture.
    """
    fields = read_json(path)
    fields = fields.get("text", fields)
    family = fields.get("model_type", known.family)
    if family != known.family:
        raise UsageError(f"{path} describes a {family!r} text tower; this model has a {known.family!r} one")
    return text_config(hugging_face_config(known) | fields, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a `config.json`; UsageError if the file can't be read, or has something else in it."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a config.json ({error})") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{path} cannot be read as a config.json (it holds no object)")
    return fields


def text_config(fields: Mapping[str, Any], where: Path) -> TextConfig:
    """Sizes of the text tower from the fields of a Hugging Face `config.json`, which was read from `where`.

    Raises UsageError if one is missing, or if they describe an architecture that is not implemented.
    """
    if missing := [name for name in ("model_type", *_HUGGING_FACE_NAMES.values()) if name not in fields]:
        raise UsageError(f"{where} lacks {', '.join(missing)} of the text tower")
    implemented = {
        "model_type": get_args(TextFamily),
        "hidden_act": ("gelu",),
        "position_embedding_type": ("absolute",),
    }
    for name, values in implemented.items():
        if (value := fields.get(name, values[0])) not in values:
            raise UsageError(f"{where} has {name} {value!r}; only {' and '.join(map(repr, values))} is implemented")
    return TextConfig(fields["model_type"], **{own: fields[name] for own, name in _HUGGING_FACE_NAMES.items()})


def hugging_face_config(text: TextConfig) -> dict[str, Any]:
    """The inverse of `read_text_config`: the content of a Hugging Face `config.json`."""
    sizes = {name: getattr(text, own) for own, name in _HUGGING_FACE_NAMES.items()}
    return {"model_type": text.family, "hidden_act": "gelu", **sizes}


@dataclass(frozen=True)
class EncoderSettings:
    """What a user chooses about an encoder; a wrong value raises UsageError, which names the option.

    `model` is one of MODELS, or a model folder (vista_core.model_folder): a local folder or a repository of the hub,
    OWNER/NAME or OWNER/NAME@REVISION. Callers make an s3:// folder local before they load it.
    `weights` is a file (default: the model's own), `from_pretrained` a folder with `config.json` and tokenizer; a model
    folder takes neither, since it has both.
    `alpha` and `resize` are explained in vista_core.image; without `alpha`, images are made as those that the model was
    trained with (`hub.resolve_alpha`). `device` and `dtype` in vista_core.device.
    `inference_tokens` is the size of a batch, image tokens included (default: TOKEN_BUDGETS of vista_core.encoder);
    it doesn't affect vectors.
    """

    model: str = "vista-tiny"
    weights: str | None = None
    from_pretrained: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    alpha: str | None = None
    resize: str = "fast"
    max_tokens: int | None = None
    inference_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_model(self.model, {"--weights": self.weights, "--from-pretrained": self.from_pretrained})
        _check("--dtype", self.dtype, DTYPES)
        if self.alpha is not None:
            _check("--alpha", self.alpha, ALPHAS)
        _check("--resize", self.resize, RESIZES)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"--device {self.device!r} is none of auto, cpu, cuda, cuda:N")
        if self.max_tokens is not None and self.max_tokens < 3:
            raise UsageError(f"--max-tokens {self.max_tokens} leaves no room for text; give 3 or more")
        if self.inference_tokens is not None and self.inference_tokens < 1:
            raise UsageError(f"--inference-tokens must be 1 or more, not {self.inference_tokens}")


def is_folder(model: str) -> bool:
    """True if `--model` names a model folder, wherever it is, and not one of MODELS."""
    return model not in MODELS


def _check_model(model: str, files: Mapping[str, str | None]) -> None:
    if not is_folder(model):
        return
    if "/" not in model and not Path(model).is_dir():
        raise UsageError(f"--model {model!r} is none of {', '.join(MODELS)}, and there is no such model folder")
    for option, value in files.items():
        if value is not None:
            raise UsageError(
                f"{option} {value}: the model folder {model} has its own weights and tokenizer. Leave {option} out, or "
                f"name the model that the files belong to: --model {' or '.join(MODELS)}"
            )


def _check(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{option} {value!r} is none of {', '.join(allowed)}")
