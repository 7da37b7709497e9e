"""How a CSV file is written: its delimiter and its quotes, and the header that names its columns."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from itertools import pairwise

import numpy as np

from pipelines.sources.heads import Head
from pipelines.sources.limits import Limits
from pipelines.sources.lines import CR, LF, LINE_END
from pipelines.sources.text_encoding import CURE
from vista_core import VistaError

QUOTE, BACKSLASH = ord('"'), ord("\\")
DELIMITERS = (",", ";", "\t", "|")
LONGEST_HEADER = 64 << 10  # bytes in which the delimiter and the kind of quotes are looked for
RECORDS_COMPARED = 20  # records, from the header on, that tell the delimiter
SEPARATOR = re.compile(rb'"?sep=(.)"?(\r\n?|\n)', re.IGNORECASE | re.DOTALL)  # what Excel writes before a header
FIELD = r'(?:"({})*"([^{delimiter}\r\n]*)|([^{delimiter}\r\n]*))({delimiter}|\r\n?|\n|\Z)'
DOUBLED, ESCAPED = r'[^"]|""', r'[^"\\]|\\.|""'  # what is between quotes, in either dialect


EMPTY = "\0"  # in place of the name of a last column in which no record has a value, as each ends with a delimiter

UNNAMED = ("", EMPTY)


class HeaderError(VistaError):
    """A header that doesn't name columns, or too many."""


@dataclass(frozen=True)
class Dialect:
    """How fields are delimited and quoted."""

    delimiter: str = ","
    escapes: bool = False  # inside of quotes, a backslash before a quote or backslash stands for it


@dataclass(frozen=True)
class Header:
    """The first record of a file, which names its columns."""

    columns: tuple[str, ...]  # "" for one that is not read, as it has no name of its own; EMPTY for an empty last one
    dialect: Dialect
    line: bytes  # without its line end
    end: int  # the byte at which the records start
    left_out: tuple[str, ...]  # which columns have no name, or that of an earlier one


def record_ends(content: bytes, dialect: Dialect) -> np.ndarray:
    """The positions after the line breaks outside of quotes in `content`, which begins with a record.

    Follows pyarrow's rules. A quote at the beginning of a field opens; elsewhere outside of quotes it is an ordinary
    character. Inside of quotes, two quotes stand for one, and a single one closes. So an even number of quotes in a row
    changes nothing. An odd number toggles if it comes after a delimiter or line break. An odd number elsewhere closes
    if a quote is open, and else does nothing. A quote that a backslash escapes is an ordinary character.
    """
    data = np.frombuffer(content, np.uint8)
    marks = np.flatnonzero((data == LF) | (data == CR) | (data == QUOTE))
    marks = marks[: len(marks) - content.endswith(b"\r")]  # a line feed may follow it
    kinds = data[marks]
    breaks = kinds == LF
    returns = np.flatnonzero(kinds == CR)  # line breaks, unless a line feed follows
    breaks[returns] = data[marks[returns] + 1] != LF
    ends, quotes = marks[breaks] + 1, marks[kinds == QUOTE]
    if dialect.escapes:
        quotes = quotes[~is_escaped(data)[quotes]]
    if not len(quotes):
        return ends
    groups = np.flatnonzero(np.diff(quotes, prepend=-2) > 1)
    odd = np.diff(groups, append=len(quotes)) & 1
    quotes = quotes[groups[odd.astype(bool)]]
    before = data[quotes - 1]
    flips = (before == ord(dialect.delimiter)) | (before == LF) | (before == CR) | (quotes == 0)
    count = np.cumsum(flips)
    inside = (count - np.maximum.accumulate(count * ~flips)) & 1
    return ends[np.append(0, inside)[np.searchsorted(quotes, ends)] == 0]


def is_escaped(data: np.ndarray) -> np.ndarray:
    """Which bytes come after an odd number of backslashes."""
    slashes = np.flatnonzero(data == BACKSLASH)
    begins = np.diff(slashes, prepend=-2) > 1
    runs = np.cumsum(begins) - 1
    odd = (np.arange(len(slashes)) - np.flatnonzero(begins)[runs]) & 1 == 0
    escaped = np.zeros(len(data) + 1, bool)
    escaped[slashes[odd] + 1] = True
    return escaped[:-1]


def head_ends(content: bytes) -> np.ndarray:
    """The positions after the records of a file's beginning, of which the header is the first."""
    start, delimiter = header_start(content)
    body = content[start:]
    return start + record_ends(body, Dialect(delimiter or delimiter_of(body)))


def header_start(content: bytes) -> tuple[int, str]:
    """Where the header begins, and the delimiter that Excel's `sep=;` before it names, or ""."""
    start = len(content) - len(content.lstrip(b" \r\n"))
    if found := SEPARATOR.match(content, start):
        return found.end(), found[1].decode("latin-1")
    return start, ""


def delimiter_of(content: bytes) -> str:
    """The delimiter that divides the first records into equally many fields or, of several, the most frequent one."""
    sample = content[:LONGEST_HEADER]
    line = LINE_END.split(re.sub(rb'"[^"]*"', b"", sample), maxsplit=1)[0]
    found = {delimiter: line.count(delimiter.encode()) for delimiter in DELIMITERS}
    found = {delimiter: number for delimiter, number in found.items() if number}
    if len(found) > 1:
        found = {delimiter: (alike(sample, delimiter), number) for delimiter, number in found.items()}  # type: ignore[misc]
    return max(found, key=lambda delimiter: found[delimiter], default=",")


def alike(content: bytes, delimiter: str) -> int:
    """How many of the first records have as many fields as the header."""
    dialect = Dialect(delimiter)
    bounds = [0, *record_ends(content, dialect)[:RECORDS_COMPARED].tolist()]
    records = [content[start:end] for start, end in pairwise(bounds)]
    counts = [sum(1 for _ in fields(record, dialect)) for record in records if record.strip(b"\r\n")]
    return sum(count == counts[0] for count in counts)


def header_of(head: Head, limits: Limits, escapes: bool = False) -> Header | None:
    """The header of a file; None if the file is blank. Raises HeaderError if it can't be used.

    `escapes` is said of its quotes if its beginning doesn't tell.
    """
    if not head.content.strip(b" \r\n"):
        return None
    if not len(head.ends):
        raise HeaderError("a quote in the header is never closed")
    (start, named), end = header_start(head.content), int(head.ends[0])
    delimiter = named or delimiter_of(head.content[start:])
    try:
        text = head.content[start:end].decode()
        names = [name.strip() for name in next(csv.reader(StringIO(text, newline=""), delimiter=delimiter), [])]
    except UnicodeDecodeError as error:
        raise HeaderError(f"the header is not in UTF-8: {error}; {CURE}") from error
    except csv.Error as error:
        raise HeaderError(f"the header is not CSV: {error}") from error
    if len(names) > limits.columns:
        raise HeaderError(f"the header names {len(names):,} columns; at most {limits.columns:,} are read")
    if not any(names):
        raise HeaderError("the header names no column")
    first = [*fields(head.content[end : head.ends[1]], Dialect(delimiter))] if len(head.ends) > 1 else []
    if len(first) == len(names) + 1 and first[-1][3] == b"":
        names.append(EMPTY)
    known = uses_escapes(head.content[end : head.ends[-1]], delimiter, len(names))
    columns = [name if name not in names[:at] else "" for at, name in enumerate(names)]
    twice = [
        f"{name!r}, which is there {number} times" for name, number in Counter(names).items() if name and number > 1
    ]
    unnamed = [str(at) for at, name in enumerate(names, 1) if name in UNNAMED]
    left_out = [f"all but the first of {each}" for each in twice]
    left_out += [f"column {', '.join(unnamed)}, without a name"] if unnamed else []
    line = head.content[start:end].rstrip(b"\r\n")
    return Header(tuple(columns), Dialect(delimiter, escapes if known is None else known), line, end, tuple(left_out))


def uses_escapes(content: bytes, delimiter: str, columns: int) -> bool | None:
    """Whether quotes are escaped by backslashes, as Spark does, and not doubled (RFC 4180); None if unknown."""
    if b'\\"' not in content:
        return None
    doubled, escaped = (faults(content, Dialect(delimiter, escapes), columns) for escapes in (False, True))
    return None if doubled == escaped else escaped < doubled


def faults(content: bytes, dialect: Dialect, columns: int) -> int:
    """How many records don't have as many fields as there are columns, or something between a quote and a delimiter."""
    number, bounds = 0, [0, *record_ends(content, dialect).tolist()]
    for start, end in pairwise(bounds):
        record = content[start:end]
        if record.strip(b"\r\n"):
            found = [*fields(record, dialect)]
            number += (len(found) != columns) + any(is_garbled(field, dialect) for field in found)
    return number + (bounds[-1] == 0)


def fields(record: bytes, dialect: Dialect) -> Iterator[re.Match[bytes]]:
    """The fields of a record, as matches of `field_pattern`."""
    pattern, at = field_pattern(dialect), 0
    while match := pattern.match(record, at):
        yield match
        at = match.end()
        if match[4] != dialect.delimiter.encode():
            return


def is_garbled(field: re.Match[bytes], dialect: Dialect) -> bool:
    """True if something follows the closing quote, or if all quotes in a bare field are escaped in another dialect."""
    if field[3] is None:
        return bool(field[2])
    return not dialect.escapes and has_only_escaped_quotes(field[3])


def has_only_escaped_quotes(field: bytes) -> bool:
    """True for `5\\" wide` outside of quotes, as Python writes it with an `escapechar`."""
    return b'"' in field and field.count(b'"') == field.count(b'\\"')


@lru_cache
def field_pattern(dialect: Dialect) -> re.Pattern[bytes]:
    """A field and what ends it; groups are the last character in quotes, what follows, the bare field, the end."""
    inner = ESCAPED if dialect.escapes else DOUBLED
    return re.compile(FIELD.format(inner, delimiter=re.escape(dialect.delimiter)).encode(), re.DOTALL)


def doubling(text: bytes, dialect: Dialect) -> bytes:
    """Records with doubled quotes in place of those that are escaped by backslashes."""
    if not dialect.escapes or b"\\" not in text:
        return text
    delimiter = re.escape(dialect.delimiter)
    pattern = rf'(?:\A|(?<=[{delimiter}\r\n]))(?:"((?:{ESCAPED})*)"|([^"{delimiter}\r\n][^{delimiter}\r\n]*))'
    return re.sub(pattern.encode(), doubled, text, flags=re.DOTALL)


def doubled(field: re.Match[bytes]) -> bytes:
    """A field with doubled quotes."""
    quoted, bare = field[1], field[2]
    if quoted is not None:
        inner = (
            re.sub(rb'\\(["\\])', lambda match: b'""' if match[1] == b'"' else b"\\", quoted)
            if b"\\" in quoted
            else quoted
        )
        return b'"' + inner + b'"'
    if has_only_escaped_quotes(bare):
        return b'"' + re.sub(rb"\\(.)", rb"\1", bare).replace(b'"', b'""') + b'"'
    return bare
