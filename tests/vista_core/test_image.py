import hashlib
import io
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests.vista_core.conftest import IMAGES, Golden
from vista_core import RecordError
from vista_core.image import decode_image, square_pixels
from vista_core.vision import normalise


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels[..., :3]).convert(mode)


def test_every_golden_image_is_bit_identical(golden: Golden):
    for index, name in enumerate(golden.images):
        expected = golden.facts["preprocess"][name]
        pixels = decode_image((IMAGES / name).read_bytes(), golden.config.vision.image_size)
        tensor = normalise(torch.from_numpy(pixels)).contiguous()
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == expected["u8_sha256"], name
        assert hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == expected["f32_sha256"], name
        np.testing.assert_array_equal(pixels, golden.arrays["pixels_u8"][index])


@pytest.mark.parametrize("name", sorted(path.name for path in IMAGES.iterdir()))
def test_fast_pixels_of_each_golden_image_are_nearly_the_exact_ones(name: str):
    data = (IMAGES / name).read_bytes()
    exact, fast = (decode_image(data, 224, resize=resize).astype(int) for resize in ("exact", "fast"))
    assert np.abs(fast - exact).max() <= 2
    image = Image.open(io.BytesIO(data))
    assert (image.format == "JPEG" and image.mode in ("RGB", "L")) or np.array_equal(fast, exact)


@given(st.sampled_from(["RGB", "L"]), st.integers(1, 400), st.integers(1, 400))
def test_fast_pixels_are_nearly_the_exact_ones_at_any_size(mode: str, width: int, height: int):
    data = encoded(noise(mode, (width, height)), "JPEG")
    exact, fast = (decode_image(data, 64, resize=resize) for resize in ("exact", "fast"))
    assert exact.shape == fast.shape == (64, 64, 3)
    # values are integers, and at worst half of them round the other way
    assert np.abs(fast.astype(int) - exact.astype(int)).mean() <= 0.6


def test_fast_pixels_of_an_image_that_pillow_stores_in_several_blocks():
    data = encoded(Image.linear_gradient("L").convert("RGB").resize((2200, 2000)), "JPEG")
    with Image.open(io.BytesIO(data)) as image, pytest.raises(ValueError, match=r"contiguous|blocks"):
        image.load()
        pa.array(image)
    exact, fast = (decode_image(data, 224, resize=resize).astype(int) for resize in ("exact", "fast"))
    assert np.abs(fast - exact).max() <= 1


@pytest.mark.parametrize(("mode", "size"), [("RGB", (2600, 1700)), ("L", (6000, 3000)), ("RGB", (20_000, 240))])
def test_a_large_jpeg_is_resized_in_strips_as_at_once(mode: str, size: tuple[int, int]):
    image = noise(mode, size)
    data = encoded(image, "JPEG")
    with Image.open(io.BytesIO(data)) as decoded:
        whole = torch.from_numpy(np.array(decoded)).view(1, *size[::-1], -1).permute(0, 3, 1, 2)
    resized = [64 if side == min(size) else int(side * 64 / min(size)) for side in size[::-1]]
    whole = torch.nn.functional.interpolate(whole, resized, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    top, left = (round((side - 64) / 2) for side in resized)
    expected = np.broadcast_to(whole[top : top + 64, left : left + 64], (64, 64, 3))
    np.testing.assert_array_equal(decode_image(data, 64, resize="fast"), expected)


def test_a_batch_is_normalised_like_each_of_its_images():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    torch.testing.assert_close(normalise(pixels), torch.stack([normalise(image) for image in pixels]), rtol=0, atol=0)


def rejected(data: bytes) -> str:
    """The reason for which both ways of resizing reject an image."""
    reasons = []
    for resize in ("exact", "fast"):
        with pytest.raises(RecordError) as caught:
            decode_image(data, 64, resize=resize)
        assert "0x" not in caught.value.message  # a memory address would differ between runs
        reasons.append(caught.value.reason)
    assert len(set(reasons)) == 1
    return reasons[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_rejected_as_truncated(kind: str):
    data = encoded(noise(), kind)
    assert rejected(data[: len(data) // 2]) == "image_truncated"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("data", [b"", b"no image", b"<html></html>", b"<svg></svg>", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_not_an_image_are_rejected(data: bytes):
    assert rejected(data).startswith("image_")


def test_a_decompression_bomb_is_rejected_before_it_is_decoded():
    assert rejected(encoded(Image.new("1", (13_500, 13_500)))) == "image_too_large"


def test_an_extreme_aspect_ratio_is_rejected_before_it_is_resized():
    assert rejected(encoded(Image.new("1", (600_000, 1)))) == "image_too_elongated"
    assert decode_image(encoded(Image.new("1", (512, 1))), 64).shape == (64, 64, 3)


def test_an_unsupported_mode_is_rejected():
    with pytest.raises(RecordError, match="image_unsupported"):
        square_pixels(Image.new("La", (20, 20)), 64)


def test_an_open_image_that_is_truncated_is_rejected():
    data = encoded(noise(), "JPEG")
    with pytest.raises(RecordError, match="image_truncated"):
        square_pixels(Image.open(io.BytesIO(data[: len(data) // 2])), 64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_format_on_the_list_is_read(kind: str):
    assert decode_image(encoded(noise(), kind), 64).shape == (64, 64, 3)


def transparent(mode: str) -> bytes:
    """A fully transparent image of black pixels."""
    if mode in ("RGBA", "LA"):
        return encoded(Image.new(mode, (40, 30)))
    options = {"P": 0, "L": 0, "RGB": (0, 0, 0)}
    return encoded(Image.new(mode, (40, 30)), transparency=options[mode])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_pixels_become_white_only_with_alpha_white(mode: str):
    assert decode_image(transparent(mode), 16, "drop").max() == 0
    assert decode_image(transparent(mode), 16, "white").min() == 255


def test_a_transparent_palette_becomes_white_with_alpha_white():
    assert square_pixels(Image.new("PA", (40, 30)), 16, "white").min() == 255


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr", "P", "I", "I;16", "F"])
def test_alpha_white_does_not_change_opaque_images(mode: str):
    image = noise(mode) if mode not in ("I;16", "F", "I") else Image.new(mode, (90, 60), 77)
    np.testing.assert_array_equal(square_pixels(image, 16, "white"), square_pixels(image, 16, "drop"))


def test_a_large_transparent_image_is_put_on_white_in_strips_as_at_once():
    image = noise("RGBA", (2000, 1200))
    image.putalpha(noise("L", (2000, 1200)))
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    np.testing.assert_array_equal(square_pixels(image, 64, "white"), square_pixels(whole, 64))


def test_half_transparency_is_composited_before_the_resize():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    assert abs(int(square_pixels(image, 64, "white")[0, 0, 0]) - 127) <= 1


def test_a_record_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(RecordError("image_truncated", "half of it", 3)))
    assert (error.reason, error.message, error.index) == ("image_truncated", "half of it", 3)
    assert str(error) == "record 3: image_truncated: half of it"
