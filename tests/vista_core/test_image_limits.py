"""Hostile images: each is refused for what it asks for, before it gets it."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.vista_core.test_image import encoded, noise
from vista_core import RecordError
from vista_core.image import decode_image
from vista_core.image_limits import FORMATS, MAX_READS, OTHER_SUFFIXES, SUFFIXES


def refused(data: bytes, alpha: str = "drop") -> RecordError:
    with pytest.raises(RecordError) as caught:
        decode_image(data, 64, alpha)
    return caught.value


@pytest.mark.parametrize(
    ("name", "kind"), [("EPS", "EPS"), ("PPM", "PPM"), ("ICO", "ICO"), ("JPEG 2000", "JPEG2000"), ("PDF", "PDF")]
)
def test_a_format_that_is_not_on_the_list_is_named_and_not_opened(name: str, kind: str):
    error = refused(encoded(noise(), kind))
    assert error.reason == "image_unsupported"
    assert f"in the format {name}; the formats read are JPEG, PNG" in error.message


def test_an_image_in_an_iptc_file_is_not_opened():
    assert refused(b"\x1c\x03\x3c\x00\x02\x00\x00" + encoded(noise())).reason == "image_unsupported"


def test_the_formats_are_told_by_the_content_and_have_all_their_endings():
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert endings | {".dib", ".pjpeg", ".pjp", ".mpo"} == SUFFIXES
    assert not SUFFIXES & OTHER_SUFFIXES


def test_a_jpeg_of_several_pictures_has_the_pixels_of_the_first():
    first, second = noise(), Image.new("RGB", (90, 60))
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=90)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_array_equal(decode_image(data, 64), decode_image(encoded(first, "JPEG", quality=90), 64))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_an_animation_only_the_first_frame_is_decoded(kind: str):
    frames = [noise().rotate(angle) for angle in range(20)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode_image(data, 64).shape == (64, 64, 3)


# Each takes more than 512 MiB, and its file a few kB
TOO_LARGE = {
    "WebP": (lambda: encoded(Image.new("RGB", (6000, 6000)), "WEBP", quality=1, method=0), "drop"),
    "AVIF": (lambda: encoded(Image.new("RGB", (5500, 5500)), "AVIF", speed=10), "drop"),
    "transparent PNG": (lambda: chunks(b"\x08\x06", 9000, 9000), "drop"),
    "PNG with a transparent palette": (lambda: chunks(b"\x08\x03", 11_000, 11_000, b"tRNS"), "white"),
    "TIFF in one strip": (lambda: tiff(8500, 8500), "drop"),
    "small TIFF in a large tile": (lambda: tiff(100, 100, tile=20_000), "drop"),
    "progressive JPEG": (lambda: jpeg(b"\xc2", 8000, 8000), "drop"),
    "JPEG with several scans": (lambda: jpeg(b"\xc0", 8000, 8000), "drop"),
}


def chunks(kind: bytes, width: int, height: int, *others: bytes) -> bytes:
    """A PNG without its pixels. `kind` are the bit depth and the colour type."""
    contents = [(b"IHDR", struct.pack(">II", width, height) + kind + bytes(3))]
    contents += [(b"PLTE", bytes(3))] + [(other, b"\0") for other in others] + [(b"IDAT", zlib.compress(b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in contents
    )


def tiff(width: int, height: int, tile: int = 0, strips: int = 1) -> bytes:
    """A TIFF of four channels without its pixels."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 4, 0), 259: (3, 1, 8), 262: (3, 1, 2), 277: (3, 1, 4)}
    tags |= (
        {322: (4, 1, tile), 323: (4, 1, tile), 324: (4, 1, 8)} if tile else {273: (4, strips, 8), 278: (4, 1, height)}
    )
    tags |= {338: (3, 1, 2)}
    tags[258] = (3, 4, 8 + 2 + 12 * len(tags) + 4)
    entries = b"".join(struct.pack("<HHLL", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + struct.pack("<4H", 8, 8, 8, 8) + bytes(64)


def jpeg(frame: bytes, width: int, height: int) -> bytes:
    """A JPEG of three channels without its pixels, whose first scan has one of them."""
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    return (
        b"\xff\xd8\xff" + frame + struct.pack(">HBHHB", 17, 8, height, width, 3) + components
        + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    )  # fmt: skip


@pytest.mark.parametrize("name", TOO_LARGE)
def test_an_image_that_takes_too_much_memory_is_refused(name: str):
    make, alpha = TOO_LARGE[name]
    error = refused(make(), alpha)
    assert (error.reason, "the limit is 512" in error.message) == ("image_too_large", True), error


MEASURE = """
import sys, io
from PIL import Image
from vista_core.image import decode_image
from vista_core import image_limits

def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))

def saved(mode, kind, **options):
    file = io.BytesIO()
    Image.new(mode, (1800, 1800)).save(file, kind, **options)
    return file.getvalue()

kinds = [
    ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    ("CMYK", "JPEG", {"progressive": True}),
    ("RGBA", "PNG", {}), ("P", "PNG", {"transparency": 0}), ("I;16", "PNG", {}), ("P", "GIF", {"transparency": 0}),
    ("RGBA", "WEBP", {"lossless": True, "method": 0}), ("RGBA", "AVIF", {"speed": 10}), ("RGB", "BMP", {}),
    ("RGBA", "TIFF", {"compression": "tiff_lzw", "strip_size": 1 << 30}),
    ("RGB", "TIFF", {"compression": "jpeg", "strip_size": 1 << 30}), ("F", "TIFF", {"compression": "lzma"}),
]
decode_image(saved("RGB", "JPEG"), 64, resize="fast")
for mode, kind, options in kinds:
    data = saved(mode, kind, **options)
    bounds = []
    image_limits._check_bytes = lambda needed, what: bounds.append(needed)
    base = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    decode_image(data, 64, "white", "fast")
    print(mode, kind, status("VmHWM") - base - max(bounds))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_decoding_takes_no_more_memory_than_was_estimated():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    excess = {tuple(line.split()[:-1]): int(line.split()[-1]) for line in done.stdout.splitlines()}
    assert len(excess) >= 9
    assert max(excess.values()) < 16 << 20, excess


def test_a_jpeg_of_many_scans_is_refused():
    data = encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data[:-2] + 100 * last + data[-2:], 64).shape == (64, 64, 3)
    error = refused(data[:-2] + 2000 * last + data[-2:])
    assert (error.reason, "scans" in error.message) == ("image_unsupported", True)


def test_scans_behind_a_comment_that_holds_the_end_marker_are_counted():
    data = encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    assert "scans" in refused(data[:-2] + comment + 2000 * last + data[-2:]).message


def metadata_bombs() -> dict[str, bytes]:
    jpeg, gif = encoded(noise(), "JPEG"), encoded(noise(), "GIF")
    png = encoded(noise(), "PNG")
    colours = 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 128 else 0)
    chunk = b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    return {
        "JPEG": jpeg[:2] + MAX_READS * b"\xff\xe5\x00\x02" + jpeg[2:],
        "JPEG junk": jpeg[:2] + b"\xff\xe5\x00\x02" + MAX_READS * b"\0" + jpeg[2:],
        "PNG": png[:33] + MAX_READS * chunk + png[33:],
        "GIF": gif[:colours] + b"!\xfe" + MAX_READS * b"\x01a" + b"\0" + gif[colours:],
    }


@pytest.mark.parametrize("name", metadata_bombs())
def test_metadata_of_too_many_pieces_is_refused(name: str):
    error = refused(metadata_bombs()[name])
    assert (error.reason, "pieces of metadata" in error.message) == ("image_unsupported", True)


def test_a_tiff_of_too_many_strips_is_refused():
    error = refused(tiff(100, 100, strips=1_000_000))
    assert (error.reason, "1,000,000 strips" in error.message) == ("image_unsupported", True)
