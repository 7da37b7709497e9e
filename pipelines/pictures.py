"""Small pictures for people: of the images of a few records, at most a few kilobytes each.

They are drawn anew as JPEG, so that what a catalog has for an image never reaches a browser.
"""

from __future__ import annotations

import io
from typing import cast

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from vista_core.image import on_white
from vista_core.image_limits import check_cost, open_image

SIDE = 128  # pixels of the longer side
QUALITY = 80


def picture_of_pixels(pixels: np.ndarray) -> bytes:
    """A JPEG of what the vision tower sees, uint8 [S, S, 3]."""
    return as_jpeg(Image.fromarray(pixels))


def picture_of_image(data: bytes, *, partly: bool = False) -> bytes | None:
    """A JPEG of an encoded image, within the limits of `vista_core.image_limits`; None if it can't be decoded.

    With `partly` also of an image that is cut off: what it has of its pixels.
    """
    try:
        with open_image(data) as image:
            check_cost(image, SIDE, "white")
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # libjpeg decodes a large JPEG at a fraction of its size
            try:
                image.load()
            except OSError:
                if not partly:
                    return None
                # What is left to be decoded: without it, Pillow works with the pixels that it has.
                cast(ImageFile, image).tile = []
            return as_jpeg(on_white(image))
    except Exception:  # noqa: BLE001 (decoders raise what they like; why a record was rejected is known already)
        return None


def as_jpeg(image: Image.Image) -> bytes:
    """The image, reduced to SIDE pixels, as a JPEG without metadata."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
