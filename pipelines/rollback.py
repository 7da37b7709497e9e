"""Roll a table back: publish an earlier version of it again. It needs neither Ray nor the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pipelines.options import AT_LEAST_1, NAME, check_options
from pipelines.storage.uris import absolute
from pipelines.tables.dataset import published
from pipelines.tables.publish import roll_back
from pipelines.tables.recorded import open_existing, recorded


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
    seen = open_existing(absolute(config.db), config.table)
    with recorded(seen, {"rollback": True, "to": config.to}, config.take_over) as run:
        before = published(run.table)
        version = roll_back(run.table, run.lease, run.events, config.to)
    return RolledBack(seen.uri, version, before)
