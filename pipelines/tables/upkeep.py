"""Upkeep that keeps a table fast over many runs: merging small fragments, and removing old versions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import lance
from lance.optimize import Compaction, CompactionOptions, CompactionTask, RewriteResult

from pipelines.tables.transactions import is_conflict

log = logging.getLogger(__name__)

Execute = Callable[[list[CompactionTask]], list[RewriteResult]]


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

    If another writer's commit conflicts, the compaction is skipped. `clean_up` then removes the rewritten files, and a
    later run compacts the table.
    """
    tasks = plan(table, limits)
    if not tasks:
        return table
    rewrites = execute(tasks)
    with skip_on_conflict(table, "compaction"):
        Compaction.commit(table, rewrites)
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
def skip_on_conflict(table: lance.LanceDataset, what: str) -> Iterator[None]:
    """Log a commit conflict instead of raising it: upkeep can wait for a later run."""
    try:
        yield
    except OSError as error:
        if not is_conflict(error):
            raise
        log.warning("%s: %s skipped, since another writer committed; a later run does it: %s", table.uri, what, error)


def clean_up(uri: str, retention: timedelta) -> int:
    """Remove versions older than `retention` with the files that only they have, and return the bytes removed.

    Tagged versions and the latest one stay. Files that belong to no version may be those of a run in progress, so Lance
    removes them only after 7 days.
    """
    stats = lance.dataset(uri).cleanup_old_versions(older_than=retention, error_if_tagged_old_versions=False)
    return stats.bytes_removed
