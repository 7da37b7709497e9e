"""Folders of images with their metadata in files, as `imagefolder` of Hugging Face has them.

`metadata.csv`, `metadata.jsonl` or `metadata.parquet`, also one in each subfolder, name the images in a column
`file_name`, by paths relative to their own folder. These files are the catalog then.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipelines.sources.format import Format
from pipelines.sources.images import IMAGE_SUFFIXES, suffix
from pipelines.sources.types import is_list
from pipelines.storage.errors import READ_ERRORS, is_damage
from pipelines.storage.files import Listing
from pipelines.storage.uris import printable

FILES = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
MOST_BYTES = 64 << 20  # of metadata that the driver reads to count the images that it names


def metadata_files(listing: Listing) -> Listing:
    """The files with metadata of images; none if there are no images."""
    files = listing.of(file for file in listing.files if PurePosixPath(file.uri).name in FILES)
    return files if files.files and images(listing) else listing.of(())


def images(listing: Listing) -> list[str]:
    """The printable URIs of the images."""
    return [printable(file.uri) for file in listing.files if suffix(file) in IMAGE_SUFFIXES]


def unnamed_images(listing: Listing, rows: Format[Any], column: str | None) -> list[str]:
    """A line for the user: how many images of a folder the `column` of its metadata doesn't name."""
    found = images(listing)
    if column is None or sum(file.size for file in rows.files().values()) > MOST_BYTES:
        return [f"other files there: {len(found):,} images, of which those are read that the metadata names"]
    named: set[str] = set()
    try:
        for unit in rows.units():
            folder = printable(unit.uri).rpartition("/")[0]
            for batch in rows.batches(unit, [column]):
                if column in batch.table.column_names:
                    named.update(paths(batch.table[column], folder))
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
        return []  # the run will say so, and which records are lost
    missing = [uri for uri in found if uri not in named]
    if not missing:
        return []
    number = f"{len(missing):,} of {len(found):,} images"
    return [f"NOT READ, as the metadata does not name them: {number}, such as {missing[0]}"]


def paths(column: pa.ChunkedArray, folder: str) -> list[str]:
    """The relative paths in a column of strings, or of lists of them, made absolute, and the URIs."""
    values = column.combine_chunks().flatten() if is_list(column.type) else column
    strings = (value for value in values.to_pylist() if isinstance(value, str))
    return [value if "://" in value else printable(f"{folder}/{PurePosixPath(value)}") for value in strings]
