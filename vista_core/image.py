"""Image bytes to the square of pixels that the vision tower reads.

As in the reference (EVA-CLIP's evaluation transform), in this order: resize the shorter side to S by bicubic
resampling in the image's own mode, crop the centre, convert to RGB. The order matters: palette and transparent images
have other pixels if they are converted before they are resized. EXIF orientation is not applied.

`resize="exact"` equals the reference bit for bit, and spends more than half of its time in Pillow's resizing.
`resize="fast"` uses a torch kernel for JPEGs that is eight times as fast; it rounds differently, and about 0.4 % of a
photo's values differ by 1. Other formats hold drawings, whose edges would come out up to 4 % brighter or darker, so
Pillow resizes them in both modes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from vista_core.errors import RecordError, RejectReason
from vista_core.image_limits import MAX_PIXELS, check_cost, open_image

PREPROCESSING_VERSIONS = {"exact": 1, "fast": 2}  # part of EncoderIdentity: a change to the pixels needs a new number

# OpenAI CLIP's channel statistics, which EVA02-CLIP also uses
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

STRIP_PIXELS = 1 << 20  # of a large image, this many are copied at once

# how Pillow's messages describe a truncated file
TRUNCATED = re.compile(r"truncated|incomplete|unexpected end|EOF|not enough image data", re.IGNORECASE)


def decode_image(data: bytes, size: int, alpha: str = "drop", resize: str = "exact") -> np.ndarray:
    """Encoded bytes to pixels, uint8 [S, S, 3] with S = `size`; RecordError if they are not a usable image.

    `alpha="white"` puts transparent images on white; "drop" ignores transparency, as the reference does. What may be
    decoded, and within which limits, is in `vista_core.image_limits`.
    """
    with _rejecting(), open_image(data) as image:
        return _square_pixels(image, size, alpha, resize)


def square_pixels(image: Image.Image, size: int, alpha: str = "drop", resize: str = "exact") -> np.ndarray:
    """An open image of any format to pixels, as `decode_image`."""
    with _rejecting():
        return _square_pixels(image, size, alpha, resize)


def _square_pixels(image: Image.Image, size: int, alpha: str, resize: str) -> np.ndarray:
    check_cost(image, size, alpha)
    image.load()
    if alpha == "white":
        image = on_white(image)
    width, height = image.size
    if width <= height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    left, top = round((width - size) / 2), round((height - size) / 2)
    if resize == "fast" and image.format == "JPEG" and image.mode in ("RGB", "L"):
        return _rgb(_resized(image, width, height)[top : top + size, left : left + size])
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized.crop((left, top, left + size, top + size)).convert("RGB"), dtype=np.uint8)


def _resized(image: Image.Image, width: int, height: int) -> np.ndarray:
    """Resize an RGB or L image with torch, with the same filter as Pillow's BICUBIC: uint8 [height, width, C].

    C is 1 for L, and 3 or 4 for RGB; the fourth value is padding.
    """
    import pyarrow as pa
    import torch  # imported here since it takes a second and 280 MB, and only processes that decode images need it
    import torch.nn.functional as F
    from torch.utils.dlpack import from_dlpack

    try:  # a view of Pillow's own memory, where an RGB pixel has four bytes
        arrow = pa.array(image)
        values = from_dlpack(arrow.values if image.mode == "RGB" else arrow)
    except ValueError:  # Pillow stores a large image in several blocks
        # The kernel resizes rows before columns, and rounds in between: so rows can be resized strip by strip, with
        # the same result as at once, and without a second copy of the image.
        strips = (torch.from_numpy(np.array(strip)) for strip in _strips(image))
        views = (strip.view(1, *strip.shape[:2], -1).permute(0, 3, 1, 2) for strip in strips)
        pixels = torch.cat(
            [F.interpolate(view, (view.shape[2], width), mode="bicubic", antialias=True) for view in views], 2
        )
    else:
        pixels = values.view(1, image.height, image.width, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _rgb(values: np.ndarray) -> np.ndarray:
    """The output of `_resized`, [H, W, C], as RGB [H, W, 3]."""
    pixels = np.empty((*values.shape[:2], 3), np.uint8)
    for channel in range(3):  # one by one, since numpy takes four times as long for all three at once
        pixels[..., channel] = values[..., channel % values.shape[-1]]
    return pixels


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """The image from top to bottom in strips of its full width."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def on_white(image: Image.Image) -> Image.Image:
    """An image with its transparency composited on white; one without transparency as it is."""
    if not image.has_transparency_data or image.mode.startswith(("I", "F")):  # these modes can't become RGBA
        return image
    flat, top = Image.new("RGB", image.size), 0
    for strip in _strips(image):  # in RGBA, the whole image would be in memory four times
        layer = strip.convert("RGBA")
        flat.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), (0, top))
        top += strip.height
    return flat


@contextmanager
def _rejecting() -> Iterator[None]:
    """Turn whatever decoding and resizing raise into a RecordError with its reason."""
    try:
        yield
    except RecordError:
        raise
    except Image.DecompressionBombError as error:  # raised when the file is opened, before its size is checked here
        raise RecordError("image_too_large", f"more than {MAX_PIXELS:,} pixels, which is the limit") from error
    except Exception as error:  # nearly any exception: decoders raise what they like
        raise RecordError(_reason(error), f"{type(error).__name__}: {error}") from error


def _reason(error: Exception) -> RejectReason:
    if isinstance(error, MemoryError):
        return "image_too_large"
    if isinstance(error, EOFError) or TRUNCATED.search(str(error)):
        return "image_truncated"
    if isinstance(error, NotImplementedError | ValueError):
        return "image_unsupported"
    return "image_undecodable"
