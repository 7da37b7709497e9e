"""The images of training data: where their bytes are, and reading them."""

from __future__ import annotations

import bisect
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import pyarrow as pa

from pipelines.finetune.prepared import IMAGES
from pipelines.storage.uris import file_uri, filesystem
from vista_core import UsageError

Place = tuple[list[str], int | None, int | None]  # of an image, as the columns of IMAGES have it


class Places(Protocol):
    """Where images are, by their names."""

    def of(self, name: str) -> Place | None:
        """The place of an image; None if there is none of this name."""


@dataclass(frozen=True)
class LooseFiles:
    """The files of a folder, by their paths from the folder above it."""

    fs: Any
    above: str
    names: frozenset[str]

    @classmethod
    def open(cls, fs: Any, folder: str) -> LooseFiles:
        """List a folder; one that isn't there has no files."""
        above = folder.rpartition("/")[0]
        return cls(fs, above, frozenset(each.removeprefix(f"{above}/") for each in fs.find(folder)))

    def of(self, name: str) -> Place | None:
        """The place of an image; None if there is none of this name."""
        return ([file_uri(self.fs, f"{self.above}/{name}")], None, None) if name in self.names else None


class Parts(io.RawIOBase):
    """Files one behind the other, as one that can be read and sought in."""

    def __init__(self, files: Sequence[IO[bytes]], sizes: Sequence[int]) -> None:
        super().__init__()
        self.files, self.sizes = files, sizes
        self.starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self.at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: sum(self.sizes)}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of a part."""
        part = bisect.bisect_right(self.starts, self.at) - 1
        self.files[part].seek(self.at - self.starts[part])
        found = self.files[part].read(len(buffer))
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)


@dataclass(frozen=True)
class CutTar:
    """The members of a tar that is cut into parts."""

    uris: Sequence[str]
    starts: Sequence[int]  # of the parts, in the whole tar
    members: dict[str, tuple[int, int]]  # by name: first byte in the whole tar, and size

    @classmethod
    def open(cls, fs: Any, parts: Sequence[str]) -> CutTar:
        """Read the headers, once; contents are skipped. Raises UsageError if it can't be read."""
        files = [fs.open(part, "rb") for part in parts]
        whole = Parts(files, [fs.size(part) for part in parts])
        try:
            with tarfile.open(fileobj=io.BufferedReader(whole, 1 << 14), mode="r:") as tar:  # type: ignore[type-var]
                members = {each.name.removeprefix("./"): (each.offset_data, each.size) for each in tar if each.isfile()}
        except tarfile.TarError as error:
            raise UsageError(
                f"{file_uri(fs, parts[0])} and the parts after it can't be read as a tar ({error}); is one missing?"
            ) from error
        finally:
            for file in files:
                file.close()
        return cls([file_uri(fs, part) for part in parts], whole.starts, members)

    def of(self, name: str) -> Place | None:
        """The place of an image; None if there is none of this name."""
        if name not in self.members:
            return None
        start, size = self.members[name]
        first, last = (bisect.bisect_right(self.starts, at) - 1 for at in (start, start + max(0, size - 1)))
        return list(self.uris[first : last + 1]), start - self.starts[first], size


@dataclass
class Numbered:
    """Images that pairs use, numbered in the order in which they are first named."""

    places: Places
    numbers: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[str, *Place]] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)

    def number(self, name: str) -> int | None:
        """The number of an image; None if it isn't there, which is noted."""
        if name in self.missing:
            return None
        if name not in self.numbers:
            place = self.places.of(name)
            if place is None:
                self.missing.add(name)
                return None
            self.numbers[name] = len(self.rows)
            self.rows.append((name, *place))
        return self.numbers[name]

    def table(self) -> pa.Table:
        """Their places, by number."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(IMAGES)
        return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, IMAGES, strict=True)], IMAGES)


class ImageBytes:
    """Reads images by their numbers."""

    def __init__(self, images: pa.Table) -> None:
        self.images = images.combine_chunks()
        self.open_files: dict[str, Any] = {}

    def name(self, number: int) -> str:
        """How the data names an image."""
        return str(self.images["name"][number])

    def read(self, number: int) -> bytes:
        """The encoded bytes of an image. Raises OSError."""
        row = self.images.slice(number, 1).to_pylist()[0]
        if row["offset"] is None:
            fs, path = filesystem(row["uris"][0])
            return bytes(fs.cat_file(path))
        return b"".join(self.pieces(row))

    def pieces(self, row: dict[str, Any]) -> Iterator[bytes]:
        """The bytes of an image from each of the files that it is in."""
        offset, left = row["offset"], row["size"]
        for uri in row["uris"]:
            fs, path = filesystem(uri)
            piece = fs.cat_file(path, start=offset, end=offset + left)
            yield piece
            offset, left = 0, left - len(piece)
