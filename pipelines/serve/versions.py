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
from pipelines.search.encoder import load_encoder, same_encoder
from pipelines.search.pinned import Asked, PinnedTable, at_version, open_table, pin, repinned, version_of
from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.serve.metrics import Metrics
from pipelines.serve.overload import OverloadError
from pipelines.storage.errors import explained
from vista_core import UsageError

log = logging.getLogger(__name__)
Column = str | None  # the vector column that was asked for; None: the default one of the version


class Versions:
    """Searchers by column and version. A searcher keeps to its version, so whoever has one sees no other.

    Who asks for no column gets the one of `--column`, or the default column of the version that is asked for.
    Opening takes storage, and perhaps the loading of a model, so it is done in one thread of its own.
    """

    def __init__(self, config: ServeConfig, limits: ServeLimits, metrics: Metrics) -> None:
        """Open the published version. Raises UsageError as `Searcher.open` does."""
        self.config, self.limits, self.metrics = config, limits, metrics
        choice = EncoderChoice(config.model, config.weights, config.from_pretrained, config.device)
        first = Searcher.open(
            config.db,
            config.table,
            column=config.column,
            allow_incomplete=config.allow_incomplete,
            encoder=choice,
        )
        self.choice = first.choice or choice  # whose files are those of the column that is searched first
        self.published: dict[Column, Searcher] = {config.column: first}  # replaced as a whole, never changed
        self.pinned: OrderedDict[tuple[Column, int], Searcher] = OrderedDict()
        self.lock = threading.Lock()  # of `pinned`
        self.opening = 0
        self.thread = ThreadPoolExecutor(1, "open")
        self.metrics.version.set(first.version)

    @property
    def current(self) -> Searcher:
        """The published version, with the column that is searched by default."""
        return self.published[self.config.column]

    async def get(self, column: Column, version: int | str | None) -> Searcher:
        """The searcher for a column and a version: a number or a tag; None: as published.

        Raises UsageError if there is no such column or version, OverloadError if too many wait to be opened.
        """
        column = column or self.config.column
        if (known := self.known(column, version)) is not None:
            return known
        if self.opening >= self.limits.openings:
            raise OverloadError("too many versions are being opened")
        self.opening += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.thread, self.open, column, version)
        finally:
            self.opening -= 1

    def known(self, column: Column, version: int | str | None) -> Searcher | None:
        """The searcher, if it is open. What a tag names has to be looked up."""
        current = self.current
        published = current if column == current.table.vector else self.published.get(column)
        if version is None or (published is not None and published.version == version):
            return published
        if not isinstance(version, int):
            return None
        with self.lock:
            if (found := self.pinned.get((column, version))) is not None:
                self.pinned.move_to_end((column, version))
            return found

    def open(self, column: Column, version: int | str | None) -> Searcher:
        """Open a searcher, with the encoder of an open one if it is the same."""
        asked = Asked(column, None, self.config.allow_incomplete)
        if version is None:
            if (known := self.known(column, None)) is not None:  # who came first had it opened
                return known
            made = self.with_encoder(open_table(self.config.db, self.config.table, asked))
            self.published = {**self.published, column: made}
            return made
        dataset = self.current.table.dataset
        number = version_of(dataset, self.config.table, version)
        if (known := self.known(column, number)) is not None:
            return known
        made = self.with_encoder(pin(at_version(dataset, number), self.config.table, asked))
        self.keep(made)
        return made

    def with_encoder(self, table: PinnedTable) -> Searcher:
        """A searcher of a table; a model that is loaded already is shared."""
        with self.lock:
            open_ones = [*self.published.values(), *self.pinned.values()]
        for known in open_ones:
            if same_encoder(known.table, table):
                return dataclasses.replace(known, table=table)
        return Searcher(table, self.choice, load_encoder(table, self.choice))

    def keep(self, searcher: Searcher) -> None:
        """Keep a searcher of a version that may be asked for again, and forget the one that was not for longest."""
        with self.lock:
            self.pinned[searcher.table.asked.column, searcher.version] = searcher
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
        before, default = self.published, self.config.column
        was = before[default]
        now = self.refreshed(was)
        after = {default: now}
        for column in before.keys() - after.keys():
            with contextlib.suppress(UsageError):  # it is gone: who asks for it is told so
                after[column] = self.refreshed(before[column])
        if now.table.vector != was.table.vector:  # who named the default column before had this searcher as well
            with contextlib.suppress(UsageError):
                after[was.table.vector] = self.with_encoder(in_column(now.table, was.table.vector))
        if after.keys() == before.keys() and all(after[column] is before[column] for column in before):
            return
        for searcher in before.values():
            self.keep(searcher)
        self.published = after
        self.metrics.version.set(now.version)
        self.metrics.refreshes.labels("done").inc()
        log.info("version %d, %s, is published now, and served instead of %d", now.version, now.model, was.version)

    def refreshed(self, searcher: Searcher) -> Searcher:
        """The searcher on the version that is published now; itself if it is this one."""
        table = repinned(searcher.table)
        return searcher if table is searcher.table else self.with_encoder(table)

    def close(self) -> None:
        """End the thread once it has finished."""
        self.thread.shutdown(wait=False, cancel_futures=True)


def in_column(table: PinnedTable, column: str) -> PinnedTable:
    """The same version with another vector column. Raises UsageError if it can't be searched."""
    return pin(table.dataset, table.name, dataclasses.replace(table.asked, column=column))
