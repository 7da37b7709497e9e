"""Makes training data of a table and a log of clicks: a query should find the row that was clicked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from pipelines.fetching.locations import FetchRules
from pipelines.finetune.image_file import ImageFile
from pipelines.finetune.prepared import PAIRS, Prepared, Task
from pipelines.quality.judgements import Judgements
from pipelines.records import TEXT
from pipelines.search.images import images_of
from pipelines.search.pinned import Asked, PinnedTable, open_table
from pipelines.search.rows import addresses_of, take
from vista_core import UsageError

TASK: Final = "clicks"
ROWS_AT_ONCE: Final = 512  # whose images are in memory


def read_clicks(place: tuple[str, str], clicks: str, rules: FetchRules | None, folder: str) -> Prepared:
    """Pairs of each query with each row that was clicked for it, of the published version of a table.

    `place` is the folder of the tables, and the table's name. `clicks` is a file with the columns `query`, a text, and
    `id`. A pair that was clicked several times counts once. Images are written into `folder`; those that are not stored
    in the table are fetched within `rules`. Clicks on rows that are gone, or that have neither text nor image, are left
    out, and counted. Raises UsageError if no pair is left.
    """
    table, judgements = open_table(*place, Asked()), Judgements.read(clicks)
    pairs = [(query, key) for query, keys in judgements.relevant.items() for key in keys]
    with ImageFile(folder) as images:
        items = {
            key: item
            for keys in batched({key for _, key in pairs})
            for key, item in rows_of(table, keys, rules, images)
        }
    kept = [{"query": {"text": query}, "positive": items[key], "negatives": []} for query, key in pairs if key in items]
    if not kept:
        raise UsageError(f"{clicks}: no row that was clicked is in {place[1]} with a text or an image")
    facts = {
        "source": f"{place[0]}/{place[1]}, version {int(table.dataset.version)}, with {clicks}",
        "pairs left out, as their row is gone or empty": len(pairs) - len(kept),
    }
    return Prepared([Task(TASK, pa.Table.from_pylist(kept, PAIRS), edits=False)], images.table(), facts)


def batched(keys: set[str]) -> Iterator[list[str]]:
    """Ids in order, some at a time."""
    left = iter(sorted(keys))
    while part := list(itertools.islice(left, ROWS_AT_ONCE)):
        yield part


def rows_of(
    table: PinnedTable, keys: Sequence[str], rules: FetchRules | None, images: ImageFile
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows with some ids as items; those that are gone, or empty, are left out."""
    addresses = addresses_of(table, keys)
    pictures = images_of(table, keys, rules)
    names = [TEXT] if TEXT in table.dataset.schema.names else []
    rows = take(table, list(addresses.values()), names).to_pylist() if names else [{}] * len(addresses)
    for key, row in zip(addresses, rows, strict=True):
        picture, text = pictures.get(key), row.get(TEXT)
        if picture or text:
            yield str(key), {"text": text or None, "image": images.add(picture, str(key)) if picture else None}
