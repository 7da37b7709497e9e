"""Sizes of the models, and the settings an encoder is built from."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vista_core.errors import UsageError

TextFamily = Literal["bert", "xlm-roberta"]
ALPHAS = ("drop", "white")
RESIZES = ("fast", "exact")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TextConfig:
    """The text tower: a BERT or XLM-RoBERTa encoder without its pooler."""

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
        """First position of a text without image: XLM-R starts behind its padding row, BERT at 0."""
        return self.pad_id + 1 if self.family == "xlm-roberta" else 0


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower: EVA02-CLIP without its head."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    norm_eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Image tokens that reach the text tower."""
        return self.grid**2


@dataclass(frozen=True)
class ModelConfig:
    """One model; `bf16` says that bfloat16 keeps a cosine of 0.999 to float32, so that `dtype="auto"` may take it."""

    text: TextConfig
    vision: VisionConfig
    bf16: bool = True

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self.text.width

    def max_tokens(self, cap: int | None = None) -> tuple[int, int]:
        """Longest text in tokens, specials included: alone, and beside an image."""
        alone = self.text.max_positions - self.text.position_offset
        beside = self.text.max_positions - self.vision.tokens  # positions start at 0 there, in both families
        return (alone, beside) if cap is None else (min(alone, cap), min(beside, cap))

    def digest(self) -> str:
        """Sha256 over all sizes that shape a vector."""
        sizes = {"text": asdict(self.text), "vision": asdict(self.vision)}
        return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()


_BGE_BASE = TextConfig("bert", 30522, 768, 12, 12, 3072, 512, 2, 0, 1e-12)
_BGE_M3 = TextConfig("xlm-roberta", 250002, 1024, 24, 16, 4096, 8194, 1, 1, 1e-5)
_EVA02_B16 = VisionConfig(224, 16, 768, 12, 12, 2048)
_EVA02_L14 = VisionConfig(224, 14, 1024, 24, 16, 2730)

MODELS: Mapping[str, ModelConfig] = {
    "bge-visualized-base-en-v1.5": ModelConfig(_BGE_BASE, _EVA02_B16),
    # 48 layers deep, 4 % of items fall to 0.9988 in bfloat16 (synthetic weights)
    "bge-visualized-m3": ModelConfig(_BGE_M3, _EVA02_L14, bf16=False),
    "vista-tiny": ModelConfig(
        TextConfig("bert", 4096, 128, 4, 4, 512, 128, 2, 0, 1e-12),
        VisionConfig(64, 16, 128, 4, 4, 344),
        bf16=False,  # so narrow a model only keeps 0.998
    ),
}


def display_name(model: str, weights: str | None = None) -> str:
    """How a model is named to people: vista-tiny's own weights are drawn, not trained, and it says so."""
    return f"{model} (untrained)" if model == "vista-tiny" and weights is None else model


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
    """The text tower as a Hugging Face `config.json` has it; what the file leaves out stays as `known`."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        family, activation = fields.get("model_type", known.family), fields.get("hidden_act", "gelu")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no readable config.json ({error})") from error
    if family != known.family:
        raise UsageError(f"{path} configures a {family!r} text tower; this model has {known.family!r}")
    if activation != "gelu":
        raise UsageError(f"{path} asks for hidden_act {activation!r}; only 'gelu' is implemented")
    return replace(known, **{own: fields[name] for own, name in _HUGGING_FACE_NAMES.items() if name in fields})


def hugging_face_config(text: TextConfig) -> dict[str, Any]:
    """The reverse of `read_text_config`."""
    sizes = {name: getattr(text, own) for own, name in _HUGGING_FACE_NAMES.items()}
    return {"model_type": text.family, "hidden_act": "gelu", **sizes}


@dataclass(frozen=True)
class EncoderSettings:
    """What a user chooses about an encoder; wrong values raise UsageError, which names the option.

    `inference_tokens` go through the model at once, image tokens included (default: TOKEN_BUDGETS); no vector moves.
    """

    model: str = "vista-tiny"
    weights: str | None = None
    from_pretrained: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    alpha: str = "drop"
    resize: str = "fast"
    max_tokens: int | None = None
    inference_tokens: int | None = None

    def __post_init__(self) -> None:
        _check("--model", self.model, tuple(MODELS))
        _check("--dtype", self.dtype, DTYPES)
        _check("--alpha", self.alpha, ALPHAS)
        _check("--resize", self.resize, RESIZES)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"--device {self.device!r} is none of auto, cpu, cuda, cuda:N")
        if self.max_tokens is not None and self.max_tokens < 3:
            raise UsageError(f"--max-tokens {self.max_tokens} leaves no room for text; give 3 or more")
        if self.inference_tokens is not None and self.inference_tokens < 1:
            raise UsageError(f"--inference-tokens must be 1 or more, not {self.inference_tokens}")

    @property
    def config(self) -> ModelConfig:
        """The named model as released; a `config.json` may override its text tower."""
        return MODELS[self.model]

    @property
    def display_name(self) -> str:
        """The model's name as people should read it."""
        return display_name(self.model, self.weights)


def _check(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{option} {value!r} is none of {', '.join(allowed)}")
