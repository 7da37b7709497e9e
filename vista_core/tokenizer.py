"""Text to token ids, truncated so that the final separator stays."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vista_core.errors import RecordError, UsageError

SLOW_VOCABULARIES = ("vocab.txt", "sentencepiece.bpe.model", "tokenizer.model", "spiece.model")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text: `input_ids` int32 [L] with specials, and whether its end was cut off."""

    input_ids: np.ndarray
    truncated: bool


class TextTokenizer:
    """A `tokenizer.json`, freed of the truncation and padding it may carry."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: tuple[int, int]) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens  # alone, beside an image

    def tokenize(self, texts: Sequence[str | None], with_image: Sequence[bool]) -> list[Tokens]:
        """Ids of each text in order, in one call into Rust; None and "" give [CLS, SEP].

        A text that is not valid Unicode raises RecordError with its index.
        """
        plain = [_valid(text or "", index) for index, text in enumerate(texts)]
        encodings = self.tokenizer.encode_batch_fast(plain)
        limits = (self.max_tokens[bool(image)] for image in with_image)
        return [truncate(encoding.ids, limit) for encoding, limit in zip(encodings, limits, strict=True)]


def truncate(ids: Sequence[int], limit: int) -> Tokens:
    """At most `limit` ids, the last of them always the separator that `ids` ends with."""
    if len(ids) <= limit:
        return Tokens(np.asarray(ids, dtype=np.int32), truncated=False)
    return Tokens(np.asarray([*ids[: limit - 1], ids[-1]], dtype=np.int32), truncated=True)


def read_tokenizer(folder: Path) -> str:
    """The text of a folder's `tokenizer.json`, made by transformers where it only has an older vocabulary."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if any((folder / name).is_file() for name in SLOW_VOCABULARIES):
        from transformers import AutoTokenizer  # seconds to import, and hardly ever needed

        return AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer.to_str()
    raise UsageError(f"--from-pretrained {folder} holds no tokenizer.json, {', '.join(SLOW_VOCABULARIES)}")


def build_tokenizer(serialised: str, max_tokens: tuple[int, int], vocab_size: int) -> TextTokenizer:
    """A tokenizer that cuts at `max_tokens` (alone, beside an image) and fits an embedding of `vocab_size` rows."""
    try:
        tokenizer = Tokenizer.from_str(serialised)
    except Exception as error:  # the Rust side raises bare Exception
        raise UsageError(f"the tokenizer.json cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size(with_added_tokens=True) > vocab_size:
        raise UsageError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {vocab_size}: one is another model's"
        )
    return TextTokenizer(tokenizer, max_tokens)


def tokenizer_digest(serialised: str) -> str:
    """Sha256 over what decides the ids: not the file's layout, nor the truncation and padding that are reset."""
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
