"""Hard negatives by search: candidates that the model to start from finds near to a query, but that are not right.

Near ones may be right, too, since data names few of all that a query could find. So only those count whose cosine is
less than SHARE of the positive's (the filter TopK-PercPos of NV-Retriever, arXiv 2407.15831).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cluster.tasks import as_completed
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import embed
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.images import ImageBytes
from pipelines.finetune.prepared import PAIRS, Prepared, Task
from pipelines.quality.exact import Vectors, search_exactly, vectors_by_id
from pipelines.records import ID
from pipelines.search.pinned import Asked, open_table
from pipelines.storage.uris import filesystem
from pipelines.tables.dataset import TableVersion

SHARE: Final = 0.95
DEPTH: Final = 100  # candidates that are looked at
KEPT: Final = 10  # hard negatives of a pair
ROWS_AT_ONCE: Final = 256  # whose images are in memory
EVERY: Final = 1 << 40
SCHEMA: Final = pa.schema([(ID, pa.string()), ("text", pa.string()), ("image", pa.binary())])

Key = tuple[str | None, int | None]  # an item: its text, and the number of its image

log = logging.getLogger(__name__)


def with_mined(config: FinetuneConfig, prepared: Prepared, folder: str) -> Prepared:
    """The data with the negatives that were found in place of those that it had.

    All candidates of a task are embedded by the model to start from into tables in `folder`, and searched exactly.
    """
    tasks = [mined(config, task, prepared.images, f"{folder}/{task.name}") for task in prepared.tasks]
    negatives = sum(len(found) for task in tasks for found in task.pairs["negatives"].to_pylist())
    log.info("%s hard negatives were found for %s pairs", f"{negatives:,}", f"{prepared.count:,}")
    return dataclasses.replace(prepared, tasks=tasks, facts={**prepared.facts, "mined hard negatives": negatives})


def mined(config: FinetuneConfig, task: Task, images: pa.Table, folder: str) -> Task:
    """A task with negatives from among its own candidates."""
    pairs = task.pairs.to_pylist()
    candidates = numbered(key_of(item) for pair in pairs for item in (pair["positive"], *(pair["negatives"] or ())))
    queries = numbered(key_of(pair["query"]) for pair in pairs)
    reader = ImageBytes(images)
    there = embedded(config, write_items(f"{folder}/candidates.parquet", candidates, reader), folder, "candidates")
    asked = embedded(config, write_items(f"{folder}/queries.parquet", queries, reader), folder, "queries")
    names, vectors = vectors_by_id(asked, [str(number) for number in queries.values()])
    found = search_exactly(there, vectors, DEPTH, as_completed)
    ranked = {
        name: list(zip(map(int, ids), scores.tolist(), strict=True))
        for name, ids, scores in zip(names, found.ids, found.scores, strict=True)
    }
    right: dict[int, set[int]] = {}  # candidates of each query
    for pair in pairs:
        right.setdefault(queries[key_of(pair["query"])], set()).add(candidates[key_of(pair["positive"])])
    keys = list(candidates)
    for pair in pairs:
        query, positive = queries[key_of(pair["query"])], candidates[key_of(pair["positive"])]
        near = ranked.get(str(query), [])
        # If the positive isn't among them, all of them are nearer to the query than it is.
        cosine = dict(near).get(positive, -np.inf)
        limit = cosine - (1 - SHARE) * abs(cosine)
        wrong = [at for at, score in near if at not in right[query] and score < limit]
        pair["negatives"] = [{"text": keys[at][0], "image": keys[at][1]} for at in wrong[:KEPT]]
    return dataclasses.replace(task, pairs=pa.Table.from_pylist(pairs, PAIRS))


def key_of(item: dict[str, Any]) -> Key:
    """What tells items apart."""
    return item["text"], item["image"]


def numbered(keys: Iterable[Key]) -> dict[Key, int]:
    """Distinct items with their numbers."""
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}


def write_items(uri: str, items: dict[Key, int], reader: ImageBytes) -> str:
    """Write items as a catalog that `embed` reads. An image that is not there becomes an empty one, and is rejected."""
    fs, path = filesystem(uri)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    with fs.open(path, "wb") as stream, pq.ParquetWriter(stream, SCHEMA) as writer:
        for rows in rows_of(list(items), reader):
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return uri


def rows_of(items: Sequence[Key], reader: ImageBytes) -> Iterator[list[dict[str, Any]]]:
    """Items as rows, some at a time."""
    for start in range(0, len(items), ROWS_AT_ONCE):
        rows = []
        for number, (text, image) in enumerate(items[start : start + ROWS_AT_ONCE], start):
            try:
                content = None if image is None else reader.read(image)
            except FileNotFoundError:
                content = b""
            rows.append({ID: str(number), "text": text, "image": content})
        yield rows


def embedded(config: FinetuneConfig, source: str, folder: str, name: str) -> Vectors:
    """A catalog as vectors by the model to start from."""
    embed(
        EmbedConfig(
            source=source,
            db=folder,
            table=name,
            model=config.model,
            weights=config.weights,
            from_pretrained=config.from_pretrained,
            alpha=config.alpha,
            max_tokens=config.max_tokens,
            device=config.device,
            max_reject_rate=1.0,
            delete_missing=True,
            delete_at_most=EVERY,
            report="none",
        )
    )
    table = open_table(folder, name, Asked())
    return Vectors(TableVersion(table.dataset.uri, int(table.dataset.version)), table.vector, ID)
