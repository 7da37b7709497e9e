"""A command that changes what readers see in one step: it holds the lease, and is recorded as a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lance

from pipelines.events import Events
from pipelines.tables.dataset import open_dataset, table_uri
from pipelines.tables.lease import Lease, hold
from pipelines.tables.runs import RunRecord, Runs
from vista_core import UsageError


@dataclass(frozen=True)
class Recorded:
    """A run that is under way."""

    table: lance.LanceDataset  # the version at the start of the run
    lease: Lease
    events: Events


def open_existing(db: str, name: str) -> lance.LanceDataset:
    """The latest version of a table. Raises UsageError if there is none."""
    table = open_dataset(table_uri(db, name))
    if table is None:
        raise UsageError(f"there is no table {name} in {db}")
    return table


@contextmanager
def recorded(seen: lance.LanceDataset, configuration: dict[str, Any], by_force: bool) -> Iterator[Recorded]:
    """Hold the lease while the context lasts, with a row in `NAME_runs` that says how it ended.

    Raises LeaseHeldError if another run holds the table. A signal that arrives too late says what is published.
    """
    started, runs = datetime.now(UTC), Runs(f"{seen.uri.removesuffix('.lance')}_runs.lance")
    runs.check()
    with (
        hold(seen, runs, by_force) as (table, lease),
        RunRecord(runs.uri, lease.run, started, configuration).running() as record,
        lease.explaining_failures(table.uri),
    ):
        try:
            yield Recorded(table, lease, Events((record,)))
            latest = lance.dataset(seen.uri)
            record.succeed(record.published_version or int(latest.version), None)
        except KeyboardInterrupt as stop:
            if (version_now := record.published_version) is None:
                raise
            # Whoever runs the command again, taking it for undone, might undo it.
            raise KeyboardInterrupt(f"stopped, but version {version_now} of {seen.uri} is published") from stop
