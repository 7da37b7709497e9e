"""Thumbnails of the table's images: decoded within the limits of the model's own decoder, and cached within limits."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.pictures import picture_of_image
from pipelines.serve.config import ServeLimits
from pipelines.serve.metrics import Metrics
from pipelines.serve.overload import OverloadError

SIZES = (320, 960)  # pixels of the longer side: in the grid, and alone


@dataclass(frozen=True)
class Key:
    """A thumbnail: of a row of a version of the table, in a size."""

    version: int
    id: str
    size: int


class Thumbnails:
    """Makes thumbnails in a few threads and keeps the latest. Used by one event loop."""

    def __init__(self, limits: ServeLimits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.pool = ThreadPoolExecutor(limits.thumbnail_threads, "thumbnail")
        self.cache = Cache(limits.thumbnail_cache_bytes)
        self.waiting = 0

    async def get(self, key: Key, load: Callable[[], bytes | None]) -> bytes | None:
        """The thumbnail as WebP, of the image that `load` returns; None if there is none, or it can't be decoded.

        Raises OverloadError if too many wait already.
        """
        if (cached := self.cache.get(key)) is not None:
            self.metrics.thumbnails.labels("cached").inc()
            return cached or None
        made = await self.run(lambda: made_of(load, key.size))
        self.metrics.thumbnails.labels("made" if made else "none").inc()
        self.cache.put(key, made or b"")  # that there is none is remembered, too
        self.metrics.thumbnail_bytes.set(self.cache.bytes)
        return made

    async def run(self, make: Callable[[], bytes | None]) -> bytes | None:
        """Call `make` in one of the threads. Raises OverloadError if too many wait already."""
        if self.waiting >= self.limits.thumbnail_queue:
            raise OverloadError("too many images are being loaded")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, make)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """End the threads once they have finished their image."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class Cache:
    """The least recently used values leave it when it has more bytes than `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes, self.lock = limit, 0, threading.Lock()
        self.values: OrderedDict[Key, bytes] = OrderedDict()

    def get(self, key: Key) -> bytes | None:
        """The value, or None."""
        with self.lock:
            if key in self.values:
                self.values.move_to_end(key)
            return self.values.get(key)

    def put(self, key: Key, value: bytes) -> None:
        """Keep a value."""
        with self.lock:
            self.bytes += weight(value) - (weight(self.values[key]) if key in self.values else 0)
            self.values[key] = value
            self.values.move_to_end(key)
            while self.bytes > self.limit and self.values:
                _, old = self.values.popitem(last=False)
                self.bytes -= weight(old)


def weight(value: bytes) -> int:
    """Bytes that an entry takes, with its key."""
    return len(value) + 512


def made_of(load: Callable[[], bytes | None], size: int) -> bytes | None:
    """Load an image and make a thumbnail of it."""
    data = load()
    return None if data is None else picture_of_image(data, size)
