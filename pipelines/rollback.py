"""Roll a table back: publish an earlier version of it again. It needs neither Ray nor the model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pipelines.events import Events
from pipelines.options import AT_LEAST_1, NAME, check_options
from pipelines.storage.uris import absolute
from pipelines.tables.dataset import open_dataset, published, table_uri
from pipelines.tables.lease import hold
from pipelines.tables.publish import roll_back
from pipelines.tables.runs import RunRecord, Runs
from vista_core import UsageError


@dataclass(frozen=True)
class RollbackConfig:
    """Publish an earlier version of --db/--table again. Changes no row, and runs no gates.

    Exit code: 0 done, 1 failed, 2 bad usage.
    """

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table."""
    to: Annotated[int | None, AT_LEAST_1] = None
    """The version to publish; `published_version` in NAME_runs has those that passed the gates; default: the one that
    was published before the present one."""
    take_over: bool = False
    """Begin although another run holds the table, because that run is dead."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)


@dataclass(frozen=True)
class RolledBack:
    """The result of a rollback."""

    uri: str
    version: int  # published now
    before: int | None  # published until then

    def __str__(self) -> str:
        """What was done, how to undo it, and what undoes it by itself."""
        return (
            f"published version {self.version} of {self.uri} instead of version {self.before}\n"
            f"to undo this, run the same command with --to {self.before}\n"
            "the next run that embeds into the table publishes its latest version again: correct the source first"
        )


def roll_back_table(config: RollbackConfig) -> RolledBack:
    """Move the tag `published` to an earlier version. Holds the lease meanwhile, so that no other run is under way.

    Raises UsageError if there is no such table or version, and LeaseHeldError if another run holds the table.
    """
    db, started = absolute(config.db), datetime.now(UTC)
    uri = table_uri(db, config.table)
    seen = open_dataset(uri)
    if seen is None:
        raise UsageError(f"there is no table {config.table} in {db}")
    configuration = {"rollback": True, "to": config.to}
    runs = Runs(table_uri(db, f"{config.table}_runs"))
    with (
        hold(seen, runs, config.take_over) as (table, lease),
        RunRecord(runs.uri, lease.run, started, configuration).running() as record,
    ):
        before = published(table)
        try:
            version = roll_back(table, lease, Events((record,)), config.to)
            record.succeed(version, None)
        except KeyboardInterrupt as stop:
            if (version_now := record.published_version) is None:
                raise
            # Whoever runs the command again, taking it for undone, would undo it.
            raise KeyboardInterrupt(f"stopped, but version {version_now} of {uri} is published") from stop
    return RolledBack(uri, version, before)
