"""What makes two encoders the same: everything that moves a vector."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from vista_core.config import EncoderSettings


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
        from vista_core.encoder import identity_of  # which takes torch; to compare identities takes none

        return identity_of(settings)

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
