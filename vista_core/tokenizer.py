"""Texts to token ids; truncation keeps the final separator.

A model reads the first tokens of a text, so only the beginning of a long text is tokenized. Its tokens are exactly the
first tokens of the whole text, since it ends at a space where each part of the tokenizer starts anew: see `_cuts`.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vista_core.errors import RecordError, UsageError

# vocabularies of tokenizers that predate tokenizer.json
SLOW_VOCABULARIES = ("vocab.txt", "sentencepiece.bpe.model", "tokenizer.model", "spiece.model")

MAX_TEXT_BYTES = 16 << 20  # of a text in UTF-8
MAX_CHARACTERS = 1 << 20  # that are tokenized in one piece; takes up to 5 s and 500 MB
GROUP_CHARACTERS = 1 << 16  # that are tokenized at once, with those of a single longer piece
FIRST_CHARACTERS = 8  # for each token of the limit; ordinary texts have 3 to 5 characters a token

# Parts of a tokenizer that work on each word for itself, if words are separated by a space (see `_cuts`)
LOCAL_NORMALIZERS = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "StripAccents")
WORDS = ("BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit")
STEPS = (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
SEVERAL_SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}  # of XLM-R
# Not after a space, a sign of the class Prepend, or a character above U+FFFF, where there are more of these signs
AFTER_WORD = r"(?<=[^\s\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U00010000-\U0010ffff])"


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized text: `input_ids` int32 [L] including [CLS] and [SEP]; `truncated` if the text did not fit."""

    input_ids: np.ndarray
    truncated: bool


class TextTokenizer:
    """A Hugging Face tokenizer without truncation and padding of its own, and the token limits of a model."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: tuple[int, int], cuts: re.Pattern[str] | None) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens  # without an image, with an image
        self.cuts = cuts  # where a text can be cut without a change to the tokens before; None: nowhere

    def tokenize(self, texts: Sequence[str | None], with_image: Sequence[bool]) -> list[Tokens]:
        """Token ids of each text, in order; `with_image` selects the limit. None and "" give [CLS, SEP].

        A text that is not valid Unicode or too large raises RecordError with its index.
        """
        plain = [_valid(text or "", index) for index, text in enumerate(texts)]
        limits = [self.max_tokens[bool(image)] for image in with_image]
        tokens: dict[int, Tokens] = {}
        left, characters = list(range(len(plain))), FIRST_CHARACTERS * max(self.max_tokens)
        while left:  # most texts are short, and done at once
            starts = [self._start(plain[index], characters, index) for index in left]
            for index, start, ids in zip(left, starts, self._ids(starts), strict=True):
                if len(ids) > limits[index] or len(start) == len(plain[index]):
                    tokens[index] = truncate(ids, limits[index])
            left = [index for index in left if index not in tokens]
            characters *= 4
        return [tokens[index] for index in range(len(plain))]

    def _start(self, text: str, characters: int, index: int) -> str:
        """The beginning of a text: at least `characters`, up to the next place where it can be cut.

        Raises RecordError if it is too large to be tokenized.
        """
        cut = None if len(text) <= characters or self.cuts is None else self.cuts.search(text, characters)
        start = text if cut is None else text[: cut.start()]
        # One character can become 18, so what counts are those after the normalisation that tokenizers use.
        if len(start) > MAX_CHARACTERS or (
            len(start) > MAX_CHARACTERS // 18 and len(unicodedata.normalize("NFKC", start)) > MAX_CHARACTERS
        ):
            message = f"no space to cut it at within {MAX_CHARACTERS:,} characters (in the Unicode form NFKC)"
            raise RecordError("text_too_large", message, index)
        return start

    def _ids(self, texts: list[str]) -> Iterator[list[int]]:
        """All ids of each text. Texts are tokenized in groups, since a token takes 400 bytes until its id is taken."""
        first, characters = 0, 0
        for number, text in enumerate(texts, start=1):
            characters += len(text)
            if number == len(texts) or characters > GROUP_CHARACTERS:
                yield from [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts[first:number])]
                first, characters = number, 0


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
    raise UsageError(f"{folder} has no tokenizer: none of tokenizer.json, {', '.join(SLOW_VOCABULARIES)}")


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
    return TextTokenizer(tokenizer, max_tokens, _cuts(json.loads(tokenizer.to_str())))


def tokenizer_digest(serialised: str) -> str:
    """Sha256 in hex over everything that affects token ids: formatting, truncation and padding are left out."""
    content = json.loads(serialised)
    content.pop("truncation", None)
    content.pop("padding", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _cuts(content: dict[str, Any]) -> re.Pattern[str] | None:
    """Where a text can be cut without a change to the tokens before; None if that isn't known of this tokenizer.

    `content` is that of tokenizer.json. A cut is before a space that follows a letter, digit or mark of punctuation:

    * Special tokens are found first. None of them contains a space, so none crosses the cut.
    * Normalisation works on characters, or on a character with the marks that follow it, and no mark precedes its
      character. A space is never joined to what precedes it, except to a few signs of other scripts (Unicode's class
      Prepend); there is no cut after those.
    * The pre-tokenizers split there: a space belongs to no word, or begins the next one.
    * The models (WordPiece, BPE, Unigram) work on each word alone. [CLS] and [SEP] come last.

    With Bert's, a Chinese character is a word, too.
    """
    normalizers, words = (_parts(content[name], inner) for name, inner in STEPS)
    local = all(part["type"] in LOCAL_NORMALIZERS or part == SEVERAL_SPACES for part in normalizers)
    splits = bool(words) and all(
        part["type"] in WORDS and part.get("split", True) and part.get("use_regex", True) for part in words
    )
    chinese = any(part.get("handle_chinese_chars") for part in normalizers)
    place = "(?: |(?=[\u4e00-\u9fff]))" if chinese else " "
    if not local or not splits or any(re.search(place, token["content"]) for token in content["added_tokens"]):
        return None
    return re.compile(AFTER_WORD + place)


def _parts(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The parts of a normalizer or pre-tokenizer."""
    if step is None:
        return []
    return [part for each in step[inner] for part in _parts(each, inner)] if step["type"] == "Sequence" else [step]


def _valid(text: str, index: int) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise RecordError("text_not_utf8", str(error), index) from error
    if size > MAX_TEXT_BYTES:
        raise RecordError("text_too_large", f"{size:,} bytes; the limit is {MAX_TEXT_BYTES >> 20} MiB", index)
    return text
