"""Indexes of a table: the job's own on `id` and `_object`, and keeping every index, users' included, up to date."""

from __future__ import annotations

import lance

from pipelines.records import ID, OBJECT
from pipelines.tables.upkeep import LIMITS, UpkeepLimits, skip_on_conflict


def index_ids(uri: str) -> None:
    """Build the index on `id`, or bring it up to date. Without it every lookup scans the whole column."""
    dataset = lance.dataset(uri)
    if index_on(ID) in index_names(dataset):
        dataset.optimize.optimize_indices(index_names=[index_on(ID)])
    elif dataset.count_rows():
        create_index_on(dataset, ID)


def lacks_ids(dataset: lance.LanceDataset) -> bool:
    """True if the index on `id` doesn't cover all rows."""
    if index_on(ID) in index_names(dataset):
        return unindexed_rows(dataset, index_on(ID)) > 0
    return dataset.count_rows() > 0


def bring_indexes_up_to_date(table: lance.LanceDataset, limits: UpkeepLimits = LIMITS) -> lance.LanceDataset:
    """Make every index cover every row, users' indexes included; create those on `id` and `_object` if missing."""
    if table.count_rows() == 0:
        return table
    names = index_names(table)
    with skip_on_conflict(table, "update of the indexes"):
        for column in (ID, OBJECT):
            if index_on(column) not in names:
                create_index_on(table, column)
        for name in names:
            cover_all_rows(table, name, limits.index_segments)
    return lance.dataset(table.uri)


def cover_all_rows(table: lance.LanceDataset, index: str, most_segments: int) -> None:
    """Add the rows that `index` doesn't cover yet.

    A vector index gets another segment each time. A search reads all segments, and a compaction only merges fragments
    of the same segment, so `most_segments` of them are merged into one.
    """
    stats = table.stats.index_stats(index)
    if not stats.get("num_unindexed_rows"):  # Lance's internal indexes don't have this figure
        return
    segments = stats["num_indices"]
    merge = {"num_indices_to_merge": segments} if segments >= most_segments else {}
    table.optimize.optimize_indices(index_names=[index], **merge)


def create_index_on(table: lance.LanceDataset, column: str) -> None:
    """Build the job's own index on a column."""
    table.create_scalar_index(column, "BTREE", name=index_on(column))


def index_on(column: str) -> str:
    """The name of the job's own index on a column."""
    return f"{column}_idx"


def index_names(dataset: lance.LanceDataset) -> list[str]:
    """The names of a table's indexes."""
    return [index.name for index in dataset.describe_indices()]


def unindexed_rows(dataset: lance.LanceDataset, index: str) -> int:
    """The number of rows that `index` doesn't cover."""
    return int(dataset.stats.index_stats(index)["num_unindexed_rows"])
