"""Queries that wait are encoded together; how many may wait, and for how long, is limited."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipelines.search import Query
from pipelines.serve.config import ServeLimits
from pipelines.serve.metrics import Metrics
from pipelines.serve.overload import OverloadError
from vista_core import UsageError


class Searches(Protocol):
    """What a query is put to: a Searcher."""

    def vectors(self, queries: Sequence[Query]) -> Sequence[Any]:
        """The vector of each query, or why it has none; None if it needs none."""

    def answer(self, query: Query, vector: Any) -> pa.Table | UsageError:
        """The results of a query with its vector."""


@dataclass(frozen=True)
class Job:
    """A query that was admitted, and where its results are awaited."""

    searcher: Searches
    query: Query
    result: asyncio.Future[pa.Table | UsageError]


class Batcher:
    """Answers queries on an event loop: one thread encodes, a few threads search.

    While the encoder is busy queries gather, and go to it together. At most `queue` queries are admitted at a time; who
    comes then is told so at once, since he would only wait behind all others.
    """

    def __init__(self, limits: ServeLimits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.encoding = ThreadPoolExecutor(1, "encode")
        self.searching = ThreadPoolExecutor(limits.searches, "search")
        self.waiting: deque[Job] = deque()
        self.arrived = asyncio.Event()
        self.admitted = 0

    async def answer(self, searcher: Searches, query: Query) -> pa.Table:
        """The results of a query. Raises UsageError if it has none, OverloadError if there is no room for it."""
        if self.admitted >= self.limits.queue:
            raise OverloadError("too many queries are waiting")
        job = Job(searcher, query, asyncio.get_running_loop().create_future())
        self.admitted += 1
        job.result.add_done_callback(self.leave)
        if query.needs_encoder:
            self.waiting.append(job)
            self.metrics.waiting.set(len(self.waiting))
            self.arrived.set()
        else:
            self.search(job, None)
        try:
            found = await asyncio.wait_for(asyncio.shield(job.result), self.limits.wait_seconds)
        except TimeoutError as error:
            self.withdraw(job)
            raise OverloadError("the query was not answered in time") from error
        if isinstance(found, UsageError):
            raise found
        return found

    def withdraw(self, job: Job) -> None:
        """Take a query out of the queue. One that is being searched keeps its place until it is done."""
        with contextlib.suppress(ValueError):
            self.waiting.remove(job)
            job.result.cancel()

    def leave(self, result: asyncio.Future[Any]) -> None:
        """Make room for another query."""
        self.admitted -= 1
        if not result.cancelled():
            result.exception()  # was seen, even if nobody waits any longer

    async def run(self) -> None:
        """Encode what waits, batch after batch, until cancelled."""
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            while self.waiting:
                first = self.waiting[0].searcher  # a batch is of one version of one column
                batch = [job for job in self.waiting if job.searcher is first][: self.limits.batch]
                for job in batch:
                    self.waiting.remove(job)
                self.metrics.waiting.set(len(self.waiting))
                await self.encode(batch)

    async def encode(self, batch: list[Job]) -> None:
        """Encode queries of one searcher, and hand them on to be searched."""
        self.metrics.batches.observe(len(batch))
        queries = [job.query for job in batch]
        try:
            loop = asyncio.get_running_loop()
            vectors = await loop.run_in_executor(self.encoding, batch[0].searcher.vectors, queries)
        except Exception as error:  # noqa: BLE001  # each of them is told, and the next batch is tried all the same
            for job in batch:
                if not job.result.done():
                    job.result.set_exception(error)
            return
        for job, vector in zip(batch, vectors, strict=True):
            self.search(job, vector)

    def search(self, job: Job, vector: Any) -> None:
        """Search in one of the threads."""

        def done(found: asyncio.Future[pa.Table | UsageError]) -> None:
            if job.result.done() or found.cancelled():
                return
            if (error := found.exception()) is not None:
                job.result.set_exception(error)
            else:
                job.result.set_result(found.result())

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self.searching, job.searcher.answer, job.query, vector).add_done_callback(done)

    def close(self) -> None:
        """End the threads once they have finished."""
        for pool in (self.encoding, self.searching):
            pool.shutdown(wait=False, cancel_futures=True)
