"""Indexes of a table: the job's own on `id` and `_object`, and keeping every index, users' included, up to date."""

from __future__ import annotations

import logging

import lance

from pipelines.records import ID, OBJECT
from pipelines.tables.transactions import is_conflict
from pipelines.tables.upkeep import LIMITS, UpkeepError, UpkeepLimits, postponing

log = logging.getLogger(__name__)


def index_ids(uri: str) -> None:
    """Build the index on `id`, or bring it up to date. Without it every lookup scans the whole column."""
    dataset = lance.dataset(uri)
    try:
        with postponing(f"{uri}: the index on `{ID}` was not updated, so lookups are slow"):
            if index_on(ID) in index_names(dataset):
                dataset.optimize.optimize_indices(index_names=[index_on(ID)])
            elif dataset.count_rows():
                create_index_on(dataset, ID)
    except UpkeepError as error:
        log.warning("%s", error)


def lacks_ids(dataset: lance.LanceDataset) -> bool:
    """True if the index on `id` doesn't cover all rows."""
    if index_on(ID) in index_names(dataset):
        return unindexed_rows(dataset, index_on(ID)) > 0
    return dataset.count_rows() > 0


def bring_indexes_up_to_date(table: lance.LanceDataset, limits: UpkeepLimits = LIMITS) -> lance.LanceDataset:
    """Make every index cover every row, users' indexes included; create those on `id` and `_object` if missing.

    Raises UpkeepError, after all others were updated, if some could not be.
    """
    if table.count_rows() == 0:
        return table
    with postponing("the indexes could not be listed"):
        names = index_names(table)
    missing = {index_on(column): column for column in (ID, OBJECT) if index_on(column) not in names}
    problems = []
    for name in [*names, *missing]:
        try:
            with postponing(f"the index {name!r} was not updated, and what it lacks is scanned by searches"):
                latest = lance.dataset(table.uri)
                if name in missing:
                    create_index_on(latest, missing[name])
                else:
                    cover_all_rows(latest, name, limits.index_segments)
        except UpkeepError as error:
            problems.append(str(error))
    if problems:
        raise UpkeepError("; ".join(problems))
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
    if segments < most_segments:
        table.optimize.optimize_indices(index_names=[index])
        return
    try:
        table.optimize.optimize_indices(index_names=[index], num_indices_to_merge=segments)
    except (OSError, ValueError, RuntimeError) as error:
        if is_conflict(error):
            raise
        # Segments that were built apart have a quantizer each, and Lance can't merge such.
        log.warning("the %d segments of the index %r can't be merged, so it is built anew: %s", segments, index, error)
        lance.dataset(table.uri).optimize.optimize_indices(index_names=[index], retrain=True)


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
