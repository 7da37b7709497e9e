"""The vector index of a table: built, measured, and exchanged for the one that searches use; the lease is held.

The new index is measured in a version that nobody else sees. Then its setting is stored, under the name of the index,
which is new, too; then it takes the place of the old one, in one step. So every version of the table has an index with
the setting that was measured with it, or none.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

import lance
from lance.dataset import Index

from pipelines.cluster.calls import Workers
from pipelines.events import Events, IndexExchanged, IndexMeasured, SettingStored
from pipelines.index.build import Build, build, named
from pipelines.index.choose import Choice, Vectors
from pipelines.index.measure import QUERIES, Measurement, Searched, measure_index
from pipelines.index.pieces import Pieces, files_of
from pipelines.signals import deferred
from pipelines.tables.dataset import TableVersion
from pipelines.tables.lease import Lease
from pipelines.tables.search_setting import SearchSetting, vector_indexes
from pipelines.tables.transactions import CommitConflictError, detached_with_index, exchange_index
from pipelines.tables.upkeep import UpkeepError
from vista_core import VistaError

ATTEMPTS: Final = 3  # to build an index while other writers move the rows that it has

log = logging.getLogger(__name__)


class RecallError(VistaError):
    """No setting of a new index reaches the recall that was asked for, so the index is not used."""

    exit_code = 3


@dataclass(frozen=True)
class Target:
    """What is built, and for whom."""

    uri: str
    column: str
    recall: float
    lease: Lease
    pieces: Pieces
    workers: Workers = field(repr=False)
    events: Events = field(repr=False)
    queries: int = QUERIES  # with which the index is measured


def vectors_of(table: lance.LanceDataset, column: str) -> Vectors:
    """What the choice of an index depends on. The metric is that of an index that the column has, else cosine."""
    names = vector_indexes(table, column)
    details = [index.details for index in table.describe_indices() if index.name in names]
    metrics = [each["metric_type"].lower() for each in details if "metric_type" in each]
    return Vectors(
        rows=table.count_rows(),
        dimension=table.schema.field(column).type.list_size,
        on_a_store="://" in table.uri and not table.uri.startswith("file://"),
        metric=metrics[0] if metrics else "cosine",
    )


def build_vector_index(target: Target, choice: Choice) -> Measurement:
    """Build the vector index, measure it, and exchange it for those that the column has.

    If other writers move the rows that it has meanwhile, what is lost of it is built again.
    """
    name = f"{target.column}_{target.lease.run}"
    for _ in range(ATTEMPTS):
        table = lance.dataset(target.uri)
        target.lease.check(table)
        vectors = vectors_of(table, target.column)
        plan = Build(TableVersion(table.uri, table.version), target.column, vectors, choice)
        index = named(build(plan, target.pieces, target.workers, target.events), name)
        with detached_with_index(table, index, vector_indexes(table, target.column)) as hidden:
            if rows_moved(table, hidden):
                continue
            searched = Searched(TableVersion(table.uri, hidden.version), target.column, vectors.metric)
            measurement = measure_index(searched, choice.partitions, target.recall, target.workers, target.queries)
        chosen = measurement.swept.chosen
        target.events.report(IndexMeasured(measurement.swept.settings, chosen))
        if chosen is None:
            target.pieces.drop()
            raise RecallError(refusal(target, measurement))
        setting = setting_of(name, measurement, target.recall, vectors.metric)
        if exchange(target, plan, index, setting):
            target.pieces.drop()
            return measurement
    raise UpkeepError(
        f"{target.uri}: other writers moved its rows {ATTEMPTS} times while the index was built. Stop them, and run "
        "the same command again"
    )


def setting_of(name: str, measurement: Measurement, recall: float, metric: str) -> SearchSetting:
    """What is stored of a measurement that reached `recall`."""
    chosen, filtered = measurement.swept.chosen, measurement.filtered
    assert chosen is not None and filtered is not None, "the recall was reached"
    return SearchSetting(
        index=name,
        nprobes=chosen.nprobes,
        refine_factor=chosen.refine_factor,
        recall=recall,
        measured=chosen.recall,
        metric=metric,
        filtered_nprobes=filtered.nprobes,
        filtered_refine_factor=filtered.refine_factor,
        filtered_measured=filtered.recall,
    )


def rows_moved(built_on: lance.LanceDataset, later: lance.LanceDataset) -> bool:
    """True if rows of a version are elsewhere in a later one, so that an index of the former has them no more."""
    now = files_of(later)
    moved = any(now.get(fragment) != names for fragment, names in files_of(built_on).items())
    if moved:
        log.warning("%s: other writers moved rows while the index was built, so a part is built anew", later.uri)
    return moved


@deferred()
def exchange(target: Target, built: Build, index: Index, setting: SearchSetting) -> bool:
    """Store the setting, and then exchange the index; False if the rows that it has are no longer where they were."""
    try:
        latest = lance.dataset(target.uri)
        target.lease.check(latest)
        setting.store(latest)
        target.events.report(SettingStored())
        latest = lance.dataset(target.uri)
        target.lease.check(latest)
        if rows_moved(built.table.open(), latest):
            return False
        exchange_index(latest, index, vector_indexes(latest, target.column))
    except CommitConflictError as conflict:
        log.warning("another writer committed to %s, building the index on its version: %s", target.uri, conflict)
        return False
    target.events.report(IndexExchanged())
    return True


def refusal(target: Target, measurement: Measurement) -> str:
    """What was reached instead of the recall that was asked for."""
    best = max(measurement.swept.settings, key=lambda each: each.recall)
    return (
        f"{target.uri}: the index does not reach --recall {target.recall:g}: the most is a recall@10 of "
        f"{best.recall:.3f}, at nprobes {best.nprobes} and refine factor {best.refine_factor}. Searches go on as "
        "before. Ask for less, or choose another --kind"
    )
