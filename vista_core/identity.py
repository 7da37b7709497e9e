"""Identity of an encoder: everything that affects its vectors. Computing one needs torch: `encoder_identity`."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class EncoderIdentity:
    """Stored with a vector column. Vectors of encoders with different identities can't be compared.

    `weights`, `tokenizer` and `config` are sha256 digests in hex. `max_tokens` are the limits in effect, for a text
    without an image and for one with an image. `preprocessing` is one of PREPROCESSING_VERSIONS of vista_core.image.
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

    def to_json(self) -> str:
        """The JSON that is stored with a column."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "EncoderIdentity":
        """The inverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        return EncoderIdentity(**values | {"max_tokens": tuple(values["max_tokens"])})

    def differences(self, other: "EncoderIdentity", there: str = "in the table") -> list[str]:
        """One line for each field that differs: its name, this encoder's value, and the other's, which is `there`."""
        values = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return [f"{name}: {_short(own)} here, {_short(its)} {there}" for name, own, its in values if own != its]


def _short(value: object) -> str:
    """A value for people: digests are cut to 12 digits."""
    text = " / ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
