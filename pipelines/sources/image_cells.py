"""Cells of an image column: bytes, base64, a `data:` URI, a path or a URI; of one image or several.

Formats without bytes, as JSON lines and CSV, have images in base64. It is recognised by what the first bytes of the
image formats that are read become in it, and decoded here. An image that was in its cell has no URI.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reasons import IMAGE_BASE64_INVALID, IMAGE_TOO_LARGE, Reject
from pipelines.sources.beginnings import Column, beginnings, one_array
from pipelines.sources.limits import DEFAULTS
from pipelines.sources.types import is_bytes, is_text
from vista_core.image_limits import SUFFIXES

Parts: TypeAlias = "tuple[Column, Column, dict[int, Reject]]"  # image bytes, paths or URIs, and rejects by row

# What feeds write where there is no image, in lower case: pandas, Excel, SQL, Python, JSON.
NO_IMAGE = ("", "-", "[]", "nan", "n/a", "#n/a", "<na>", "null", "none")
LONGEST_NO_IMAGE = max(map(len, NO_IMAGE))
SHOWN = 40  # characters of an image's text in a message

# How base64 of an image begins: three characters, to find those cells fast, and then all that the format fixes. In the
# length of a RIFF, the size of a BMP and that of an AVIF's first box any characters may be. It is followed by so much
# base64 that it is no path: paths have dots, and `/9j/` could be a folder.
HEADS = ("iVB", "R0l", "Ukl", "Qk0", "Qk1", "Qk2", "Qk3", "SUk", "TU0", "AAA", "/9j", "_9j", "DAT", "Dat")
QUOTED_HEADS = tuple(f"b{quote}{head[0]}" for quote in "'\"" for head in HEADS)  # what Python writes for bytes
HEAD_NUMBERS = np.array(sorted(int.from_bytes(head.encode(), "little") for head in (*HEADS, *QUOTED_HEADS)), np.uint64)
DATA_NUMBER = int.from_bytes(b"data:", "little")
BASE64 = rb"[A-Za-z0-9+/_=\s-]"
IN_BASE64 = re.compile(
    rb"(?:b['\"])?(?:"
    rb"(?:iVBORw0KGgo|R0lGOD[dl]h|SUk[qr]A|TU0AK|AAAA.[GWm2]Z0eX|UklGR[g-v].{5}XRUJQ|Qk[0-3].{5}AAAAA)"
    rb"%(base64)b{24}|[/_]9j[/_]%(base64)b{60})" % {b"base64": BASE64}
)
STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
WHITESPACE = b" \t\r\n\f\v"

MAY_BE_SEVERAL = r"^\[|[,|;\s]"
# What begins a URI, behind separators: commas and the like are also parts of URIs. All patterns take linear time.
START = r"(?:[a-z][a-z0-9+.-]*://|//|www\.|data:[^,|\s]{0,100},)"
BEGINS_URI = re.compile(START, re.I)
SEPARATORS = r"(?<![,|;\s])[,|;\s]++"
NOT_BLANKS_ALONE = r"(?<![,|;\s])(?=[ \t]*+[,|;\r\n])[,|;\s]++"
BEFORE_A_URI = re.compile(rf"{SEPARATORS}(?={START})", re.I)
BEFORE_A_PATH = re.compile(rf"{NOT_BLANKS_ALONE}(?=/)")
BETWEEN_PATHS = (re.compile(NOT_BLANKS_ALONE), re.compile(SEPARATORS))  # blanks last, since names have some
# A list as Python or numpy print it, which pandas writes into CSV.
PRINTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
PRINTED_LIST = re.compile(rf"\[(?:[\s,]|None|nan|{PRINTED})*\]", re.DOTALL)
PRINTED_STRING = re.compile(PRINTED, re.DOTALL)


def image_parts(column: Column, most_bytes: int = DEFAULTS.image_bytes) -> Parts:
    """The image bytes of a column of single images, their paths or URIs, and the rejects of cells that are broken."""
    if column.null_count == len(column) and is_text(column.type):
        return pa.nulls(len(column)), column, {}
    if is_text(column.type):
        return of_texts(column, most_bytes)
    if is_bytes(column.type):
        return of_bytes(column, most_bytes)
    if pa.types.is_struct(column.type):
        return of_structs(column, most_bytes)
    return column, pa.nulls(len(column)), {}


def of_texts(column: Column, most_bytes: int) -> Parts:
    """Of a column of strings."""
    texts = without_no_image(trimmed(column))
    rows = rows_in_text(texts)
    if not len(rows):
        return pa.nulls(len(texts)), texts, {}
    images, rejects = decode_rows(texts, rows, most_bytes)
    if not images and not rejects:
        return pa.nulls(len(texts)), texts, {}
    decoded = pa.array([images.get(row) for row in range(len(texts))], pa.large_binary())
    return decoded, pc.if_else(is_one_of(images.keys() | rejects.keys(), len(texts)), None, texts), rejects


def of_bytes(column: Column, most_bytes: int) -> Parts:
    """Of a column of bytes: mostly the image itself, but text where a writer knows no strings."""
    nulls = pa.nulls(len(column))
    rows = rows_in_text(column)
    if not len(rows):
        return column, nulls, {}
    images, rejects = decode_rows(column, rows, most_bytes)
    others = pc.if_else(is_one_of(images.keys() | rejects.keys(), len(column)), None, column.cast(pa.large_binary()))
    decoded = pa.array([images.get(row) for row in range(len(column))], pa.large_binary())
    return pc.coalesce(decoded, others), nulls, rejects


def of_structs(column: Column, most_bytes: int) -> Parts:
    """Of Hugging Face's structs of bytes and path; where there are bytes, they are the image."""
    array = one_array(column)
    nulls = pa.nulls(len(array))
    fields = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
    images, uris, rejects = image_parts(fields.get("bytes", nulls), most_bytes)
    path = fields.get("path", nulls)
    if not is_text(path.type):
        return images, uris if pa.types.is_null(path.type) else path, rejects
    in_path, paths_alone, rejects_of_path = of_texts(path, most_bytes)
    uris = paths_alone if uris.null_count == len(uris) else pc.coalesce(paths_alone, uris.cast(path.type))
    if in_path.null_count < len(in_path):
        images = in_path if images.null_count == len(images) else pc.coalesce(images.cast(in_path.type), in_path)
    has_bytes = pc.is_valid(images).to_pylist()
    return images, uris, rejects | {row: each for row, each in rejects_of_path.items() if not has_bytes[row]}


def trimmed(column: Column) -> Column:
    """Strings without blanks around them."""
    try:
        return pc.utf8_trim_whitespace(column)
    except pa.ArrowInvalid:  # some are not UTF-8, and will be rejected
        return pc.ascii_trim_whitespace(column)


def without_no_image(texts: Column) -> Column:
    """Strings, null where they say that there is no image."""
    short = pc.less_equal(pc.binary_length(texts), LONGEST_NO_IMAGE)
    if not pc.any(short).as_py():
        return texts
    names = pc.ascii_lower(pc.if_else(short, texts, "a path"))
    return pc.if_else(pc.is_in(names, value_set=pa.array(NO_IMAGE, texts.type)), None, texts)


def rows_in_text(column: Column) -> np.ndarray:
    """The rows that may have an image in base64 or as a `data:` URI, found by how they begin."""
    numbers = beginnings(column)
    heads = numbers & 0xFFFFFF
    found = HEAD_NUMBERS.take(HEAD_NUMBERS.searchsorted(heads), mode="clip") == heads
    found |= numbers & 0xFFFFFFFFFF == DATA_NUMBER
    if column.null_count:
        found &= column.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(found)


def as_bytes(column: Column) -> Column:
    """Strings as their bytes, which need not be UTF-8."""
    if not is_text(column.type):
        return column
    return column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())


def decode_rows(column: Column, rows: np.ndarray, most_bytes: int) -> tuple[dict[int, bytes], dict[int, Reject]]:
    """The images that are text in some rows of a column, and the rejects of those that are broken."""
    images, rejects = {}, {}
    for row, cell in zip(rows.tolist(), as_bytes(column).take(pa.array(rows)).to_pylist(), strict=True):
        if not is_image_text(cell):
            continue
        if len(cell) > most_bytes / 3 * 4 + len("data:image/jpeg;base64,"):
            rejects[row] = IMAGE_TOO_LARGE.reject(f"{shown(cell)}: at most {most_bytes:,} bytes are read", stage="read")
            continue
        try:
            images[row] = decode_image(cell)
        except ValueError as error:
            rejects[row] = IMAGE_BASE64_INVALID.reject(f"{shown(cell)}: {error}")
    return images, rejects


def is_image_text(cell: bytes) -> bool:
    """True for a `data:` URI and for base64 of an image."""
    return cell[:5].lower() == b"data:" or IN_BASE64.match(cell) is not None


def shown(cell: bytes) -> str:
    """The beginning of an image's text, and how long it is, for a message."""
    start = cell[:SHOWN].decode("ascii", "backslashreplace")
    return f"{start}... ({len(cell):,} characters)" if len(cell) > SHOWN else start


def decode_image(cell: bytes) -> bytes:
    """What a `data:` URI (RFC 2397) or base64 stands for. Its media type says nothing: people get it wrong.

    Raises ValueError, with the cause, if it is broken.
    """
    payload = cell
    if cell[:5].lower() == b"data:":
        kind, comma, payload = cell[5:].partition(b",")
        if not comma:
            raise ValueError("a `data:` URI without a comma")
        if not (kind.rstrip().lower().endswith(b"base64") or IN_BASE64.match(payload)):
            return decode_percents(payload)
        if b"%" in payload:
            payload = unquote_to_bytes(payload)
    elif cell[1:2] in (b"'", b'"'):  # Python's b'...'
        payload = cell[2:].removesuffix(cell[1:2])
    return decode_base64(payload)


def decode_percents(payload: bytes) -> bytes:
    """What percent-encoded bytes stand for."""
    if not payload:
        raise ValueError("it has no data")
    return unquote_to_bytes(payload)


def decode_base64(payload: bytes) -> bytes:
    """What base64 stands for, in either alphabet, with or without padding and line breaks."""
    digits = payload.translate(STANDARD_ALPHABET, WHITESPACE).rstrip(b"=")
    if not digits:
        raise ValueError("it has no data")
    if len(digits) % 4 == 1:
        raise ValueError("base64 of this length is not possible: it is cut off, or characters are missing")
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error as error:
        raise ValueError("it has characters that are not base64") from error


def is_one_of(rows: set[int], length: int) -> pa.Array:
    """A mask that is true in some rows."""
    mask = np.zeros(length, bool)
    mask[list(rows)] = True
    return pa.array(mask)


def has_several(column: Column) -> bool:
    """True if a cell of a column of strings has a list of images, if only of one."""
    cells = as_bytes(column).filter(pc.match_substring_regex(column, MAY_BE_SEVERAL)).to_pylist()
    return any(cell is not None and several(cell.decode("utf-8", "surrogateescape")) is not None for cell in cells)


def split_cells(column: Column) -> pa.Array:
    """The images that the cells of a column of strings name, as lists of strings; null for no image."""
    lists: list[list[bytes] | None] = []
    texts = without_no_image(trimmed(column))
    may_be = pc.match_substring_regex(texts, MAY_BE_SEVERAL).to_pylist()
    for cell, check in zip(as_bytes(texts).to_pylist(), may_be, strict=True):
        parts = several(cell.decode("utf-8", "surrogateescape")) if check else None
        if parts is not None:
            lists.append([part.encode("utf-8", "surrogateescape") for part in parts])
        else:
            lists.append(None if cell is None else [cell])
    binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    array = pa.array(lists, pa.list_(binary))
    return pa.ListArray.from_arrays(array.offsets, array.values.view(column.type), mask=array.is_null())


def several(cell: str) -> list[str] | None:
    """The images that a cell lists; None if it is no list, but one image."""
    cell = cell.strip()
    if cell.startswith("["):
        return listed(cell)
    if BEGINS_URI.match(cell):
        parts = BEFORE_A_URI.split(cell)
    elif IN_BASE64.match(cell[:200].encode("utf-8", "surrogateescape")):
        parts = [part.strip() for part in re.split(r"[,|;]", cell) if part.strip()]
    elif cell.startswith("/"):
        parts = BEFORE_A_PATH.split(cell)
        parts = paths(cell) if len(parts) == 1 else parts
    else:
        parts = paths(cell)
    if len(parts) == 1:
        return None
    return [*parts[:-1], parts[-1].rstrip(",|; \t\r\n")]


def paths(cell: str) -> list[str]:
    """The paths of a cell, if it lists some: each must end as an image does, since names may have separators."""
    for separator in BETWEEN_PATHS:
        parts = [part for part in separator.split(cell) if part]
        if len(parts) > 1 and all(ends_as_image(part) for part in parts):
            return parts
    return [cell]


def ends_as_image(path: str) -> bool:
    """True if a path, or a URI with a query, ends in a suffix of images."""
    return any(f".{end.rpartition('.')[2].lower()}" in SUFFIXES for end in (path, path.partition("?")[0]))


def listed(cell: str) -> list[str] | None:
    """The strings of a list in JSON, or as Python or numpy print it; None if the cell is none."""
    try:
        items: Any = json.loads(cell)
    except (ValueError, RecursionError):
        if not PRINTED_LIST.fullmatch(cell):
            return None
        return [re.sub(r"\\(.)", r"\1", item[1:-1], flags=re.DOTALL) for item in PRINTED_STRING.findall(cell)]
    if not isinstance(items, list):
        return None
    strings = [item for item in items if isinstance(item, str)]
    others = [item for item in items if not isinstance(item, str)]
    is_list = all(item is None or (isinstance(item, float) and math.isnan(item)) for item in others)
    return strings if is_list else None
