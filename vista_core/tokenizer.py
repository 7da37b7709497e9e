"""Texts to token ids; truncation keeps the final separator."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vista_core.errors import RecordError, UsageError

# vocabularies of tokenizers that predate tokenizer.json
SLOW_VOCABULARIES = ("vocab.txt", "sentencepiece.bpe.model", "tokenizer.model", "spiece.model")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized text: `input_ids` int32 [L] including [CLS] and [SEP]; `truncated` if the text did not fit."""

    input_ids: np.ndarray
    truncated: bool


class TextTokenizer:
    """A Hugging Face tokenizer without truncation and padding of its own, and the token limits of a model."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: tuple[int, int]) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens  # without an image, with an image

    def tokenize(self, texts: Sequence[str | None], with_image: Sequence[bool]) -> list[Tokens]:
        """Token ids of each text, in order; `with_image` selects the limit. None and "" give [CLS, SEP].

        A text that is not valid Unicode raises RecordError with its index.
        """
        plain = [_valid(text or "", index) for index, text in enumerate(texts)]
        encodings = self.tokenizer.encode_batch_fast(plain)
        limits = (self.max_tokens[bool(image)] for image in with_image)
        return [truncate(encoding.ids, limit) for encoding, limit in zip(encodings, limits, strict=True)]


def truncate(ids: Sequence[int], limit: int) -> Tokens:
    """At most `limit` ids; the last one is always the final separator of `ids`."""
    if len(ids) <= limit:
        return Tokens(np.asarray(ids, dtype=np.int32), truncated=False)
    return Tokens(np.asarray([*ids[: limit - 1], ids[-1]], dtype=np.int32), truncated=True)


def read_tokenizer(folder: Path) -> str:
    """The content of a folder's `tokenizer.json`; transformers converts an older vocabulary.

    Raises UsageError if the folder has neither.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if any((folder / name).is_file() for name in SLOW_VOCABULARIES):
        from transformers import AutoTokenizer  # imported here since it takes seconds and is rarely needed

        return AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer.to_str()
    raise UsageError(f"--from-pretrained {folder} has none of tokenizer.json, {', '.join(SLOW_VOCABULARIES)}")


def build_tokenizer(serialised: str, max_tokens: tuple[int, int], vocab_size: int) -> TextTokenizer:
    """Build a tokenizer from the content of a `tokenizer.json`.

    It truncates at `max_tokens`, for texts without and with an image. Raises UsageError if the content can't be read,
    or has more tokens than the model's `vocab_size`.
    """
    try:
        tokenizer = Tokenizer.from_str(serialised)
    except Exception as error:  # the Rust library raises bare Exception
        raise UsageError(f"the tokenizer.json cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size(with_added_tokens=True) > vocab_size:
        raise UsageError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {vocab_size}; they don't belong together"
        )
    return TextTokenizer(tokenizer, max_tokens)


def tokenizer_digest(serialised: str) -> str:
    """Sha256 in hex over everything that affects token ids: formatting, truncation and padding are left out."""
    content = json.loads(serialised)
    content.pop("truncation", None)
    content.pop("padding", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _valid(text: str, index: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("text_not_utf8", str(error), index) from error
    return text
