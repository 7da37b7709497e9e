"""Records to what the encoder reads: uint8 pixels and token ids. Torch has no part in it: CPU workers start quickly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vista_core.config import EncoderSettings
from vista_core.errors import RecordError
from vista_core.hub import resolve_config, text_folder
from vista_core.image import decode_image, square_pixels
from vista_core.tokenizer import TextTokenizer, Tokens, build_tokenizer, read_tokenizer

ImageSource = bytes | str | Path | Image.Image


@dataclass(frozen=True, slots=True)
class Record:
    """Text, image, or both; an image is its encoded bytes, a path, or already open."""

    text: str | None = None
    image: ImageSource | None = None


class Preprocessor:
    """Tokenizer and image size of a model, without its weights."""

    def __init__(self, tokenizer: TextTokenizer, image_size: int, alpha: str, resize: str) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.alpha = alpha
        self.resize = resize

    @staticmethod
    def load(settings: EncoderSettings) -> "Preprocessor":
        """Read the tokenizer that settings mean."""
        config = resolve_config(settings)
        serialised = read_tokenizer(text_folder(settings))
        tokenizer = build_tokenizer(serialised, config.max_tokens(settings.max_tokens), config.text.vocab_size)
        return Preprocessor(tokenizer, config.vision.image_size, settings.alpha, settings.resize)

    def decode_image(self, data: bytes) -> np.ndarray:
        """Encoded bytes to uint8 [S, S, 3]; RecordError where they are no good image."""
        return decode_image(data, self.image_size, self.alpha, self.resize)

    def open_image(self, source: ImageSource) -> np.ndarray:
        """Bytes, a path or an open image to uint8 [S, S, 3]."""
        if isinstance(source, Image.Image):
            return square_pixels(source, self.image_size, self.alpha, self.resize)
        if isinstance(source, bytes):
            return self.decode_image(source)
        try:
            return self.decode_image(Path(source).read_bytes())
        except OSError as error:
            raise RecordError("image_unreadable", str(error)) from error

    def tokenize(self, texts: Sequence[str | None], with_image: Sequence[bool]) -> list[Tokens]:
        """Token ids of each text; `with_image` decides the limit. None and "" give [CLS, SEP]."""
        return self.tokenizer.tokenize(texts, with_image)
