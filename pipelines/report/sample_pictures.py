"""Pictures of rows of the table: of images that it stores, or of external ones, fetched as the run fetches them.

Bytes that may be anybody's are decoded in a child process, which may die of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import pyarrow.compute as pc

from pipelines.cluster.child import Child, ChildDiedError, ProcessLimits, one_result
from pipelines.fetching.fetcher import shared_fetcher
from pipelines.fetching.locations import FetchRules
from pipelines.pictures import picture_of_image
from pipelines.records import ID, IMAGE, IMAGE_URI, OBJECT
from pipelines.stages.fetch import locate
from pipelines.tables.dataset import TableVersion, quoted

LIMITS: Final = ProcessLimits(seconds=10, memory=1 << 30)
LARGEST: Final = 20 << 20  # bytes of an image
AT_ONCE: Final = 4  # stored images in memory

Draw = Callable[[bytes], bytes | None]


def pictures_of(version: TableVersion, ids: Sequence[str], rules: FetchRules) -> dict[str, bytes]:
    """A picture by id for those of some rows whose image can be had."""
    names = version.open().schema.names
    if IMAGE in names:
        return drawn(stored_images(version, ids))
    return drawn(external_images(version, ids, rules)) if IMAGE_URI in names else {}


def stored_images(version: TableVersion, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The images that the table has of some rows, a few at a time."""
    wanted = f"{ID} IN ({', '.join(map(quoted, ids))})"
    scanner = version.open().scanner([ID, IMAGE], filter=wanted, batch_size=AT_ONCE, batch_readahead=1)
    for batch in scanner.to_batches() if ids else ():
        for key, image in zip(*(batch.column(name) for name in (ID, IMAGE)), strict=True):
            if image.is_valid and len(image.as_buffer()) <= LARGEST:
                yield key.as_py(), image.as_py()


def external_images(version: TableVersion, ids: Sequence[str], rules: FetchRules) -> Iterator[tuple[str, bytes]]:
    """The images of some rows, fetched by their URIs from where the run may fetch images."""
    rows = version.find_each(ids, [IMAGE_URI, OBJECT])
    rows = rows.filter(pc.and_(pc.is_valid(rows[IMAGE_URI]), pc.is_valid(rows[OBJECT])))
    locations, _ = locate(rows, list(range(len(rows))), rules)
    found = shared_fetcher(rules).contents(locations.values()) if locations else {}
    for row, location in locations.items():
        if isinstance(content := found[location], bytes):
            yield rows[ID][row].as_py(), content


def drawn(images: Iterable[tuple[str, bytes]], draw: Draw = picture_of_image) -> dict[str, bytes]:
    """Pictures of encoded images, drawn in a child process; one that the process dies of has none."""
    pictures: dict[str, bytes] = {}
    child = Child(functools.partial(one_result, draw), LIMITS)
    try:
        for key, image in images:
            try:
                [picture] = child.call(image)
            except ChildDiedError:
                continue
            if picture is not None:
                pictures[key] = picture
    finally:
        child.close()
    return pictures
