"""Reading tars as streams: the headers of their members, and the places where they are damaged.

Headers have checksums, the contents of members have none. `tarfile` stops silently at a damaged header, and at the end
of an archive to which others are appended. So it only parses single headers here.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from pipelines.sources.limits import Limits
from pipelines.sources.lines import GZIP, Gunzip

BLOCK = tarfile.BLOCKSIZE
END_BLOCKS = 2  # blocks of zeros end an archive
MOST_END_BLOCKS = END_BLOCKS + tarfile.RECORDSIZE // BLOCK - 1  # if it is padded to whole records
EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
# Members without content, whatever size their headers state.
EMPTY = (*LINKS, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
MAX_EXTENDED_BYTES, MAX_MEMBER_BYTES = 1 << 20, 1 << 40  # more is damage, whatever the checksum says
LONGEST_SIZE = 8  # digits of the size of a field
USED_FIELDS, SPARSE = ("path", "size"), "GNU.sparse"  # fields of extended headers that matter here


@dataclass(frozen=True)
class Damage:
    """The bytes of a tar from `start` to before `end`, whose members are unknown."""

    start: int
    end: int


class Headers:
    """Iterates over the headers of a tar's files and links and over its damaged parts.

    When a header is yielded, the stream is at the member's content. After damage, reading goes on at the next valid
    header. Raises ReadError where the tar is cut off.
    """

    def __init__(self, stream: IO[bytes], name_bytes: int) -> None:
        self.stream = stream
        self.name_bytes = name_bytes  # a longer name is damage
        self.at = 0  # the byte at which the next block begins
        self.archive = 0  # the byte at which the archive begins, as several can be appended to each other
        self.zeros = 0  # blocks of zeros before the next block
        self.lost: int | None = None  # the first byte of damage
        self.extended: dict[str, str] | None = None  # fields of extended headers, which precede a member's own

    def __iter__(self) -> Iterator[tarfile.TarInfo | Damage]:
        while block := self.next_block():
            start = self.at - BLOCK
            if not block.strip(b"\0"):
                self.add_zeros(start)
                continue
            self.end_zeros(start)
            member = self.parse(block, start)
            if member is None or member.type in EXTENDED:
                continue
            if self.lost is not None:
                yield Damage(self.lost, start)
            # After damage, the name in a header may be a placeholder for one in an extended header that was lost.
            trusted = self.lost is None or self.extended is not None
            self.lost = self.extended = None
            if trusted and (member.isreg() or member.type in LINKS):
                yield member
        self.check_end()
        if self.lost is not None:
            yield Damage(self.lost, self.at)

    def next_block(self) -> bytes:
        """The next block; less than one, or nothing, at the end."""
        self.stream.seek(self.at)
        block = self.stream.read(BLOCK)
        self.at += BLOCK if block else 0
        return block

    def add_zeros(self, start: int) -> None:
        """Count a block of zeros. After an extended header it is damage, since the member's own header is missing."""
        if self.lost is None and self.extended is not None:
            self.lost = start
        self.zeros, self.extended = self.zeros + 1, None

    def end_zeros(self, start: int) -> None:
        """Zeros before a block that has none are the end of an archive, or else a hole: damage."""
        if not self.zeros:
            return
        if self.lost is None and not is_end(self.zeros, start - self.archive):
            self.lost = start - self.zeros * BLOCK
        self.archive, self.zeros = start, 0

    def parse(self, block: bytes, start: int) -> tarfile.TarInfo | None:
        """The header in a block, or None if it is damaged. Moves on past its content."""
        try:
            member = parsed_header(block, self.extended)
            if member.type in EXTENDED:
                self.extended = (self.extended or {}) | extended_fields(member, self.stream)
            if len(member.name) > self.name_bytes:
                raise tarfile.HeaderError("name")
        except (tarfile.HeaderError, ValueError):
            self.lost = start if self.lost is None else self.lost
            self.extended = None
            return None
        self.at += 0 if member.type in EMPTY else -(-member.size // BLOCK) * BLOCK
        return member

    def check_end(self) -> None:
        """Raise ReadError unless the tar ends with an end mark."""
        if 0 < self.zeros <= MOST_END_BLOCKS:
            return
        end = f"{self.zeros * BLOCK:,} bytes of zeros, more than an end mark has" if self.zeros else "no end mark"
        where = "" if self.lost is None else f", and from byte {self.lost:,} on no header is valid"
        raise tarfile.ReadError(f"the tar is cut off, or its end was never written: {end}{where}")


def is_end(zeros: int, size: int) -> bool:
    """True if `zeros` blocks of zeros can be the end of an archive that, with them, has `size` bytes."""
    return zeros == END_BLOCKS or (END_BLOCKS < zeros <= MOST_END_BLOCKS and size % tarfile.RECORDSIZE == 0)


def parsed_header(block: bytes, extended: dict[str, str] | None) -> tarfile.TarInfo:
    """A header. Raises HeaderError or ValueError if it is damaged.

    So does the header of a sparse file, since its stored content is not the content of the file.
    """
    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if extended and member.type not in EXTENDED:
        member.name = extended.get("path", member.name)
        member.size = int(extended.get("size", member.size))
    if member.type == tarfile.GNUTYPE_SPARSE or SPARSE in (extended or ()):
        raise tarfile.HeaderError("sparse")
    if not 0 <= member.size <= (MAX_EXTENDED_BYTES if member.type in EXTENDED else MAX_MEMBER_BYTES):
        raise tarfile.HeaderError("size")
    return member


def extended_fields(header: tarfile.TarInfo, stream: IO[bytes]) -> dict[str, str]:
    """The fields of an extended header, which describe the member after it. Raises ValueError if it is damaged."""
    content = stream.read(header.size).rstrip(b"\0")
    if header.type == tarfile.GNUTYPE_LONGLINK:
        return {}
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.decode("utf-8", "surrogateescape")}
    fields, start = {}, 0
    while start < len(content):  # "SIZE NAME=VALUE\n", where SIZE is the size of all of it
        space = content.find(b" ", start, start + LONGEST_SIZE + 1)
        size = int(content[start:space]) if space > 0 else 0
        line, start = content[start : start + size], start + size
        if not line.endswith(b"\n"):
            raise ValueError("a line without an end")
        name, _, value = line.decode("utf-8", "surrogateescape").partition(" ")[2].partition("=")
        if name in USED_FIELDS:
            fields[name] = value.removesuffix("\n")
        elif name.startswith(SPARSE):
            fields[SPARSE] = ""
    return fields


def decompressed(handle: IO[bytes], limits: Limits) -> IO[bytes]:
    """A tar, decompressed if it is gzip. It is read in large parts, since each read of a store is a request."""
    buffered = cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, handle), limits.read_bytes))
    is_gzip = cast(io.BufferedReader, buffered).peek(len(GZIP)).startswith(GZIP)
    return cast(IO[bytes], Gunzip(buffered, limits)) if is_gzip else buffered
