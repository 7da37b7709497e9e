"""Records to the encoder's input: uint8 pixels and token ids.

Importing this doesn't import torch, so that CPU workers start quickly; only decoding with `resize="fast"` needs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vista_core.config import EncoderSettings
from vista_core.errors import RecordError
from vista_core.hub import resolve_alpha, resolve_config, text_folder
from vista_core.image import decode_image, square_pixels
from vista_core.tokenizer import TextTokenizer, Tokens, build_tokenizer, read_tokenizer

ImageSource = bytes | str | Path | Image.Image


@dataclass(frozen=True, slots=True)
class Record:
    """A text, an image, or both; an image is encoded bytes, a path, or an open image."""

    text: str | None = None
    image: ImageSource | None = None


class Preprocessor:
    """Tokenizer and image settings of a model, without its weights."""

    def __init__(self, tokenizer: TextTokenizer, image_size: int, alpha: str, resize: str) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.alpha = alpha
        self.resize = resize

    @staticmethod
    def load(settings: EncoderSettings) -> "Preprocessor":
        """Load the tokenizer; raises UsageError or DownloadError."""
        config = resolve_config(settings)
        serialised = read_tokenizer(text_folder(settings))
        tokenizer = build_tokenizer(serialised, config.max_tokens(settings.max_tokens), config.text.vocab_size)
        return Preprocessor(tokenizer, config.vision.image_size, resolve_alpha(settings), settings.resize)

    def decode_image(self, data: bytes) -> np.ndarray:
        """Encoded bytes to uint8 [S, S, 3]; RecordError if they are not a usable image."""
        return decode_image(data, self.image_size, self.alpha, self.resize)

    def open_image(self, source: ImageSource) -> np.ndarray:
        """Encoded bytes, a path or an open image to uint8 [S, S, 3]; RecordError as in `decode_image`."""
        if isinstance(source, Image.Image):
            return square_pixels(source, self.image_size, self.alpha, self.resize)
        if isinstance(source, bytes):
            return self.decode_image(source)
        try:
            return self.decode_image(Path(source).read_bytes())
        except OSError as error:
            raise RecordError("image_unreadable", str(error)) from error

    def tokenize(self, texts: Sequence[str | None], with_image: Sequence[bool]) -> list[Tokens]:
        """Token ids of each text; the limit is lower for a text with an image. None and "" give [CLS, SEP]."""
        return self.tokenizer.tokenize(texts, with_image)
