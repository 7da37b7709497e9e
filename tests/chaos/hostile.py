"""A catalog in six forms, each with what a stranger could put into it to crash, fill or mislead the job.

Each form is a source of its own. `write` makes it with or without the hostile part; the good records are the same.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.hostile_server import Answer

GOOD = 1_000  # good records of each form
REPEATED = 1_024  # records that refer to one long text
MIB = 1 << 20
ESCAPE = "\x1b[2J\u202e"  # clears a terminal, and turns the direction of writing


@dataclass(frozen=True)
class Form:
    """One form of the catalog. `rejects` are the reasons that its hostile part must give, with how many of each."""

    name: str
    write: Callable[[Path, bool], None]
    rejects: Counter[str]
    accepted: frozenset[str] = frozenset()  # ids of hostile records that are fit to be embedded

    def is_good(self, key: str) -> bool:
        """True for the id of a good record."""
        return re.fullmatch(r"(.*/)?(good-)?[0-9]+(\.jpg)?", key) is not None


def photo(number: int) -> bytes:
    """A small JPEG, different for each number."""
    sink = io.BytesIO()
    colour = (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    Image.new("RGB", (96, 96), colour).save(sink, "JPEG")
    return sink.getvalue()


def png(width: int, height: int) -> bytes:
    """A black PNG of any size, which takes a thousandth of its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    body = b"".join([*(packer.compress(line * 64) for _ in range(height // 64)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height // 64 * 64, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(%stdout) (w) file (x) writestring showpage\n"
)


def jpeg_with_metadata() -> bytes:
    """A JPEG whose Photoshop segments hold many nested records."""
    record = b"\x1c\x02\x19" + struct.pack(">H", 4) + b"spam"
    block = b"8BIM\x04\x04\x00\x00" + struct.pack(">I", 7000 * len(record)) + record * 7000
    body = b"Photoshop 3.0\x00" + block
    segment = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    plain = photo(1)
    return plain[:2] + segment * 32 + plain[2:]


HOSTILE_TEXTS = {
    "ligatures": "\ufdfa" * 100_000,  # each becomes 18 characters when it is normalised
    "spaces": " \u3000" * 500_000 + "end",
    "one-word": "x" * MIB,
    "controls": ESCAPE * 1000 + "a circle",
    **{f"long-{number}": f"{number} " + "lorem ipsum dolor " * (MIB // 18) for number in range(64)},
}
HOSTILE_IMAGES = {
    "eps": EPS,
    "bomb": png(19_200, 19_200),
    "metadata": jpeg_with_metadata(),
    "truncated": photo(3)[:400],
    "empty": b"",
}
# "metadata" is fit to be embedded, and so are all texts but "ligatures".
IMAGE_REASONS = {"image_unsupported": 1, "image_too_large": 1, "image_truncated": 1, "image_undecodable": 1}
FIT_TEXTS = [name for name in HOSTILE_TEXTS if name != "ligatures"]
FIT_ROWS = [*(f"text-{name}" for name in FIT_TEXTS), "image-metadata"]


def write_folder(folder: Path, hostile: bool) -> None:
    """Images, with texts beside them."""
    for number in range(GOOD):
        (folder / f"{number:05}.jpg").write_bytes(photo(number))
        if number % 2:
            (folder / f"{number:05}.txt").write_text(f"picture {number}")
    if not hostile:
        return
    outside = folder.parent / "secret"
    outside.mkdir()
    (outside / "secret.txt").write_text("the password")
    (outside / "secret.jpg").write_bytes(photo(7))
    for name, image in HOSTILE_IMAGES.items():
        (folder / f"x-{name}.jpg").write_bytes(image)
    (folder / "x-link.jpg").symlink_to(outside / "secret.jpg")
    (folder / "x-text.jpg").write_bytes(photo(8))
    (folder / "x-text.txt").symlink_to(outside / "secret.txt")
    (folder / "x-broken.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / f"x-{ESCAPE}.jpg").write_bytes(b"not an image")
    os.mkfifo(folder / "x-fifo.jpg")
    with (folder / "x-sparse.jpg").open("wb") as sparse:
        sparse.truncate(4 << 30)


def rows(numbers: range) -> list[dict]:
    """Good records."""
    return [
        {"id": f"good-{number:05}", "text": f"picture {number}", "image": photo(number) if number % 4 == 0 else None}
        for number in numbers
    ]


SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("image", pa.binary())])


def hostile_rows() -> list[dict]:
    """Records with hostile texts and images."""
    texts = [{"id": f"text-{name}", "text": text, "image": None} for name, text in HOSTILE_TEXTS.items()]
    images = [{"id": f"image-{name}", "text": None, "image": image} for name, image in HOSTILE_IMAGES.items()]
    return texts + images


def write_parquet(folder: Path, hostile: bool) -> None:
    """Parquet files."""
    good = rows(range(GOOD))
    table = pa.Table.from_pylist(good + (hostile_rows() if hostile else []), SCHEMA)
    pq.write_table(table, folder / "1.parquet", row_group_size=256)
    if not hostile:
        return
    long = pa.DictionaryArray.from_arrays(pa.array([0] * REPEATED, pa.int32()), pa.array(["y " * (350 << 10)]))
    one = pa.table(
        {"id": [f"one-{row}" for row in range(REPEATED)], "text": long, "image": pa.nulls(REPEATED, pa.binary())}
    )
    pq.write_table(one, folder / "2-dictionary.parquet", compression="zstd")
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(range(8)), SCHEMA), sink, compression="none", use_dictionary=False)
    whole = sink.getvalue()
    (folder / "3-cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "4-noise.parquet").write_bytes(whole[:4] + random.Random(0).randbytes(2000) + whole[2004:])
    (folder / "5-claims.parquet").write_bytes(claiming_rows(10**12))


def claiming_rows(number: int) -> bytes:
    """A Parquet file whose footer claims this number of rows."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["claim"], "text": ["t"]}), sink, compression="none")
    data = sink.getvalue()
    length = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - length : -8]
    # FileMetaData.num_rows is the third field, a zigzag varint after the schema: 0x16 0x02 means "i64, 1".
    at = footer.index(b"\x16\x02\x19", footer.index(b"text"))
    varint = bytearray()
    value = number << 1
    while value:
        varint.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
    claimed = footer[: at + 1] + bytes(varint) + footer[at + 2 :]
    return data[: -8 - length] + claimed + struct.pack("<I", len(claimed)) + b"PAR1"


def write_arrow(folder: Path, hostile: bool) -> None:
    """Arrow files."""
    good = pa.Table.from_pylist(rows(range(GOOD)) + (hostile_rows() if hostile else []), SCHEMA)
    with pa.OSFile(str(folder / "1.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(good, max_chunksize=256)
    if not hostile:
        return
    (folder / "2-bomb.arrow").write_bytes(compressed_zeros(1 << 30))
    beyond = pa.DictionaryArray.from_arrays(pa.array([1 << 30, -5], pa.int32()), pa.array(["x", "y"]), safe=False)
    (folder / "3-dictionary.arrow").write_bytes(arrow(pa.table({"id": ["a", "b"], "text": beyond})))
    whole = arrow(pa.Table.from_pylist(rows(range(8)), SCHEMA))
    (folder / "4-cut.arrow").write_bytes(whole[: len(whole) // 2])
    noise = bytearray(whole)
    noise[600:900] = random.Random(0).randbytes(300)
    (folder / "5-noise.arrow").write_bytes(noise)


def arrow(table: pa.Table) -> bytes:
    """An Arrow file."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def compressed_zeros(size: int) -> bytes:
    """An Arrow file of one text of this many zero bytes, compressed."""
    sink = io.BytesIO()
    schema = pa.schema([("id", pa.string()), ("text", pa.large_string())])
    text = pa.LargeStringArray.from_buffers(1, pa.py_buffer(struct.pack("<qq", 0, size)), pa.py_buffer(bytes(size)))
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch([pa.array(["bomb"]), text], schema))
    return sink.getvalue()


def write_tar(folder: Path, hostile: bool) -> None:
    """WebDataset shards."""
    with tarfile.open(folder / "1.tar", "w") as archive:
        for number in range(GOOD):
            add(archive, f"{number:05}.jpg", photo(number))
            add(archive, f"{number:05}.txt", f"picture {number}".encode())
        for name, image in HOSTILE_IMAGES.items() if hostile else ():
            add(archive, f"x-{name}.jpg", image)
            add(archive, f"x-{name}.txt", b"an image")
        for name, text in HOSTILE_TEXTS.items() if hostile else ():
            add(archive, f"text-{name}.txt", text.encode())
        if hostile:
            add(archive, "deep.jpg", photo(1))
            add(archive, "deep.json", b"[" * 900 + b"]" * 900)
            for member in range(20_000):
                add(archive, f"many.{member}", b"")
    if not hostile:
        return
    with tarfile.open(folder / "2-header.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "n" * MIB + ".txt", b"long")
        add(archive, "after.txt", b"after the long name")
    with tarfile.open(folder / "3-bomb.tar.gz", "w:gz") as archive:
        add(archive, "bomb.txt", bytes(256 * MIB))
        add(archive, "after.txt", b"after the bomb")
    (folder / "4-noise.tar").write_bytes(random.Random(0).randbytes(4096))


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_json_lines(folder: Path, hostile: bool) -> None:
    """JSON lines."""
    lines = [json.dumps({"id": row["id"], "text": row["text"], "price": 1.5}).encode() for row in rows(range(GOOD))]
    if hostile:
        wide = json.dumps({"id": "wide", "text": "w", **{f"key-{number}": number for number in range(5_000)}}).encode()
        lines.insert(0, wide)
        lines += [json.dumps({"id": f"text-{name}", "text": text}).encode() for name, text in HOSTILE_TEXTS.items()]
        lines += [b'{"id": "deep", "text": ' + b"[" * 900 + b"]" * 900 + b"}"]
        lines += [b'{"id": "digits", "text": "d", "price": ' + b"9" * 100_000 + b"}", b"not JSON", b"\xff\xfe"]
        lines += [b'{"id": "lone", "text": "\\ud800"}', b'{"id": "nul", "text": "a\\u0000b"}']
    (folder / "1.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def http_answers() -> dict[str, Answer]:
    """What the server of the images says: good images, and answers that break the rules."""

    def sized(body: bytes) -> Answer:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        return Answer((head + body,), honest=True)

    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    broken = {
        "chunk": Answer((chunked, b"-5\r\nhello\r\n0\r\n\r\n"), pause=0.05),
        "headers": Answer((b"HTTP/1.1 200 OK\r\n",), b"X: y\r\n" * 1000),
        "body": Answer((b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",), bytes(1 << 16), honest=True),
        "file": Answer((b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",)),
        "metadata": Answer((b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",)),
        "loop": Answer((b"HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n",)),
        "short": Answer((b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc",)),
    }
    images = {name: sized(image) for name, image in HOSTILE_IMAGES.items()}
    return {str(number): sized(photo(number)) for number in range(GOOD)} | broken | images


def write_http(server: str) -> Callable[[Path, bool], None]:
    """JSON lines that name images on a server."""

    def write(folder: Path, hostile: bool) -> None:
        names = [str(number) for number in range(GOOD)]
        records = [{"id": f"good-{name}", "image_url": f"{server}/{name}"} for name in names]
        if hostile:
            others = [name for name in http_answers() if not name.isdigit()]
            records += [{"id": f"x-{name}", "image_url": f"{server}/{name}"} for name in others]
            uris = {
                "long": f"{server}/" + "a" * 80_000,
                "percent": f"{server}/" + "%25" * 20_000,
                "dots": f"{server}/../secret",
                "host": "http://127.0.0.1:1/other",
                "file": "file:///etc/passwd",
                "decimal": "http://2130706433/",
            }
            records += [{"id": f"u-{name}", "image_url": uri} for name, uri in uris.items()]
        (folder / "1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    return write


def forms(server: str) -> list[Form]:
    """All forms; `server` is the URL of the server that gives `http_answers`."""
    images, texts = Counter(IMAGE_REASONS), Counter({"text_too_large": 1})
    links_and_devices = Counter({"object_unreadable": 4})
    repeated = [f"one-{row}" for row in range(REPEATED)]
    shard = ["1/x-metadata", *(f"1/text-{name}" for name in FIT_TEXTS)]
    lines = [*(f"text-{name}" for name in FIT_TEXTS), "digits", "nul"]
    return [
        Form(
            "folder",
            write_folder,
            images + links_and_devices + Counter({"image_undecodable": 1, "image_too_large": 1}),
            frozenset({"x-metadata.jpg"}),
        ),
        Form("parquet", write_parquet, images + texts + Counter(object_unreadable=10), frozenset(FIT_ROWS + repeated)),
        Form("arrow", write_arrow, images + texts + Counter(object_unreadable=5), frozenset(FIT_ROWS)),
        Form(
            "tar",
            write_tar,
            images + texts + Counter(object_unreadable=4, json_unparsable=1, several_members=1),
            frozenset(shard),
        ),
        Form(
            "json-lines",
            write_json_lines,
            texts + Counter(line_unparsable=3, column_type=1, text_not_utf8=1),
            frozenset(lines),
        ),
        Form(
            "http",
            write_http(server),
            images + Counter(fetch_failed=4, uri_not_allowed=4, uri_invalid=3, fetch_too_large=1),
            frozenset({"x-metadata"}),
        ),
    ]
