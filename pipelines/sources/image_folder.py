"""A folder of images; `a/b.txt` beside `a/b.jpg` is its text. A unit is a page of the listing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from pipelines.records import ID, IMAGE, IMAGE_URI, OBJECT, ROW, TEXT, Reject, read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.objects import Listing, SourceError, SourceObject, credentials_hint, filesystem, printable
from vista_core import UsageError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
PAGE_FILES = 256
PAGE_BYTES = 32 << 20
FETCH_THREADS = 16


@dataclass(frozen=True)
class ImageFolder:
    """The images under a folder or glob; a record's id is the image's path relative to it."""

    listing: Listing
    extra: pa.Schema = pa.schema([])  # noqa: RUF009 (schemas are immutable)
    has_ids: bool = True
    has_uris: bool = True
    elsewhere: bool = False
    exact: bool = True

    @classmethod
    def open(cls, listing: Listing, columns: Columns) -> ImageFolder:
        """Raises UsageError if columns were named, since files have none."""
        if named := [name for name in (columns.id, columns.text, columns.image) if name]:
            raise UsageError(f"--source {listing.uri} is a folder of images: it has no column {named[0]!r}")
        return cls(listing)

    @property
    def roles(self) -> dict[str, str | None]:
        """Files leave no choice of columns."""
        return {}

    def objects(self) -> dict[str, SourceObject]:
        """The images, each with the text beside it as one object."""
        images, texts = self.pairs()
        return {printable(item.uri): with_text(item, texts[item.uri]) if item.uri in texts else item for item in images}

    def only(self, names: Container[str]) -> ImageFolder:
        """The same, of which only these images are read."""
        images, texts = self.pairs()
        chosen = [item for item in images if printable(item.uri) in names]
        beside = [texts[item.uri] for item in chosen if item.uri in texts]
        listing = Listing(self.listing.uri, self.listing.root, (*chosen, *dict.fromkeys(beside)))
        return dataclasses.replace(self, listing=listing)

    def without_listing(self) -> ImageFolder:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=self.listing.emptied())

    def describe(self) -> list[str]:
        """What was found."""
        images, texts = self.pairs()
        used = {item.uri for item in (*images, *texts.values())}
        unused = Counter(suffix(item) or "without a suffix" for item in self.listing.objects if item.uri not in used)
        lines = [
            f"{len(images)} images, {sum(item.size for item in images) / 1e6:,.1f} MB, {len(texts)} with a text file",
            "id: path under the folder, text: the .txt file of the same name",
        ]
        if unused:
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(unused.items()))
            lines.append(f"not read, being neither an image nor the text of one: {kinds}")
        return lines

    def pairs(self) -> tuple[list[SourceObject], dict[str, SourceObject]]:
        """The images, and by image URI the text file beside it."""
        texts = {stem(item): item for item in self.listing.objects if suffix(item) == ".txt"}
        images = [item for item in self.listing.objects if suffix(item) in IMAGE_SUFFIXES]
        return images, {item.uri: texts[stem(item)] for item in images if stem(item) in texts}

    def units(self) -> list[dict]:
        """Pages of at most 256 files and 32 MB."""
        images, texts = self.pairs()
        pages: list[dict] = []
        size = 0
        for item in images:
            if not pages or len(pages[-1]["images"]) == PAGE_FILES or size + item.size > PAGE_BYTES:
                pages.append({"images": [], "texts": []})
                size = 0
            pages[-1]["images"].append(item.uri)
            pages[-1]["texts"].append(texts[item.uri].uri if item.uri in texts else None)
            size += item.size
        return [page | {"rows": len(page["images"])} for page in pages]

    def read(self, unit: dict) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
        """The page's images and texts, fetched side by side."""
        with ThreadPoolExecutor(FETCH_THREADS) as pool:
            images, texts = pool.map(fetch, unit["images"]), pool.map(fetch, unit["texts"])
        rows, rejects = [], {}
        for row, (image, text) in enumerate(zip(images, map(decoded, texts), strict=True)):
            for content in (image, text):
                if isinstance(content, Reject):
                    rejects[row] = content
            uri = printable(unit["images"][row])
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


def with_text(image: SourceObject, text: SourceObject) -> SourceObject:
    """An image and its text as one: it changes when either does."""
    return SourceObject(image.uri, image.size + text.size, f"{image.version} {text.version}")


def suffix(item: SourceObject) -> str:
    """An object's suffix, lower case."""
    return PurePosixPath(item.uri).suffix.lower()


def stem(item: SourceObject) -> str:
    """An object's URI without the suffix."""
    return item.uri.removesuffix(PurePosixPath(item.uri).suffix)


def fetch(uri: str | None) -> bytes | Reject:
    """A whole object, nothing for none; one that is gone or locked is a reject, a store that fails raises."""
    if uri is None:
        return b""
    fs, path = filesystem(uri)
    try:
        return fs.cat_file(path)
    except PermissionError as error:
        if "://" in uri:  # an expired credential reads like this, too: not a fault of the record
            raise SourceError(f"{uri}: {error}. {credentials_hint(uri)}") from error
        return Reject("read", "object_unreadable", printable(f"{uri}: {type(error).__name__}: {error}"))
    except FileNotFoundError as error:
        return Reject("read", "object_unreadable", printable(f"{uri}: {type(error).__name__}: {error}"))


def decoded(text: bytes | Reject) -> str | Reject | None:
    """A text file's text."""
    try:
        return text if isinstance(text, Reject) else file_text(text)
    except UnicodeDecodeError as error:
        return Reject("read", "text_not_utf8", f"the text file: {error}")


def file_text(content: bytes) -> str | None:
    """The text of a file, without the newline that editors end it with; None if it is blank.

    Raises UnicodeDecodeError.
    """
    text = content.decode("utf-8-sig").rstrip("\r\n")
    return text if text.strip() else None
