"""Small valid files of every format that the product reads, from which damaged ones are made."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from urllib.parse import quote_from_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROWS = 6


def pixels(*shape: int) -> np.ndarray:
    """Noise on a gradient, which every codec has to work for."""
    random = np.random.default_rng(0)
    return (random.integers(0, 64, shape) + np.linspace(0, 190, shape[1])[None, :, None].astype(int)).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image file."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def images() -> list[bytes]:
    """Images of every format, in the modes that take different ways through their decoders."""
    rgb, rgba = Image.fromarray(pixels(24, 32, 3)), Image.fromarray(pixels(24, 32, 4))
    frames = [rgb, rgb.transpose(Image.Transpose.ROTATE_180)]
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return [
        encoded(rgb, "JPEG", exif=exif, comment=b"a comment", dpi=(72, 72)),
        encoded(rgb, "JPEG", progressive=True),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb.convert("L"), "JPEG", restart_marker_rows=1),
        encoded(rgba, "PNG"),
        encoded(rgb.convert("P"), "PNG", transparency=3),
        encoded(rgb.convert("I;16"), "PNG"),
        encoded(rgb.convert("1"), "PNG"),
        encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        encoded(rgb, "WEBP"),
        encoded(rgba, "WEBP", lossless=True),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encoded(rgb, "BMP"),
        encoded(rgb.convert("P"), "BMP"),
        encoded(rgb, "TIFF"),
        encoded(rgba, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "TIFF", compression="jpeg"),
        encoded(rgb.convert("1"), "TIFF", compression="group4"),
        encoded(rgb.convert("F"), "TIFF", compression="tiff_adobe_deflate"),
        encoded(rgb, "AVIF"),
    ]


def cells() -> list[bytes]:
    """Images as text, as cells of a catalog have them."""
    texts = [base64.b64encode(each) for each in images()]
    urls = [b"data:image/png;base64," + text for text in texts[:3]]
    return [*texts, *urls, b"data:image/jpeg," + quote_from_bytes(images()[0]).encode()]


def table() -> pa.Table:
    """A catalog with ids, texts, images and columns of many types."""
    image = encoded(Image.fromarray(pixels(8, 8, 3)), "PNG")
    return pa.table(
        {
            "id": [f"row-{row}" for row in range(ROWS)],
            "text": pa.array(["a red circle", "ein Kreis, rot", "", None, "赤い丸", "x" * 200]),
            "image": pa.array([image, None, image, b"", b"not an image", image], pa.binary()),
            "price": [1.5, float("nan"), None, -0.0, float("inf"), 3.25],
            "tags": [["a", "b"], [], None, ["c"], [None], ["d"]],
            "shop": [{"name": "x", "zip": row} for row in range(ROWS)],
            "kind": pa.array(["a", "b", "a", None, "b", "a"]).dictionary_encode(),
            "day": pa.array(range(ROWS), pa.timestamp("ms", "UTC")),
        }
    )


def parquet() -> list[bytes]:
    """Parquet files with several codecs, encodings and row groups."""

    def file(**options: object) -> bytes:
        sink = io.BytesIO()
        pq.write_table(table(), sink, **options)
        return sink.getvalue()

    return [
        file(),
        file(compression="zstd", row_group_size=2, data_page_version="2.0"),
        file(compression="none", use_dictionary=False, write_page_index=True),
        file(compression="gzip", version="1.0", store_schema=False),
    ]


def arrow() -> list[bytes]:
    """Arrow files and streams, plain and compressed."""
    files = []
    for new in (pa.ipc.new_file, pa.ipc.new_stream):
        for codec in (None, "lz4", "zstd"):
            sink = io.BytesIO()
            with new(sink, table().schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
                writer.write_table(table(), max_chunksize=3)
            files.append(sink.getvalue())
    return files


def shard(style: int = tarfile.USTAR_FORMAT) -> bytes:
    """A WebDataset shard."""
    image = encoded(Image.fromarray(pixels(8, 8, 3)), "JPEG")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=style) as archive:
        for row in range(ROWS):
            name = f"folder/{'long' * 30 if row == 3 and style != tarfile.USTAR_FORMAT else ''}{row:04}"
            details = json.dumps({"price": row, "tags": ["a"], "nested": {"deep": [1, None]}}).encode()
            for ending, content in (("jpg", image), ("txt", f"text {row}".encode()), ("json", details)):
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def tars() -> list[bytes]:
    """Shards with each kind of header."""
    return [shard(style) for style in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def json_lines() -> list[bytes]:
    """JSON lines, with values of every type."""
    rows = [
        {
            "id": f"row-{row}",
            "text": f"text {row} \u2028 é",
            "price": row / 3,
            "tags": ["a", None],
            "deep": {"x": [row]},
        }
        for row in range(ROWS)
    ]
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    return [lines, b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n"), lines.rstrip(b"\n")]


def csv() -> list[bytes]:
    """CSV files with quotes, line ends and separators of several kinds."""
    rows = (b'r%d,"text, ""%d""\nsecond line",%d.5\n' % (row, row, row) for row in range(ROWS))
    plain = b"id,text,price\n" + b"".join(rows)
    others = [plain.replace(b"\n", b"\r\n"), plain.replace(b",", b"\t"), b"\xef\xbb\xbf" + plain]
    return [plain, *others]


def responses() -> list[bytes]:
    """HTTP responses with an image, as servers and proxies send them."""
    body = encoded(Image.fromarray(pixels(8, 8, 3)), "PNG")
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:])) + b"0\r\n\r\n"
    packed = gzip.compress(body, mtime=0)
    return [
        b'HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nETag: "abc"\r\nContent-Length: %d\r\n\r\n' % len(body) + body,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b; Path=/\r\n\r\n" + chunked,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed,
        b"HTTP/1.0 200 OK\r\n\r\n" + body,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    ]


def other_responses() -> list[bytes]:
    """HTTP responses without one."""
    return [
        b"HTTP/1.1 302 Found\r\nLocation: /other.png\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
    ]
