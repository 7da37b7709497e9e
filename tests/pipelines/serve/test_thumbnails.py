"""Thumbnails: decoded within limits, kept within limits."""

import asyncio
import io
import struct
import threading
import zlib

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.pictures import picture_of_image
from pipelines.sample_catalog import draw
from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.serve.metrics import Metrics
from pipelines.serve.overload import OverloadError
from pipelines.serve.thumbnails import Cache, Key, Thumbnails
from tests.pipelines.serve.client import running
from tests.pipelines.serve.shapes import TABLE, publish


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_becomes_a_small_webp(format):
    made = opened(picture_of_image(encoded(Image.new("RGB", (1000, 500), "red"), format), 320))
    assert (made.format, made.size) == ("WEBP", (320, 160))
    red, green, blue = made.convert("RGB").getpixel((100, 100))
    assert red > 230 > 30 > max(green, blue)


def test_a_small_image_is_not_enlarged_and_transparency_is_kept():
    made = opened(picture_of_image(encoded(Image.new("RGBA", (20, 10), (0, 0, 0, 0)), "PNG"), 320))
    assert (made.size, made.mode) == ((20, 10), "RGBA")


def test_an_image_is_turned_as_its_camera_was():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    made = opened(picture_of_image(encoded(Image.new("RGB", (400, 200)), "JPEG", exif=exif), 320))
    assert made.size == (160, 320)


def bomb() -> bytes:
    """A PNG that claims to have 10^10 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [b"", b"no image", bomb(), draw("star", "red", "blue")[:100], b"<svg></svg>"])
def test_what_cannot_be_shown_is_no_thumbnail(data):
    assert picture_of_image(data, 320) is None


def test_the_cache_forgets_what_was_not_asked_for_longest():
    cache = Cache(5000)
    keys = [Key(1, str(number), 320) for number in range(4)]
    for key in keys[:3]:
        cache.put(key, bytes(1000))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], bytes(1000))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    assert cache.bytes <= 5000
    cache.put(keys[0], bytes(10))
    assert cache.bytes == sum(len(cache.get(key)) + 512 for key in (keys[0], keys[2], keys[3]))


def test_too_many_images_are_refused_and_made_ones_are_kept():
    began, gate, loads = threading.Event(), threading.Event(), []

    def slow() -> bytes:
        began.set()
        assert gate.wait(30)
        return draw("star", "red", "blue")

    async def main():
        thumbnails = Thumbnails(ServeLimits(thumbnail_queue=1), Metrics())
        first = asyncio.create_task(thumbnails.get(Key(1, "a", 320), slow))
        await asyncio.get_running_loop().run_in_executor(None, began.wait, 30)
        with pytest.raises(OverloadError):
            await thumbnails.get(Key(1, "b", 320), slow)
        gate.set()
        made = await first
        assert await thumbnails.get(Key(1, "a", 320), lambda: loads.append("again")) == made
        assert await thumbnails.get(Key(1, "none", 320), lambda: None) is None
        assert await thumbnails.get(Key(1, "none", 320), lambda: loads.append("again")) is None
        assert not loads, "also that there is none is remembered"
        thumbnails.close()

    asyncio.run(main())


def test_images_that_rows_only_name_are_shown_if_they_are_allowed_and_no_others(tmp_path, shapes):
    pictures, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    for folder in (pictures, elsewhere):
        folder.mkdir()
        (folder / "a.png").write_bytes(draw("star", "red", "blue"))
    (pictures / "link.png").symlink_to(elsewhere / "a.png")
    uris = [
        *(str(pictures / "a.png"), "a.png"),  # allowed
        *(str(elsewhere / "a.png"), str(pictures / "link.png"), "../elsewhere/a.png", str(pictures / "missing.png")),
        *("http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "http://127.0.0.1:1/a.png"),
    ]
    table = shapes.slice(0, len(uris)).drop_columns(["image"])
    table = table.append_column("image_uri", pa.array(uris))
    publish(tmp_path, table)
    ids = table["id"].to_pylist()

    def shown(**options: object) -> list[bool]:
        with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu", **options)) as client:
            images = client.get("/api/table").json["images"]
            answers = [client.get(f"/api/image?id={key}&version=1") for key in ids]
            assert {answer.status for answer in answers} <= {200, 404}
            assert images == bool(options)
            return [answer.status == 200 for answer in answers]

    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu", image_root=str(pictures))) as client:
        changed = client.ids(like=ids[0], text="in red", where="price > 0", k=100)
        assert sorted(changed) == sorted(ids[1:]), "all but the row itself"
        answer = client.search(like=ids[-1], text="in red")
        assert (answer.status, "has no image" in answer.json["detail"]) == (400, True)
    allowed = [True, True] + [False] * (len(uris) - 2)
    assert shown() == [False] * len(uris), "nothing is fetched unless it is allowed"
    assert shown(image_root=str(pictures)) == allowed
    assert shown(allow_prefix=(str(pictures),)) == [True] + [False] * (len(uris) - 1)
