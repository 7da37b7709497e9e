"""Small versions of images, for a page of results."""

from __future__ import annotations

import io

from PIL import ImageOps

from vista_core import RecordError
from vista_core.image_limits import check_cost, open_image

QUALITY = 80


def thumbnail(data: bytes, size: int) -> bytes:
    """Encoded bytes to a WebP of at most `size` x `size` pixels, turned as its EXIF says; transparent parts are kept.

    Raises RecordError for what is not an image, or costs more than the model's own limits allow.
    """
    try:
        with open_image(data) as image:
            check_cost(image, size, "white")
            image.draft("RGB", (size, size))  # a JPEG is decoded at a fraction of its size
            image.thumbnail((size, size))
            turned = ImageOps.exif_transpose(image)
            file = io.BytesIO()
            turned.convert("RGBA" if turned.has_transparency_data else "RGB").save(file, "WEBP", quality=QUALITY)
            return file.getvalue()
    except RecordError:
        raise
    except Exception as error:  # decoders raise what they like
        raise RecordError("image_undecodable", f"{type(error).__name__}: {error}") from error
