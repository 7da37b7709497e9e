"""The searchers of a server: those that follow what is published, and those of versions that somebody asked for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from pipelines.search import EncoderChoice, Searcher
from pipelines.search.encoder import load_encoder
from pipelines.search.pinned import PinnedTable, at_version, open_table, pin, version_of
from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.serve.metrics import Metrics
from pipelines.serve.overload import OverloadError
from pipelines.storage.errors import explained
from vista_core import UsageError

log = logging.getLogger(__name__)
Pinned = tuple[str, int]  # vector column, version


class Versions:
    """Searchers by column and version. A searcher keeps to its version, so whoever has one sees no other.

    Opening takes storage, and perhaps the loading of a model, so it is done in one thread of its own.
    """

    def __init__(self, config: ServeConfig, limits: ServeLimits, metrics: Metrics) -> None:
        """Open the published version. Raises UsageError as `Searcher.open` does."""
        self.config, self.limits, self.metrics = config, limits, metrics
        self.choice = EncoderChoice(config.model, config.weights, config.from_pretrained, config.device)
        first = Searcher.open(config.db, config.table, column=config.column, encoder=self.choice)
        self.column = first.table.vector
        self.published: dict[str, Searcher] = {self.column: first}  # by column; replaced as a whole, never changed
        self.pinned: OrderedDict[Pinned, Searcher] = OrderedDict()
        self.lock = threading.Lock()  # of `pinned`
        self.opening = 0
        self.thread = ThreadPoolExecutor(1, "open")
        self.metrics.version.set(first.version)

    @property
    def current(self) -> Searcher:
        """The published version, with the column that is searched by default."""
        return self.published[self.column]

    async def get(self, column: str | None, version: int | str | None) -> Searcher:
        """The searcher for a column and a version: a number or a tag; None: as published.

        Raises UsageError if there is no such column or version, OverloadError if too many wait to be opened.
        """
        if (known := self.known(column or self.column, version)) is not None:
            return known
        if self.opening >= self.limits.openings:
            raise OverloadError("too many versions are being opened")
        self.opening += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.thread, self.open, column or self.column, version)
        finally:
            self.opening -= 1

    def known(self, column: str, version: int | str | None) -> Searcher | None:
        """The searcher, if it is open. What a tag names has to be looked up."""
        published = self.published.get(column)
        if version is None or (published is not None and published.version == version):
            return published
        if not isinstance(version, int):
            return None
        with self.lock:
            if (found := self.pinned.get((column, version))) is not None:
                self.pinned.move_to_end((column, version))
            return found

    def open(self, column: str, version: int | str | None) -> Searcher:
        """Open a searcher, with the encoder of an open one if it is the same."""
        if version is None:
            table = open_table(self.config.db, self.config.table, column, None)
            made = self.with_encoder(table)
            self.published = {**self.published, column: made}
            return made
        dataset = self.current.table.dataset
        number = version_of(dataset, self.config.table, version)
        if (known := self.known(column, number)) is not None:
            return known
        made = self.with_encoder(pin(at_version(dataset, number), self.config.table, column, number))
        self.keep(made)
        return made

    def with_encoder(self, table: PinnedTable) -> Searcher:
        """A searcher of a table; a model that is loaded already is shared."""
        with self.lock:
            open_ones = [*self.published.values(), *self.pinned.values()]
        for known in open_ones:
            same = (known.table.column, known.table.origin) == (table.column, table.origin)
            if same and known.table.column is not None:
                return dataclasses.replace(known, table=table)
        # The options name the files of the column that is searched by default; other columns name their own.
        choice = self.choice if table.vector == self.column else EncoderChoice(device=self.config.device)
        return Searcher(table, choice, load_encoder(table, choice))

    def keep(self, searcher: Searcher) -> None:
        """Keep a searcher of a version that may be asked for again, and forget the one that was not for longest."""
        with self.lock:
            self.pinned[searcher.table.vector, searcher.version] = searcher
            while len(self.pinned) > self.limits.pinned:
                self.pinned.popitem(last=False)

    async def follow(self) -> None:
        """Look every few seconds for what is published, until cancelled."""
        failing = False
        while True:
            await asyncio.sleep(self.limits.poll_seconds)
            try:
                await asyncio.get_running_loop().run_in_executor(self.thread, self.refresh)
                failing = False
            except Exception as error:  # noqa: BLE001  # whatever it is, the version that is open can still be served
                self.metrics.refreshes.labels("failed").inc()
                if not failing:
                    log.warning("still serving version %d: %s", self.current.version, explained(error) or repr(error))
                failing = True

    def refresh(self) -> None:
        """Change to the version that is published now, in all columns that are open.

        A page that shows results of the version before can still ask for it.
        """
        before = self.published
        after = {self.column: before[self.column].refreshed()}
        for column in before.keys() - after.keys():
            with contextlib.suppress(UsageError):  # it is gone: who asks for it is told so
                after[column] = before[column].refreshed()
        if after.keys() == before.keys() and all(after[column] is before[column] for column in before):
            return
        for searcher in before.values():
            self.keep(searcher)
        self.published = after
        self.metrics.version.set(self.current.version)
        self.metrics.refreshes.labels("done").inc()
        log.info(
            "version %d is published now, and served instead of %d", self.current.version, before[self.column].version
        )

    def close(self) -> None:
        """End the thread once it has finished."""
        self.thread.shutdown(wait=False, cancel_futures=True)
