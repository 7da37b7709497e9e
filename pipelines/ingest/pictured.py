"""Which of the small pictures that travel with records (`records.PICTURE`) are kept for the report of the run."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipelines.records import ID, OBJECT, PICTURE, REASON, ROW, Pictured

ROWS = 128  # of records that got into the table
EXAMPLES = 3  # of records that were rejected for the same reason


def pictured(records: pa.Table) -> list[Pictured]:
    """The pictures of a bundle's records, as many as are kept."""
    found = records.filter(pc.is_valid(records[PICTURE])).select([ID, OBJECT, ROW, REASON, PICTURE])
    return kept(Pictured(*row.values()) for row in found.to_pylist())


def kept(pictures: Iterable[Pictured]) -> list[Pictured]:
    """At most ROWS and EXAMPLES of some pictures: by a hash of the id, so that no part of a source is preferred."""
    latest = {(each.reason, each.id): each for each in pictures}.values()
    by_hash = sorted(latest, key=lambda each: xxhash.xxh3_64_intdigest(f"{each.id}".encode("utf-8", "replace")))
    chosen: dict[str | None, list[Pictured]] = {}
    for each in by_hash:
        of_reason = chosen.setdefault(each.reason, [])
        if len(of_reason) < (ROWS if each.reason is None else EXAMPLES):
            of_reason.append(each)
    return [each for of_reason in chosen.values() for each in of_reason]
