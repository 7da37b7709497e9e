"""Index a table: the whole run, from the options to the version that readers see."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import lance

from pipelines.cluster.calls import Workers, in_this_process, one
from pipelines.cluster.session import start_ray
from pipelines.cluster.tasks import as_completed
from pipelines.events import Events, Listener, Publishing
from pipelines.index.choose import Choice, choose
from pipelines.index.config import IndexConfig
from pipelines.index.measure import QUERIES
from pipelines.index.pieces import Pieces
from pipelines.index.progress import log_step
from pipelines.index.report import IndexReport
from pipelines.index.result import Indexed
from pipelines.index.scalar import ScalarIndex, build_scalar_index, cover_rows, is_there, scalar_indexes
from pipelines.index.vector import Target, build_vector_index, vectors_of
from pipelines.report.destination import absolute_option
from pipelines.report.write import reporting, write_at_the_end
from pipelines.storage.uris import absolute
from pipelines.tables.dataset import open_dataset, published
from pipelines.tables.default_column import default_column, searched_column
from pipelines.tables.lease import hold
from pipelines.tables.publish import publish, same_content, same_rows
from pipelines.tables.runs import RunRecord, Runs
from pipelines.tables.upkeep import UpkeepError, postponing
from pipelines.tables.vector_column import vector_columns
from vista_core import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a run is made of beside its options: tests and benchmarks listen, or do without Ray."""

    listeners: Sequence[Listener] = ()
    workers: Workers | None = None  # default: those of Ray
    choice: Choice | None = None  # default: as `choose` says
    queries: int = QUERIES


def index_table(config: IndexConfig, setup: Setup = Setup()) -> Indexed:
    """Build the indexes of a table, measure that on the vectors and, if the table is published, publish them.

    Raises UsageError before anything is written, RecallError if no setting reaches the recall, and VistaError when a
    run fails. Then searches go on with the index that they had, and the same command continues the build.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    config = dataclasses.replace(config, db=absolute(config.db), report=absolute_option(config.report))
    seen = open_table(config)
    column = choose_column(seen, config.column)
    choice = setup.choice or choose(vectors_of(seen, column), config.kind)
    log.info("%s: %s", config.table_uri, choice)
    workers = setup.workers or (in_this_process if choice.kind is None else as_completed)
    if workers is as_completed:
        start_ray()
    runs, pieces = Runs(config.side_table("runs")), Pieces(config.side_table("index_build"))
    check_side_tables(runs, pieces)
    with (
        reporting(IndexReport(config, column, began)) as report,
        hold(seen, runs, config.take_over) as (table, lease),
        RunRecord(runs.uri, lease.run, started, {"index": dataclasses.asdict(config)}).running() as record,
        lease.explaining_failures(table.uri),
    ):
        record.mark_abandoned()
        report.run = lease.run
        events = Events([record, report, log_step, *setup.listeners])
        target = Target(table.uri, column, config.recall, lease, pieces, workers, events, setup.queries)
        scalar = build_scalar_indexes(target)
        measurement = None if choice.kind is None else build_vector_index(target, choice)
        postponed = cover_all(target)
        version, is_published = publish_indexes(target)
        report.version = version
        record.succeed(version, None)
    uri = write_at_the_end(report, f"the indexes of {config.table_uri} are built")
    return Indexed(
        config=dataclasses.replace(config, column=column),
        choice=choice,
        scalar=scalar,
        measurement=measurement,
        version=version,
        is_published=is_published,
        seconds=time.monotonic() - began,
        postponed=postponed,
        report=uri,
    )


def open_table(config: IndexConfig) -> lance.LanceDataset:
    """The latest version of the table. Raises UsageError if there is none."""
    table = open_dataset(config.table_uri)
    if table is None:
        raise UsageError(f"there is no table {config.table} in {config.db}")
    return table


def choose_column(table: lance.LanceDataset, asked: str | None) -> str:
    """The column of vectors: that asked for, the default, or the only one. Raises UsageError if there is none."""
    names, column = vector_columns(table.schema), asked or searched_column(table)
    if column in names:
        return str(column)
    there = f"there are {', '.join(names)}" if names else "there is none"
    raise UsageError(f"--column {asked or default_column(table)}: {table.uri} has no such column of vectors; {there}")


def check_side_tables(runs: Runs, pieces: Pieces) -> None:
    """Raise UsageError if the tables that a run needs beside the indexed one are somebody else's."""
    runs.check()
    pieces.check()


def build_scalar_indexes(target: Target) -> list[ScalarIndex]:
    """Build those of the indexes on text and id that the table lacks; all that it has then."""
    table = lance.dataset(target.uri)
    wanted = scalar_indexes(table.schema) if table.count_rows() else []
    for each in wanted:
        if not is_there(table, each):
            target.lease.check(lance.dataset(target.uri))
            one(target.workers, build_scalar_index, target.uri, each)
    return wanted


def cover_all(target: Target) -> str | None:
    """Add the rows that other writers appended meanwhile to the indexes; why that is left for a later run, if it is."""
    try:
        with postponing("the indexes lack rows of the last minutes, which searches scan"):
            target.lease.check(lance.dataset(target.uri))
            one(target.workers, cover_rows, target.uri)
    except UpkeepError as error:
        log.warning("%s: %s", target.uri, error)
        return str(error)
    return None


def publish_indexes(target: Target) -> tuple[int, bool | None]:
    """Publish the latest version if it has exactly the rows that are published, which came through the gates.

    Returns the version that readers see, and whether it has the indexes; None for a table that was never published.
    """
    latest = lance.dataset(target.uri)
    now = published(latest)
    if now is None:
        return int(latest.version), None
    before = lance.dataset(target.uri, version=now)
    if not same_rows(before, latest):
        return now, False
    if not same_content(before, latest):
        target.events.report(Publishing(latest.version))
        publish(latest, target.lease, target.events)
        now = latest.version
    return int(now), True
