"""Small pictures for people, of the images of a few records.

They are drawn anew as WebP, so that what a catalog has for an image never reaches a browser.
"""

from __future__ import annotations

import io
from typing import cast

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from vista_core.image_limits import check_cost, open_image

SIDE = 128  # pixels of the longer side, in a report of a run
QUALITY = 80


def picture_of_pixels(pixels: np.ndarray) -> bytes:
    """A WebP of what the vision tower sees, uint8 [S, S, 3]."""
    return as_webp(Image.fromarray(pixels), SIDE)


def picture_of_image(data: bytes, side: int = SIDE, *, partly: bool = False) -> bytes | None:
    """A WebP of an image, at most `side` pixels high and wide, turned as its EXIF says. Transparent parts are kept.

    It is decoded within the limits of `vista_core.image_limits`. None if it can't be decoded. With `partly`, an image
    that is cut off can: what it has of its pixels.
    """
    try:
        with open_image(data) as image:
            check_cost(image, side, "white")
            image.draft("RGB", (side, side))  # libjpeg decodes a large JPEG at a fraction of its size
            try:
                image.load()
            except OSError:
                if not partly:
                    return None
                # What is left to be decoded: without it, Pillow works with the pixels that it has.
                cast(ImageFile, image).tile = []
            return as_webp(image, side)
    except Exception:  # noqa: BLE001 (decoders raise what they like; why a record was rejected is known already)
        return None


def as_webp(image: Image.Image, side: int) -> bytes:
    """The image, reduced to `side` pixels and turned, as a WebP without metadata."""
    image.thumbnail((side, side))
    turned = ImageOps.exif_transpose(image)
    file = io.BytesIO()
    turned.convert("RGBA" if turned.has_transparency_data else "RGB").save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
