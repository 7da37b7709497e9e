"""A folder of images. `a/b.txt` beside `a/b.jpg` is the image's text. A unit is a page of the listing."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.cluster.child import ProcessLimits
from pipelines.reasons import (
    IMAGE_TOO_LARGE,
    OBJECT_UNREADABLE,
    TEXT_NOT_UTF8,
    TEXT_TOO_LARGE,
    Reason,
    Reject,
)
from pipelines.records import ID, IMAGE, IMAGE_URI, OBJECT, ROW, TEXT, read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.format import unreadable_part
from pipelines.sources.limits import Limits
from pipelines.sources.scope import Batches
from pipelines.sources.tabular import unreadable_rows
from pipelines.sources.units import FilePart, Unit
from pipelines.storage.errors import SourceError, credentials_hint
from pipelines.storage.files import Listing, SourceFile, by_name, read_within
from pipelines.storage.local import Folders, UnreadableError
from pipelines.storage.uris import printable
from vista_core import UsageError
from vista_core.image_limits import FORMATS, OTHER_SUFFIXES, SUFFIXES

IMAGE_SUFFIXES = SUFFIXES
CONVERT = f"convert them; the formats read are {', '.join(FORMATS)}"
FETCH_THREADS = 16
NOT_BLANK = re.compile(r"[^\s\u200b-\u200d\u2060\ufeff]")  # anything but white space and zero-width characters


@dataclass(frozen=True, kw_only=True)
class Page(Unit):
    """Some images of a folder, whose URIs are `uris`."""

    texts: tuple[str | None, ...]  # for each image the URI of the text file beside it, if there is one


@dataclass(frozen=True)
class ImageFolder:
    """The images in a folder or glob. A record's id is the image's path relative to it."""

    listing: Listing
    limits: Limits
    extra: ClassVar[pa.Schema] = pa.schema([])
    has_ids: ClassVar[bool] = True
    has_uris: ClassVar[bool] = True
    external_images: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    @classmethod
    def open(cls, listing: Listing, columns: Columns, limits: Limits) -> ImageFolder:
        """Raises UsageError if the user named a column, since files have none."""
        if columns.named:
            raise UsageError(f"--source {listing.uri} is a folder of images: it has no column {columns.named[0]!r}")
        return cls(listing, limits)

    @property
    def roles(self) -> dict[str, Any]:
        """Empty, since there are no columns to choose from."""
        return {}

    def files(self) -> dict[str, SourceFile]:
        """The images by printable URI. An image and its text count as one file."""
        images, texts = self.pairs()
        return by_name([*(with_text(item, texts.get(item.uri)) for item in images), *self.listing.unlisted])

    def only(self, names: Container[str]) -> ImageFolder:
        """The same folder with only these images and their texts."""
        images, texts = self.pairs()
        chosen = [item for item in images if printable(item.uri) in names]
        beside = [texts[item.uri] for item in chosen if item.uri in texts]
        listing = self.listing.of((*chosen, *dict.fromkeys(beside)))
        unlisted = tuple(item for item in self.listing.unlisted if printable(item.uri) in names)
        return dataclasses.replace(self, listing=dataclasses.replace(listing, unlisted=unlisted))

    def without_listing(self) -> ImageFolder:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=self.listing.of(()))

    def apart(self, limits: ProcessLimits) -> ImageFolder:
        """The same folder: its files are not parsed before they are decoded."""
        return self

    def describe(self) -> list[str]:
        """How many images and texts there are, and which files are not read."""
        images, texts = self.pairs()
        used = {item.uri for item in (*images, *texts.values())}
        rest = [item for item in self.listing.files if item.uri not in used]
        others = [item for item in rest if suffix(item) in OTHER_SUFFIXES]
        unused = [suffix(item) or "without a suffix" for item in rest if suffix(item) not in OTHER_SUFFIXES]
        lines = [
            f"{len(images)} images, {sum(item.size for item in images) / 1e6:,.1f} MB, {len(texts)} with a text file",
            "id: path under the folder, text: the .txt file of the same name",
            *self.listing.not_read,
        ]
        if others:
            lines.append(f"NOT READ, images in other formats: {counted(suffix(item) for item in others)} ({CONVERT})")
        if unused:
            lines.append(f"skipped, neither an image nor the text of one: {counted(unused)}")
        return lines

    def pairs(self) -> tuple[list[SourceFile], dict[str, SourceFile]]:
        """The images, and by image URI the text files beside them."""
        texts = {stem(item): item for item in self.listing.files if suffix(item) == ".txt"}
        images = [item for item in self.listing.files if suffix(item) in IMAGE_SUFFIXES]
        return images, {item.uri: texts[stem(item)] for item in images if stem(item) in texts}

    def units(self) -> list[Unit]:
        """Pages of at most `page_files` images and `page_bytes` of images and texts; folders that can't be listed."""
        return [*self.pages(), *(unreadable_part(item, item.error) for item in self.listing.unlisted)]

    def pages(self) -> list[Page]:
        """The images in pages."""
        images, texts = self.pairs()
        pages: list[list[SourceFile]] = []
        page_bytes = 0
        for item in images:
            size = with_text(item, texts.get(item.uri)).size
            if not pages or len(pages[-1]) == self.limits.page_files or page_bytes + size > self.limits.page_bytes:
                pages.append([])
                page_bytes = 0
            pages[-1].append(item)
            page_bytes += size
        return [
            Page(
                uris=tuple(item.uri for item in page),
                texts=tuple(texts[item.uri].uri if item.uri in texts else None for item in page),
                rows=len(page),
            )
            for page in pages
        ]

    def read(self, unit: Page | FilePart) -> Batches:
        """The images of a page with their texts, fetched in parallel."""
        if isinstance(unit, FilePart):
            yield unreadable_rows(self.extra, printable(unit.uri), range(1), unit.error)
            return
        folders = self.listing.folders
        fetch_image = partial(fetch, limit=self.limits.image_bytes, too_large=IMAGE_TOO_LARGE, folders=folders)
        fetch_text = partial(fetch, limit=self.limits.text_bytes, too_large=TEXT_TOO_LARGE, folders=folders)
        with ThreadPoolExecutor(FETCH_THREADS) as pool:
            images, texts = pool.map(fetch_image, unit.uris), pool.map(fetch_text, unit.texts)
        rows, rejects = [], {}
        for row, (image, text) in enumerate(zip(images, map(decoded, texts), strict=True)):
            for content in (image, text):
                if isinstance(content, Reject):
                    rejects[row] = content
            uri = printable(unit.uris[row])
            rows.append(
                {
                    ID: uri.removeprefix(printable(self.listing.root)).lstrip("/"),
                    TEXT: None if isinstance(text, Reject) else text,
                    IMAGE: None if isinstance(image, Reject) else image,
                    IMAGE_URI: uri,
                    OBJECT: uri,
                    ROW: 0,
                }
            )
        yield pa.Table.from_pylist(rows, schema=read_schema(self.extra)), rejects


def counted(kinds: Iterable[str]) -> str:
    """How many there are of each kind."""
    return ", ".join(f"{number:,} {kind}" for kind, number in sorted(Counter(kinds).items()))


def with_text(image: SourceFile, text: SourceFile | None) -> SourceFile:
    """An image and its text as one file, which changes when either does."""
    return SourceFile(image.uri, image.size + text.size, f"{image.version} {text.version}") if text else image


def suffix(item: SourceFile) -> str:
    """A file's suffix in lower case."""
    return PurePosixPath(item.uri).suffix.lower()


def stem(item: SourceFile) -> str:
    """A file's URI without the suffix."""
    return item.uri.removesuffix(PurePosixPath(item.uri).suffix)


def fetch(uri: str | None, limit: int, too_large: Reason, folders: Folders | None) -> bytes | Reject:
    """The content of a file, or b"" for None.

    A file that is larger than `limit`, gone, locked or outside of `folders` is a reject. Raises if the store fails.
    """
    if uri is None:
        return b""
    try:
        content = read_within(uri, limit, folders)
    except PermissionError as error:  # the same as for an expired credential, which is no fault of the record
        raise SourceError(f"{uri}: {error}. {credentials_hint(uri)}") from error
    except UnreadableError as error:
        return OBJECT_UNREADABLE.reject(printable(f"{uri}: {error}"))
    except FileNotFoundError as error:
        return OBJECT_UNREADABLE.reject(printable(f"{uri}: {type(error).__name__}: {error}"))
    if content is None:
        return too_large.reject(printable(f"{uri}: larger than {limit / (1 << 20):,g} MiB"), stage="read")
    return content


def decoded(text: bytes | Reject) -> str | Reject | None:
    """The text in a text file's content."""
    try:
        return text if isinstance(text, Reject) else file_text(text)
    except UnicodeDecodeError as error:
        return TEXT_NOT_UTF8.reject(f"the text file: {error}")


def file_text(content: bytes) -> str | None:
    """The text of a file, without the newline that editors put at its end; None if it is blank.

    Raises UnicodeDecodeError.
    """
    text = content.decode("utf-8-sig").rstrip("\r\n")
    return text if NOT_BLANK.search(text) else None
