"""Which images are decoded, and what one may cost. A small file can ask for much memory and time.

    FORMATS                  Pillow opens fifty formats. Some start programs (EPS: Ghostscript), some hold other files.
    MAX_PIXELS, MAX_ASPECT   width times height; the longer side to the shorter one
    MAX_BYTES                memory that decoding and resizing take, beside the file itself
    MAX_SCAN_PIXELS          pixels of a JPEG times its scans, which are passes over the whole image
    MAX_READS                pieces that a file has before its pixels, such as comments
    MAX_STRIPS               pieces that the pixels of a TIFF are cut into

All are checked before the pixels are decoded.
"""

import io
import math
import re
import struct

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    STRIPOFFSETS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    TiffImageFile,
)

from vista_core.errors import RecordError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# The endings of their files, by which a folder's images are found. The format itself is told by a file's first bytes.
SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".pjpeg",
        ".pjp",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".avifs",
    )
)
# The endings of other formats that people have images in
OTHER_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".svg", ".svgz", ".eps"),
        *(".psd", ".psb", ".xcf", ".ico", ".icns", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".dds", ".exr", ".qoi"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".wmf", ".emf"),
    )
)

STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
MAX_PIXELS = 178_956_970  # above this, Pillow raises DecompressionBombError
MAX_ASPECT = 512  # resized to 224 px, that is 26 megapixels; without a limit, a 600000 x 1 image would take gigabytes
MAX_BYTES = 512 << 20
MAX_SCAN_PIXELS = 1_500_000_000  # takes about 10 seconds; encoders make about 10 scans
MAX_READS = 100_000  # ordinary files need less than 200
MAX_STRIPS = 1 << 18

# The first bytes of other formats that people have images in
OTHER_FORMATS = {
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "PDF": rb"%PDF",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml|<!DOCTYPE svg|<svg)",
    "HEIC": rb".{4}ftyp(?:hei|hev|mif1|msf1)",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    "ICO": rb"\x00\x00[\x01\x02]\x00",
    "PSD": rb"8BPS",
    "PPM": rb"P[1-7fF]\s",
    "IPTC": rb"\x1c[\x01-\x09]",
}

# JPEG's markers (ITU T.81, annex B). Within a scan, 0xFF is followed by 0 or by one of eight restart markers.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START, _END, _SCAN, _TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)

# TIFF's compressions that need no memory beside what they give: none, CCITT, LZW, deflate, PackBits
_SIMPLE_COMPRESSIONS = (1, 2, 3, 4, 5, 8, 32773, 32946)


class _File(io.BytesIO):
    """A file that can be read `reads` times, or without limit if that is None."""

    reads: int | None = MAX_READS

    def read(self, size: int | None = -1) -> bytes:
        if self.reads is not None:
            self.reads -= 1
            if self.reads < 0:
                raise RecordError("image_unsupported", f"more than {MAX_READS:,} pieces of metadata; save it without")
        return super().read(size)


def is_image_start(data: bytes) -> bool:
    """True for bytes that begin like an image in one of the FORMATS."""
    if data.startswith(STARTS):
        return True
    bitmap = data[:2] == b"BM" and data[6:10] == bytes(4)  # reserved, and zero
    return bitmap or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or data[4:12] in (b"ftypavif", b"ftypavis")


def open_image(data: bytes) -> Image.Image:
    """Encoded bytes to an image that can be loaded. Raises RecordError, or what Pillow raises."""
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data)
    elif data.startswith((b"II", b"MM")):
        _check_tiff(data)
    file = _File(data)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:  # its own message contains a memory address
        raise _not_read(data) from error
    file.reads = None
    return image


def check_cost(image: Image.Image, size: int, alpha: str) -> None:
    """Raise RecordError for an image that is too large to be loaded and resized to `size`."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RecordError("image_too_large", f"{width} x {height} pixels; the limit is {MAX_PIXELS} in all")
    if min(width, height) < 1:
        raise RecordError("image_undecodable", f"{width} x {height} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RecordError("image_too_elongated", f"{width} x {height} pixels; the limit is a ratio of 1:{MAX_ASPECT}")
    _check_bytes(working_bytes(image, size, alpha), f"{width} x {height} pixels as {image.format} ({image.mode})")


def working_bytes(image: Image.Image, size: int, alpha: str) -> int:
    """Upper bound of the memory that loading an image and resizing it to `size` take, beside its file."""
    width, height = image.size
    held = _pixel_bytes(image.mode)
    if image.mode in ("RGBA", "LA", "PA") or (alpha == "white" and image.has_transparency_data):
        held += 4  # premultiplied to be resized, or put on white
    ratio = size / min(width, height)
    resizing = 4 * math.ceil(width * ratio) * (height + math.ceil(height * ratio))  # rows are resized before columns
    return width * height * held + _decoder_bytes(image) + resizing


def _pixel_bytes(mode: str) -> int:
    """What Pillow holds for a pixel."""
    return 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4


def _decoder_bytes(image: Image.Image) -> int:
    """What Pillow's decoder of a format holds beside the image, as measured; for JPEGs see `_check_jpeg`."""
    width, height = image.size
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        bits = tags.get(BITSPERSAMPLE, (1,))
        bits_per_pixel = max(sum(bits), bits[0] * tags.get(SAMPLESPERPIXEL, 1))
        rows = min(tags.get(ROWSPERSTRIP, height) or height, height)
        strip, tile = width * rows, tags.get(TILEWIDTH, 0) * tags.get(TILELENGTH, 0)
        copies = 1 if tags.get(COMPRESSION, 1) in _SIMPLE_COMPRESSIONS else 5
        return max(strip, tile) * bits_per_pixel * copies // 8  # it is decoded strip by strip, or tile by tile
    return width * height * {"WEBP": 12, "AVIF": 16, "BMP": 2, "GIF": 1}.get(image.format or "", 0)


def _check_bytes(needed: int, what: str) -> None:
    if needed > MAX_BYTES:
        message = f"{what} take {needed >> 20:,} MiB of memory to decode; the limit is {MAX_BYTES >> 20}"
        raise RecordError("image_too_large", message)


def _check_jpeg(data: bytes) -> None:
    """Raise RecordError for a JPEG that has too many scans, or takes too much memory because it has several.

    For several scans, as progressive JPEGs have, the coefficients of the whole image are held beside its pixels.
    """
    position, scans, frame, several = 2, 0, b"", False
    while match := _MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _END:
            return
        if marker in (_START, _TEMPORARY):  # they have no content
            continue
        segment = data[position + 2 : position + int.from_bytes(data[position : position + 2])]
        position += 2 + len(segment)
        if marker in _FRAMES and len(segment) >= 6:
            frame, several = segment, marker in _PROGRESSIVE
        elif marker == _SCAN and frame and segment:
            scans += 1
            several = several or segment[0] < frame[5]
            if not several:
                return
            if scans == 1:
                _check_bytes(*_several_scans(frame))
            height, width = struct.unpack(">HH", frame[1:5])
            if scans * height * width > MAX_SCAN_PIXELS:
                raise RecordError(
                    "image_unsupported", f"{width} x {height} pixels in {scans} scans or more; save it anew"
                )


def _several_scans(frame: bytes) -> tuple[int, str]:
    """The memory that a JPEG takes with all coefficients, two bytes each, and a description; `frame` is its SOF."""
    height, width, components = struct.unpack(">HHB", frame[1:6])
    sampling = [(each >> 4, each & 15) for each in frame[7 : 6 + 3 * components : 3]]
    largest = math.prod(map(max, zip(*sampling, strict=True))) if sampling else 1
    coefficients = 2 * sum(map(math.prod, sampling)) / max(1, largest)
    mode = "L" if components == 1 else "RGB"
    return (
        round(width * height * (_pixel_bytes(mode) + coefficients)),
        f"{width} x {height} pixels as JPEG with several scans",
    )


def _check_tiff(data: bytes) -> None:
    """Raise RecordError for a TIFF of too many strips or tiles: Pillow makes an object of each."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:3] == b"\x2b"  # BigTIFF
    entry, start, number = (f"{order}HHQ8x", 8, "Q") if big else (f"{order}HHL4x", 4, "L")
    try:
        [position] = struct.unpack_from(f"{order}{number}", data, start)
        [count] = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, position)
        position += 8 if big else 2
        for tag, _, values in struct.iter_unpack(entry, data[position : position + count * struct.calcsize(entry)]):
            if tag in (STRIPOFFSETS, TILEOFFSETS) and values > MAX_STRIPS:
                raise RecordError(
                    "image_unsupported", f"a TIFF of {values:,} strips or tiles; at most {MAX_STRIPS:,} are read"
                )
    except struct.error:  # cut off or damaged: Pillow says so
        return


def _not_read(data: bytes) -> RecordError:
    """Why bytes in which Pillow finds none of the FORMATS are not read."""
    known = f"the formats read are {', '.join(FORMATS)}"
    for name, start in OTHER_FORMATS.items():
        if re.match(start, data, re.DOTALL):
            return RecordError("image_unsupported", f"in the format {name}; {known}")
    return RecordError("image_undecodable", f"not an image, or a damaged one; {known}")
