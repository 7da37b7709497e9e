"""Encodings of text files: found by a byte order mark or named by the user, and read as UTF-8."""

from __future__ import annotations

import codecs
from typing import Protocol

import pyarrow as pa

from vista_core import UsageError

BOM = codecs.BOM_UTF8
UTF8 = ""  # the encoding of a file that is read as it is
# A mark of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: UTF8,
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
LOOKED_AT = 256  # bytes of a beginning in which the zeros of UTF-16 are looked for
INVALID = "vista.invalid"
CURE = "if the file has another encoding than UTF-8, name it, such as with --encoding windows-1252"

# A byte that UTF-8 doesn't have stands for what can't be decoded, so that only its own record is rejected.
codecs.register_error(INVALID, lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


class Decoded:
    """The text of a stream in UTF-8, with bytes that are invalid there for what can't be decoded."""

    def __init__(self, stream: Stream, encoding: str) -> None:
        self.stream, self.decoder = stream, codecs.getincrementaldecoder(encoding)(errors=INVALID)
        self.rest, self.ended = b"", False

    def read(self, size: int, /) -> bytes:
        """`size` bytes, or fewer at the end."""
        parts, missing = [self.rest], size - len(self.rest)
        while missing > 0 and not self.ended:
            chunk = self.stream.read(missing)
            self.ended = not chunk
            part = self.decoder.decode(chunk, final=self.ended).encode("utf-8", "surrogateescape")
            parts.append(part)
            missing -= len(part)
        content = b"".join(parts)
        self.rest = content[size:]
        return content[:size]


def named_encoding(name: str | None) -> str:
    """The encoding that the user named. Raises UsageError if there is no such encoding of text."""
    if name is None:
        return UTF8
    try:
        "".encode(name)
        found = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"--encoding {name}: no such encoding; usual ones are latin-1, windows-1252, utf-16, shift_jis, gb18030"
        ) from error
    return UTF8 if found in ("utf-8", "utf-8-sig", "ascii") else found


def encoding_of(start: bytes, named: str) -> str:
    """The encoding of a file with this beginning: by its byte order mark, else the one that the user named.

    Raises pa.ArrowInvalid for UTF-16 of which neither says so.
    """
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    zeros = [start[at:LOOKED_AT:2].count(0) for at in (0, 1)]
    if named == UTF8 and 4 * max(zeros) > len(start[:LOOKED_AT]) > 1:
        guess = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
        raise pa.ArrowInvalid(f"it looks like UTF-16 without a byte order mark: name it with --encoding {guess}")
    return named


def decoded(start: bytes, encoding: str) -> bytes:
    """A beginning in UTF-8."""
    return start if encoding == UTF8 else start.decode(encoding, INVALID).encode("utf-8", "surrogateescape")


def not_text(error: UnicodeDecodeError, encoding: str) -> str:
    """Why a record can't be decoded, and the cure."""
    return f"it is not valid {encoding}" if encoding else f"{error}; {CURE}"


def opened(stream: Stream, encoding: str) -> Stream:
    """A stream in UTF-8."""
    return stream if encoding == UTF8 else Decoded(stream, encoding)
