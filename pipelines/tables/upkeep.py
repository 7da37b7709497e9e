"""Upkeep that keeps a table fast over many runs: merging small fragments, and removing old versions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import lance
from lance.optimize import Compaction, CompactionOptions, CompactionTask, RewriteResult

from pipelines.storage.errors import cause_of, explained, says_not_found, without_rust_location
from pipelines.tables.transactions import is_conflict
from vista_core import VistaError

LONGEST_MESSAGE: Final = 300

Execute = Callable[[list[CompactionTask]], list[RewriteResult]]


class UpkeepError(VistaError):
    """Some upkeep could not be done. The table's rows are unchanged, and a later run tries again."""


@dataclass(frozen=True)
class UpkeepLimits:
    """When a table is compacted, and its indexes merged."""

    fragment_rows: int = 262_144  # rows of a full fragment, as of the largest commit; half of it is not small any more
    small_fragments: int = 8  # so many small fragments are merged
    deleted_share: float = 0.1  # a fragment is rewritten if more of its rows than this share are deleted
    index_segments: int = 8  # so many segments of a vector index are merged


LIMITS: Final = UpkeepLimits()


def compact(table: lance.LanceDataset, execute: Execute, limits: UpkeepLimits = LIMITS) -> lance.LanceDataset:
    """Merge small fragments and rewrite those with many deleted rows, if that pays off; `execute` runs the tasks.

    Raises UpkeepError if that fails, or if another writer's commit conflicts. `clean_up` then removes the rewritten
    files, and a later run compacts the table.
    """
    with postponing("small fragments were not merged"):
        tasks = plan(table, limits)
        if not tasks:
            return table
        Compaction.commit(table, execute(tasks))
    return lance.dataset(table.uri)


def rewrite_one(uri: str, task: CompactionTask) -> RewriteResult:
    """Run one task of a compaction, on a worker."""
    return task.execute(lance.dataset(uri, version=task.read_version))


def plan(table: lance.LanceDataset, limits: UpkeepLimits = LIMITS) -> list[CompactionTask]:
    """The tasks of a compaction; none unless there are many small fragments, or one with many deleted rows.

    Lance merges any two neighbours below the target size. By itself it would rewrite last night's rows every night, and
    every fragment that is a few rows short of the target. So all other fragments are excluded; Lance does not merge
    across an excluded fragment.
    """
    fragments = [fragment.metadata for fragment in table.get_fragments()]
    small = {each.id for each in fragments if each.num_rows < limits.fragment_rows // 2}
    worn = {each.id for each in fragments if each.num_deletions > limits.deleted_share * each.physical_rows}
    if len(small) < limits.small_fragments and not worn:
        return []
    options: CompactionOptions = {
        "target_rows_per_fragment": limits.fragment_rows,
        "materialize_deletions_threshold": limits.deleted_share,
        "excluded_fragment_ids": [each.id for each in fragments if each.id not in small | worn],
    }
    return Compaction.plan(table, options).tasks


@contextlib.contextmanager
def postponing(what: str) -> Iterator[None]:
    """Raise UpkeepError, which starts with `what`, for whatever Lance or a worker fails with: it can wait.

    What ends a run is raised as it is: a store that fails, a lost lease. A file of an index that is gone doesn't.
    """
    try:
        yield
    except Exception as error:
        if is_conflict(error):
            raise UpkeepError(f"{what}, since another writer committed meanwhile") from error
        if explained(error) is not None and not says_not_found(error):
            raise
        cause, message = cause_of(error)
        said = without_rust_location(message)[:LONGEST_MESSAGE] or type(cause).__name__
        raise UpkeepError(f"{what}: {said}") from error


def clean_up(uri: str, retention: timedelta) -> int:
    """Remove versions older than `retention` with the files that only they have, and return the bytes removed.

    Tagged versions and the latest one stay. Files that belong to no version may be those of a run in progress, so Lance
    removes them only after 7 days.
    """
    stats = lance.dataset(uri).cleanup_old_versions(older_than=retention, error_if_tagged_old_versions=False)
    return stats.bytes_removed
