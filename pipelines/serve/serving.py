"""What a server has open while it runs: searchers, the batcher, thumbnails and filters."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.fetching.locations import FetchRules
from pipelines.search import Query, Searcher
from pipelines.search.pinned import PinnedTable
from pipelines.serve.batching import Batcher
from pipelines.serve.config import ServeConfig, ServeLimits, fetch_rules
from pipelines.serve.facets import Facets, count_facets
from pipelines.serve.metrics import Metrics
from pipelines.serve.nights import Nights
from pipelines.serve.thumbnails import Thumbnails
from pipelines.serve.values import holds_bytes
from pipelines.serve.versions import Versions
from pipelines.sources.types import is_text
from pipelines.tables.dataset import quoted, table_uri
from pipelines.tables.filter import enclosed
from pipelines.tables.vector_column import VectorColumn, is_vector, names_encoder
from vista_core import UsageError, VistaError


class Serving:
    """Everything that requests share."""

    def __init__(self, config: ServeConfig, limits: ServeLimits) -> None:
        """Open the table. Raises UsageError as `Searcher.open` does."""
        self.config, self.limits, self.metrics = config, limits, Metrics()
        self.rules: FetchRules = fetch_rules(config, limits)
        self.versions = Versions(config, limits, self.metrics)
        self.nights = Nights(table_uri(config.db, f"{config.table}_runs"), self.metrics)
        self.batcher = Batcher(limits, self.metrics)
        self.thumbnails = Thumbnails(limits, self.metrics)
        self.counting = ThreadPoolExecutor(1, "count")
        self.counted: tuple[Searcher, asyncio.Future[Facets]] | None = None
        self.described: tuple[Searcher, float, asyncio.Future[dict[str, Any]]] | None = None
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to answer. Called on the event loop."""
        self.nights.start()
        self.tasks = [asyncio.create_task(self.batcher.run()), asyncio.create_task(self.versions.follow())]

    def stop(self) -> None:
        """End what `start` began."""
        for task in self.tasks:
            task.cancel()
        for each in (self.batcher, self.thumbnails, self.versions, self.nights):
            each.close()
        self.counting.shutdown(wait=False, cancel_futures=True)

    def is_alive(self) -> bool:
        """True while queries are answered and new versions are looked for."""
        return bool(self.tasks) and not any(task.done() for task in self.tasks)

    def has_images(self, searcher: Searcher) -> bool:
        """True if rows may have an image that can be shown."""
        return searcher.table.image is not None or bool(self.rules.allowed and searcher.table.image_uri)

    def image_of(self, searcher: Searcher, key: str) -> bytes | None:
        """The image of a row, if it is stored, or may be fetched and can be."""
        try:
            found = searcher.image_bytes([key], self.rules if self.rules.allowed else None).get(key)
        except VistaError:  # all hosts fail: the page is as good without the image
            return None
        return found if found is None or len(found) <= self.limits.image_bytes else None

    async def with_image(self, searcher: Searcher, query: Query) -> Query:
        """A query for a row's image and a text, with the image, if that is not in the table.

        It is fetched before the query waits for the encoder, which a slow host must not hold up. Raises UsageError if
        there is none.
        """
        key, table = query.like, searcher.table
        if key is None or not query.text or table.image is not None or not self.rules.allowed:
            return query
        image = await self.thumbnails.run(lambda: self.image_of(searcher, str(key)))
        if image is None:
            raise UsageError(f"the row {key!r} has no image that can be read: search without a text, or by text alone")
        conditions = [enclosed(query.where), other_rows(table, str(key))]
        return dataclasses.replace(query, like=None, image=image, where=" AND ".join(filter(None, conditions)) or None)

    async def filters(self) -> Facets:
        """The filters of the published version, which are counted once."""
        searcher = self.versions.current
        if self.counted is None or self.counted[0] is not searcher or failed(self.counted[1]):
            task = asyncio.get_running_loop().run_in_executor(
                self.counting, count_facets, searcher.table.dataset, self.limits
            )
            self.counted = (searcher, task)
        return await asyncio.shield(self.counted[1])

    async def describe(self) -> dict[str, Any]:
        """The table as the page needs to know it. Its tags, which may move at any time, are looked up now and then."""
        searcher, now = self.versions.current, time.monotonic()
        if self.described is None or self.described[0] is not searcher or now > self.described[1]:
            task = asyncio.get_running_loop().run_in_executor(self.counting, description, searcher)
            self.described = (searcher, now + self.limits.poll_seconds, task)
        return {
            "name": self.config.table,
            **await asyncio.shield(self.described[2]),
            "images": self.has_images(searcher),
            "image_bytes": self.limits.image_bytes,
            "results": self.limits.results,
            "depth": self.limits.depth,
        }


def failed(task: asyncio.Future[Any]) -> bool:
    """True for what should be tried again."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def description(searcher: Searcher) -> dict[str, Any]:
    """The version of the table that a searcher has, and the table's tags."""
    dataset = searcher.table.dataset
    columns = []
    for field in dataset.schema:
        vector = is_vector(field.type)
        column = VectorColumn.of(dataset.schema, field.name) if names_encoder(field) else None
        if vector or not (field.name.startswith("_") or holds_bytes(field.type)):
            model, incomplete = (None, False) if column is None else (column.identity.model, column.filling)
            described = {"name": field.name, "type": str(field.type), "vector": vector, "model": model}
            columns.append({**described, "incomplete": incomplete})
    return {
        "version": searcher.version,
        "model": searcher.model,
        "column": searcher.table.vector,
        "rows": dataset.count_rows(),
        "columns": columns,
        "tags": {name: int(tag["version"]) for name, tag in dataset.tags.list().items()},
        "text_column": searcher.table.text,
    }


def other_rows(table: PinnedTable, key: str) -> str | None:
    """A SQL condition that holds for all rows but one; None if rows have no ids."""
    if table.id is None:
        return None
    as_text = is_text(table.dataset.schema.field(table.id).type)
    return f"`{table.id}` != {quoted(key) if as_text else int(key)}"
