"""What keeps a table quick to search over the nights: merged fragments, indexes that cover every row, no old files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

import lance
from lance.commit import CommitConflictError
from lance.optimize import Compaction, CompactionOptions, CompactionTask, RewriteResult

from pipelines.records import ID, OBJECT

FRAGMENT_ROWS: Final = 262_144  # a commit's most rows; a fragment that is half as large is left as it is
SMALL_FRAGMENTS: Final = 8
DELETED_SHARE: Final = 0.1  # of a fragment's rows; beyond it the fragment is rewritten
INDEX_SEGMENTS: Final = 8

log = logging.getLogger(__name__)

Execute = Callable[[list[CompactionTask]], list[RewriteResult]]


def compact(table: lance.LanceDataset, execute: Execute) -> lance.LanceDataset:
    """Merge small fragments and rewrite those with many deleted rows, where it is worth it; `execute` runs the tasks.

    Another writer's commit in between wins: what was rewritten is then left to `clean_up`, and the rest to a later run.
    """
    tasks = plan(table)
    if not tasks:
        return table
    rewrites = execute(tasks)
    with giving_way(table, "its compaction"):
        Compaction.commit(table, rewrites)
    return lance.dataset(table.uri)


def rewrite_one(uri: str, task: CompactionTask) -> RewriteResult:
    """One rewrite, on a worker."""
    return task.execute(lance.dataset(uri, version=task.read_version))


def plan(table: lance.LanceDataset) -> list[CompactionTask]:
    """What to rewrite: nothing unless there are many small fragments, or one with many deleted rows.

    Lance by itself merges any two neighbours below the target, and so would rewrite last night's rows each night, and
    all fragments that came out a few rows short of it. What is excluded parts its neighbours.
    """
    fragments = [fragment.metadata for fragment in table.get_fragments()]
    small = {fragment.id for fragment in fragments if fragment.num_rows < FRAGMENT_ROWS // 2}
    worn = {fragment.id for fragment in fragments if fragment.num_deletions > DELETED_SHARE * fragment.physical_rows}
    if len(small) < SMALL_FRAGMENTS and not worn:
        return []
    options: CompactionOptions = {
        "target_rows_per_fragment": FRAGMENT_ROWS,
        "materialize_deletions_threshold": DELETED_SHARE,
        "excluded_fragment_ids": [fragment.id for fragment in fragments if fragment.id not in small | worn],
    }
    return Compaction.plan(table, options).tasks


@contextlib.contextmanager
def giving_way(table: lance.LanceDataset, what: str) -> Iterator[None]:
    """Maintenance that another writer's commit got ahead of can wait, and is no reason to end a run."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, CommitConflictError) and "commit conflict" not in str(error):
            raise
        log.warning("another writer committed to %s, leaving %s to a later run: %s", table.uri, what, error)


def bring_indexes_up_to_date(table: lance.LanceDataset) -> lance.LanceDataset:
    """Make every index cover every row, those that users built too; the ones on `id` and `_object` are always there."""
    if table.count_rows() == 0:
        return table
    names = [index.name for index in table.describe_indices()]
    with giving_way(table, "its indexes"):
        for column in (ID, OBJECT):
            if f"{column}_idx" not in names:
                table.create_scalar_index(column, "BTREE", name=f"{column}_idx")
        for name in names:
            cover_all_rows(table, name)
    return lance.dataset(table.uri)


def cover_all_rows(table: lance.LanceDataset, index: str) -> None:
    """Add the rows to `index` that it doesn't cover yet, if there are any."""
    stats = table.stats.index_stats(index)
    if not stats.get("num_unindexed_rows"):  # which an index that Lance keeps for itself doesn't have
        return
    # A vector index gets a segment each time. Every search reads them all, and fragments are only merged within one.
    segments = stats["num_indices"]
    merge = {"num_indices_to_merge": segments} if segments >= INDEX_SEGMENTS else {}
    table.optimize.optimize_indices(index_names=[index], **merge)


def clean_up(uri: str, retention: timedelta) -> int:
    """Remove versions older than `retention` and the files that only they have; returns the bytes removed.

    Versions with a tag stay, and so does the latest. Files of no version may be a live writer's: Lance removes them
    once they are 7 days old.
    """
    stats = lance.dataset(uri).cleanup_old_versions(older_than=retention, error_if_tagged_old_versions=False)
    return stats.bytes_removed
