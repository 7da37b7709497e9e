"""A folder of images; `a/b.txt` beside `a/b.jpg` is its text. A unit is a page of the listing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.records import ID, IMAGE, IMAGE_URI, OBJECT, ROW, TEXT, Reject, read_schema
from pipelines.sources.objects import Listing, SourceObject, filesystem
from vista_core import UsageError

if TYPE_CHECKING:
    from pipelines.sources import Columns

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
PAGE_FILES = 256
PAGE_BYTES = 32 << 20


@dataclass(frozen=True)
class ImageFolder:
    """The images under a folder or glob; a record's id is the image's path relative to it."""

    listing: Listing
    extra: pa.Schema = pa.schema([])  # noqa: RUF009 (schemas are immutable)
    has_ids: bool = True
    has_uris: bool = True

    @classmethod
    def open(cls, listing: Listing, columns: Columns) -> ImageFolder:
        """Raises UsageError if columns were named, since files have none."""
        if named := [name for name in (columns.id, columns.text, columns.image) if name]:
            raise UsageError(f"--source {listing.uri} is a folder of images: it has no column {named[0]!r}")
        return cls(listing)

    def describe(self) -> list[str]:
        """What was found."""
        images, texts = self.pairs()
        alone = sum(1 for item in self.listing.objects if item.uri.endswith(".txt")) - len(texts)
        lines = [
            f"{len(images)} images, {sum(item.size for item in images) / 1e6:,.1f} MB, {len(texts)} with a text file",
            "id: path under the folder, text: the .txt file of the same name",
        ]
        return lines + ([f"not read: {alone} text files without an image"] if alone else [])

    def pairs(self) -> tuple[list[SourceObject], dict[str, SourceObject]]:
        """The images, and by image URI the text file beside it."""
        texts = {item.uri.removesuffix(".txt"): item for item in self.listing.objects if item.uri.endswith(".txt")}
        images = [item for item in self.listing.objects if suffix(item) in IMAGE_SUFFIXES]
        stems = {item.uri: item.uri.removesuffix(PurePosixPath(item.uri).suffix) for item in images}
        return images, {uri: texts[stem] for uri, stem in stems.items() if stem in texts}

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
        contents = fetch([uri for uri in (*unit["images"], *unit["texts"]) if uri])
        rows, rejects = [], {}
        for row, (image_uri, text_uri) in enumerate(zip(unit["images"], unit["texts"], strict=True)):
            image, text = contents[image_uri], contents.get(text_uri, b"")
            for uri, content in ((image_uri, image), (text_uri, text)):
                if isinstance(content, OSError):
                    rejects[row] = Reject("read", "object_unreadable", f"{uri}: {type(content).__name__}: {content}")
            try:
                text = text.decode("utf-8-sig").strip() if isinstance(text, bytes) else None
            except UnicodeDecodeError as error:
                rejects[row] = Reject("read", "text_not_utf8", f"{text_uri}: {error}")
                text = None
            rows.append(
                {
                    ID: image_uri.removeprefix(self.listing.root).lstrip("/"),
                    TEXT: text or None,
                    IMAGE: image if isinstance(image, bytes) else None,
                    IMAGE_URI: image_uri,
                    OBJECT: image_uri,
                    ROW: 0,
                }
            )
        yield pa.Table.from_pylist(rows, schema=read_schema(self.extra)), rejects


def suffix(item: SourceObject) -> str:
    """An object's suffix, lower case."""
    return PurePosixPath(item.uri).suffix.lower()


def fetch(uris: list[str]) -> dict[str | None, Any]:
    """Whole objects by URI; a file that is gone or locked yields its error, a store that fails raises."""
    fetched: dict[str | None, Any] = {}
    for scheme, group in groupby(uris, key=lambda uri: uri.partition("://")[0] if "://" in uri else ""):
        fs, _ = filesystem(f"{scheme}://" if scheme else "/")
        names = {fs._strip_protocol(uri): uri for uri in group}
        for name, content in fs.cat(list(names), on_error="return").items():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError | PermissionError):
                raise content
            fetched[names[name]] = content
    return fetched
