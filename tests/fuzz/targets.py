"""What is fuzzed: each target takes one input of any content, and must return or refuse it in the documented way.

Whatever else it raises is a defect, and so is a process that dies, hangs, or takes memory out of proportion.
"""

from __future__ import annotations

import functools
import gzip
import json
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from hypothesis import strategies as st

from pipelines.fetching.fetcher import shared_fetcher
from pipelines.fetching.locations import FetchError, FetchLimits, FetchRules, absolute_uri, allowed_location
from pipelines.records import OBJECT, read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.detect import Kind, open_source
from pipelines.sources.image_cells import has_several, image_parts, split_cells
from pipelines.sources.source import Source
from tests.fuzz import seeds
from tests.fuzz.mutations import damaged
from vista_core import EncoderSettings, Preprocessor, RecordError, UsageError


@dataclass(frozen=True)
class Target:
    """Something that takes bytes from strangers."""

    name: str
    valid: list[bytes]  # inputs that are accepted
    inputs: st.SearchStrategy[bytes]
    run: Callable[[bytes], bool]  # True if the input was accepted, False if it was refused as documented
    cost: int = 1  # how many inputs of the cheapest target take as long as one of these


@functools.cache
def preprocessor() -> Preprocessor:
    """Of the model whose tokenizer is part of the repository."""
    return Preprocessor.load(EncoderSettings(resize="exact"))


def image(data: bytes) -> bool:
    """Decode an image."""
    try:
        decoded = preprocessor().decode_image(data)
    except RecordError as error:
        assert error.message
        return False
    assert decoded.shape == (preprocessor().image_size, preprocessor().image_size, 3)
    return True


def text(data: bytes) -> bool:
    """Tokenize a text, with and without an image."""
    content = data.decode("utf-32-le", "surrogatepass")
    try:
        alone, with_image = preprocessor().tokenize([content, content], [False, True])
    except RecordError:
        assert any("\ud800" <= character <= "\udfff" for character in content)
        return False
    assert alone.input_ids[0] == with_image.input_ids[0]
    assert alone.input_ids[-1] == with_image.input_ids[-1]
    assert len(with_image.input_ids) <= len(alone.input_ids)
    return True


def texts() -> st.SearchStrategy[bytes]:
    """Texts of any characters, some of them repeated very often."""
    parts = st.builds(lambda part, times: part * times, st.text(max_size=20), st.sampled_from((1, 1, 1, 7, 1000)))
    anything = st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=())
    wild = st.text(anything, max_size=30)
    joined = st.lists(st.one_of(parts, wild), max_size=6).map("".join)
    return joined.map(lambda each: each.encode("utf-32-le", "surrogatepass"))


def good_records(source: Source) -> Counter[str]:
    """Read a source as workers do; by the name of its file the number of records that are not rejected."""
    schema, good = read_schema(source.extra), Counter[str]()
    for unit in source.units():
        for batch, rejects in source.without_listing().read(unit):
            assert batch.schema == schema
            batch.validate(full=True)
            assert all(0 <= row < len(batch) for row in rejects), "a reject of a row that isn't there"
            assert all(reject.message for reject in rejects.values())
            files = batch[OBJECT].to_pylist()
            good.update(Path(file).name for row, file in enumerate(files) if row not in rejects)
    return good


def file_of(kind: Kind, suffix: str, neighbour: bytes) -> Callable[[bytes], bool]:
    """A source with one file of a kind; then the same beside a good file, of which no record may be lost."""

    def read(folder: str) -> Counter[str] | None:
        try:
            return good_records(open_source(folder, Columns(), kind=kind))
        except UsageError as error:
            assert str(error)
            return None

    def run(data: bytes) -> bool:
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            good, bad = Path(folder, f"1-good{suffix}"), Path(folder, f"2-bad{suffix}")
            good.write_bytes(neighbour)
            expected = read(folder)
            bad.write_bytes(data)
            together = read(folder)
            good.unlink()
            alone = read(folder)
        assert expected is not None
        assert together is None or together[good.name] == expected[good.name], "a record of the good file is lost"
        return bool(alone)

    return run


@functools.cache
def scratch() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


ALLOWED = ("https://shop.example/images/", "http://127.0.0.1:8080/", "s3://bucket/folder/", "/data/images/")
RULES = FetchRules(ALLOWED, None, 1 << 20, 1.0, "version")


def uri(data: bytes) -> bool:
    """Decide whether an image may be fetched from a URI; what may be is below an allowed prefix for others, too."""
    given = data.decode("utf-8", "surrogateescape")
    try:
        location = allowed_location(absolute_uri(given, "/data/images/catalog.csv", RULES), ALLOWED)
    except FetchError as error:
        assert error.reject(given).message
        return False
    for_others = urlsplit(location.uri)
    assert ".." not in for_others.path.split("/")
    assert any(location.uri.startswith(prefix.rstrip("/")) for prefix in ALLOWED), location.uri
    return True


def uris() -> st.SearchStrategy[bytes]:
    """URIs that are put together from parts on which parsers differ."""
    parts = (
        *("https:", "http:", "HTTPS:", "s3:", "file:", "javascript:", "//", "/", "\\", "..", ".", "..;x"),
        *("%2e", "%2F", "%5c", "%00", "%25", "%", ":8080", ":80", ":", "@", "#", "?", ";", "&", "=", "user:pw@"),
        *("shop.example", "127.0.0.1", "2130706433", "[::1]", "localhost", "evil.example", "bucket", "data"),
        *("images", "folder", " ", "\t", "\n", "é", "\uff05", "\u3002", "\ud800", "a" * 300),
    )
    pieces = st.one_of(st.sampled_from(parts), st.text(max_size=5))
    starts = st.sampled_from((*ALLOWED, ""))
    joined = st.builds(lambda start, rest: start + "".join(rest), starts, st.lists(pieces, max_size=12))
    return joined.map(lambda each: each.encode("utf-8", "surrogatepass"))


def cell(data: bytes) -> bool:
    """Read a cell of an image column, as one image, and as perhaps several; accepted if it has an image."""
    binary = pa.array([data])
    column = pa.Array.from_buffers(pa.string(), 1, binary.buffers())
    images, uris, rejects = image_parts(column)
    assert images.null_count + uris.null_count >= 1
    assert not rejects or images.null_count == uris.null_count == 1
    lists = split_cells(column)
    image_parts(lists.values)
    assert has_several(column) or len(lists.values) <= 1
    return images.null_count == 0


def cells() -> st.SearchStrategy[bytes]:
    """Cells that are put together from parts on which readers differ."""
    parts = (*",|;[]'\"\\%=+/-_. \n\t", "data:", "image/png", ";base64", "//", "https://", "www.", "\\u0000", "%2B")
    parts += (
        "iVBORw0KGgoAAAANSUhEUgAA",
        "/9j/4AAQSkZJRgABAQ",
        "AAAA" * 20,
        "b'",
        "None",
        "nan",
        ".jpg",
        "a",
        "é",
        "\ud800",
    )
    joined = st.lists(st.one_of(st.sampled_from(parts), st.text(max_size=5)), max_size=20).map("".join)
    return st.one_of(joined.map(lambda each: each.encode("utf-8", "surrogatepass")), damaged(seeds.cells()))


class Server:
    """Answers every request with the bytes that it was given, and closes the connection."""

    def __init__(self) -> None:
        self.answer = b""
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Serve one connection after the other."""
        while True:
            connection, _ = self.listening.accept()
            with connection:
                connection.settimeout(5)
                try:
                    while b"\r\n\r\n" not in connection.recv(65536):
                        pass
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    continue


@functools.cache
def server() -> Server:
    """One a process."""
    return Server()


def response(data: bytes) -> bool:
    """Fetch an image from a server that answers with `data`."""
    server().answer = data
    prefix = f"http://127.0.0.1:{server().port}/"
    limits = FetchLimits(attempts=1, failed_images=1 << 30)
    rules = FetchRules((prefix,), None, 1 << 20, 1.0, "version", limits)
    [result] = shared_fetcher(rules).contents([allowed_location(f"{prefix}a.png", rules.allowed)]).values()
    if isinstance(result, bytes):
        assert len(result) <= rules.max_bytes
        return True
    assert result.message
    return False


def json_lines() -> st.SearchStrategy[bytes]:
    """JSON lines of any values, which differ in type from line to line, with some lines that are not JSON."""
    edges = st.sampled_from((2**63, -(2**63) - 1, 10**400, 1e308, -0.0, "\ud800", "\x00", "2026-11-25", ""))
    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), edges)
    names = st.sampled_from(("id", "text", "image", "price", "a.b", "", "_run", "vector", "\ud800", "x" * 300))
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
        max_leaves=12,
    )
    rows = st.dictionaries(names, values, max_size=6).map(lambda row: json.dumps(row).encode())
    depths = st.sampled_from((100, 1_000, 100_000)).map(lambda depth: b'{"text": ' + b"[" * depth + b"]" * depth + b"}")
    lines = st.lists(st.one_of(rows, rows, rows, depths, st.binary(max_size=20)), min_size=1, max_size=8)
    return lines.map(b"\n".join)


def files(kind: Kind, suffix: str, valid: list[bytes], others: st.SearchStrategy[bytes] | None = None) -> Target:
    """Damaged files of a kind, and perhaps others."""
    inputs = damaged(valid) if others is None else st.one_of(damaged(valid), others)
    return Target(suffix[1:], valid, inputs, file_of(kind, suffix, valid[0]), cost=4)


def gzipped(kind: Kind, suffix: str, valid: list[bytes]) -> Target:
    """Files of a kind that were compressed when they were damaged already, or damaged after that."""
    packed = [gzip.compress(each, mtime=0) for each in valid]
    inputs = st.one_of(damaged(valid).map(gzip.compress), damaged(packed))
    return Target(suffix[1:], packed, inputs, file_of(kind, suffix, packed[0]), cost=4)


TARGETS = (
    Target("image", seeds.images(), damaged(seeds.images()), image),
    Target("text", ["a text".encode("utf-32-le")], texts(), text),
    Target("uri", [f"{prefix}a.png".encode() for prefix in ALLOWED], uris(), uri),
    Target("cell", seeds.cells(), cells(), cell),
    Target("response", seeds.responses(), damaged(seeds.responses() + seeds.other_responses()), response, cost=4),
    files("parquet", ".parquet", seeds.parquet()),
    files("arrow", ".arrow", seeds.arrow()),
    files("webdataset", ".tar", seeds.tars()),
    gzipped("webdataset", ".tar.gz", seeds.tars()),
    files("jsonl", ".jsonl", seeds.json_lines(), json_lines()),
    gzipped("jsonl", ".jsonl.gz", seeds.json_lines()),
    files("csv", ".csv", seeds.csv()),
    gzipped("csv", ".csv.gz", seeds.csv()),
)
