"""Image bytes to the square of pixels that the vision tower reads.

As the reference does it: the shorter side to S by bicubic resampling in the image's own mode, centre crop, and only
then conversion to RGB. Resizing a palette or a transparent image before that conversion changes its pixels, so the
order matters. EXIF orientation is not applied.

Half of that time and more goes into Pillow's resizing, for which torch has a kernel eight times as fast. It computes
the same sums in other roundings: some 0.4 % of a photo's values differ, by 1. `fast` takes it for JPEGs; other
formats hold drawings, whose edges may come out 4 % brighter or darker, and stay with Pillow. `exact` is the reference
bit for bit.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from vista_core.errors import RecordError, RejectReason

PREPROCESSING_VERSIONS = {"exact": 1, "fast": 2}  # a change to the pixels needs a new number: vectors do not mix

# OpenAI CLIP's channel statistics, which EVA02-CLIP keeps
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb
MAX_ASPECT = 512  # at 224 px this resizes to 26 megapixels; without a bound a 600000 x 1 image takes gigabytes

TRUNCATED = re.compile(
    r"truncated|incomplete|unexpected end|EOF|not enough image data", re.IGNORECASE
)  # Pillow's words


def decode_image(data: bytes, size: int, alpha: str = "drop", resize: str = "exact") -> np.ndarray:
    """Pixels of an encoded image, uint8 [S, S, 3]; anything wrong with the bytes is a RecordError."""
    with _rejecting(), Image.open(io.BytesIO(data)) as image:
        return _square_pixels(image, size, alpha, resize)


def square_pixels(image: Image.Image, size: int, alpha: str = "drop", resize: str = "exact") -> np.ndarray:
    """Pixels of an opened image, uint8 [S, S, 3]; RecordError as in `decode_image`."""
    with _rejecting():
        return _square_pixels(image, size, alpha, resize)


def _square_pixels(image: Image.Image, size: int, alpha: str, resize: str) -> np.ndarray:
    _check_size(image)
    image.load()
    if alpha == "white":
        image = _on_white(image)
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
    """An RGB or L image to uint8 [height, width, C], by the filter that Pillow's BICUBIC is; C is 1, 3 or 4."""
    import pyarrow as pa
    import torch  # a second and 280 MB, which only processes that meet images should take
    import torch.nn.functional as F
    from torch.utils.dlpack import from_dlpack

    try:  # the pixels where they lie; RGB ones have a fourth value that means nothing
        arrow = pa.array(image)
        values = from_dlpack(arrow.values if image.mode == "RGB" else arrow)
    except ValueError:  # those of a large image lie in several places
        values = torch.from_numpy(np.array(image))
    pixels = values.view(1, image.height, image.width, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _rgb(values: np.ndarray) -> np.ndarray:
    """[H, W, 3] of [H, W, C], as `_resized` returns it."""
    pixels = np.empty((*values.shape[:2], 3), np.uint8)
    for channel in range(3):  # numpy needs four times as long for all three at once
        pixels[..., channel] = values[..., channel % values.shape[-1]]
    return pixels


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RecordError("image_too_large", f"{width} x {height} pixels, at most {MAX_PIXELS} in all")
    if min(width, height) < 1:
        raise RecordError("image_undecodable", f"{width} x {height} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RecordError("image_too_elongated", f"{width} x {height} pixels, sides at most 1:{MAX_ASPECT}")


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data or image.mode.startswith(("I", "F")):  # those have no way to RGBA
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


@contextmanager
def _rejecting() -> Iterator[None]:
    """What decoding and resizing raise, as a RecordError with its reason."""
    try:
        yield
    except RecordError:
        raise
    except UnidentifiedImageError as error:  # its own message names an address in memory
        raise RecordError("image_undecodable", "no image format that Pillow knows") from error
    except Exception as error:  # the edge of a record: decoders raise nearly everything
        raise RecordError(_reason(error), f"{type(error).__name__}: {error}") from error


def _reason(error: Exception) -> RejectReason:
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "image_too_large"
    if isinstance(error, EOFError) or TRUNCATED.search(str(error)):
        return "image_truncated"
    if isinstance(error, NotImplementedError | ValueError):
        return "image_unsupported"
    return "image_undecodable"
