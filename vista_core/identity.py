"""What makes two encoders the same: everything that moves a vector."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vista_core.checkpoint import Checkpoint, check_keys, open_checkpoint, weights_digest
from vista_core.config import EncoderSettings, ModelConfig, read_text_config
from vista_core.device import resolve_device, resolve_dtype
from vista_core.hub import text_folder, weights_path
from vista_core.image import PREPROCESSING_VERSION
from vista_core.tokenizer import read_tokenizer, tokenizer_digest


@dataclass(frozen=True)
class EncoderIdentity:
    """Stored with a vector column: vectors of two identities do not compare.

    `weights`, `tokenizer` and `config` are sha256 digests in hex; `max_tokens` are the limits that hold, for a text
    alone and beside an image.
    """

    model: str
    weights: str
    tokenizer: str
    config: str
    dtype: str
    preprocessing: int
    alpha: str
    max_tokens: tuple[int, int]
    dimension: int

    @staticmethod
    def of(settings: EncoderSettings) -> "EncoderIdentity":
        """The identity that `Encoder.load(settings)` would have, without building the model."""
        config = resolve_config(settings)
        checkpoint = open_checkpoint(weights_path(settings))
        check_keys(config, checkpoint)
        return identify(settings, config, checkpoint)

    def to_json(self) -> str:
        """As stored; `from_json` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "EncoderIdentity":
        """The reverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        return EncoderIdentity(**values | {"max_tokens": tuple(values["max_tokens"])})

    def differences(self, other: "EncoderIdentity", there: str = "in the table") -> list[str]:
        """A line for each field in which this encoder differs from the `other`, which is `there`."""
        pairs = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return [f"{name}: {_short(own)} here, {_short(its)} {there}" for name, own, its in pairs if own != its]


def _short(value: object) -> str:
    text = " / ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def resolve_config(settings: EncoderSettings) -> ModelConfig:
    """The model's sizes, its text tower's as the `config.json` beside the tokenizer has them."""
    text = read_text_config(text_folder(settings) / "config.json", settings.config.text)
    return replace(settings.config, text=text)


def identify(settings: EncoderSettings, config: ModelConfig, checkpoint: Checkpoint) -> EncoderIdentity:
    """The identity of an encoder whose files are open already."""
    return EncoderIdentity(
        model=settings.model,
        weights=weights_digest(config, checkpoint),
        tokenizer=tokenizer_digest(read_tokenizer(text_folder(settings))),
        config=config.digest(),
        dtype=resolve_dtype(settings.dtype, resolve_device(settings.device).type, config),
        preprocessing=PREPROCESSING_VERSION,
        alpha=settings.alpha,
        max_tokens=config.max_tokens(settings.max_tokens),
        dimension=config.dimension,
    )
