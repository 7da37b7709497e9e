"""--plan: what a run would read and embed, how long that would take and what it would cost. Nothing is written."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lance
import pyarrow as pa

from pipelines.batch_stats import SECONDS, measured, split_stats
from pipelines.embed.flow import pool_of
from pipelines.embed.job import OPTIONS, Job, configuration, describe_encoder
from pipelines.embed.tables import schema_of
from pipelines.forecast.embedding import Embedding, Work
from pipelines.forecast.sample import bounded, spread
from pipelines.gates.canary import canary_seconds
from pipelines.gates.reject_rate import name_reasons
from pipelines.ingest.manifest import RowChecksum, row_checksum_by_file
from pipelines.records import REASON, embeddable
from pipelines.sources.units import Unit
from pipelines.stages.pool import Stages
from pipelines.stages.read import Task, read_and_select
from pipelines.stages.select import Snapshot, file_hashes
from pipelines.tables.dataset import TableVersion


@dataclass(frozen=True)
class Probe:
    """What some units hold."""

    read: int
    to_embed: int
    reasons: Counter[str]  # of those that are rejected before any image is decoded
    records: list[pa.Table]  # some of those to embed
    seconds: float  # that reading and selecting took


@dataclass(frozen=True)
class Plan:
    """What there is to do, in lines for people."""

    lines: list[str]

    def __str__(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def plan(job: Job, existing: lance.LanceDataset | None, stages: Stages, began: float) -> Plan:
    """What a run of `job` would do: from the listing, a sample of the records, former runs, and a probe of the stages.

    `began` is when the command began, on the clock of `time.monotonic`.
    """
    startup = time.monotonic() - began
    embedding = Embedding(
        pool=pool_of(job, stages),
        canary_seconds=canary_seconds,
        runs_uri=job.config.side_table("runs"),
        configuration=configuration(job),
        options=OPTIONS,
        described=describe_encoder(job),
        price_per_hour=job.config.price_per_hour,
        startup=startup,
    )
    if existing is None:
        with tempfile.TemporaryDirectory() as folder:
            empty = schema_of(job).empty_table()
            lines, work = survey_work(job, lance.write_dataset(empty, f"{folder}/empty.lance"))
    else:
        lines, work = survey_work(job, existing)
    return Plan([*lines, *embedding.forecast(work)])


def survey_work(job: Job, table: lance.LanceDataset) -> tuple[list[str], Work]:
    """What there is to do, in lines and in numbers; records are looked up in `table`."""
    base = TableVersion(table.uri, table.version)
    held = row_checksum_by_file(base, job.column.fingerprint)
    known = [unit for unit in job.units if any(name in held for name in job.files_of(unit))]
    new = [unit for unit in job.units if not any(name in held for name in job.files_of(unit))]
    lines = [files_line(job, held), *gone_line(job, held)]
    parts: list[tuple[float, pa.Table]] = []
    read, seconds = 0, 0.0
    for units, which in (
        (new, "in files that the table has no rows of"),
        (known, "in files that changed or were not read in full"),
    ):
        if rows := sum(unit.rows for unit in units):
            probe = look_at(job, units, base)
            share = probe.to_embed / max(1, probe.read)
            parts += [(share * rows, pa.concat_tables(probe.records))] if probe.to_embed else []
            read, seconds = read + probe.read, seconds + probe.seconds
            lines.append(
                f"{'' if job.exact else 'about '}{rows:,} rows {which}; {share:.1%} of them to embed, by a sample of "
                f"{probe.read:,} rows"
            )
            if probe.reasons:
                lines.append(f"rejected in this sample, before images are decoded: {name_reasons(probe.reasons)}")
    return lines, Work(job.rows, parts, seconds / max(1, read))


def files_line(job: Job, held: Mapping[str, RowChecksum]) -> str:
    """What is read and what is skipped."""
    reading = [file for name, file in job.files.items() if name not in job.skipped]
    new = sum(name not in held for name in job.files if name not in job.skipped)
    every = sum(file.size for file in job.files.values())
    return (
        f"{job.config.table}: {len(reading):,} of {len(job.files):,} files to read "
        f"({new:,} of them without rows in the table), "
        f"{sum(file.size for file in reading) / 1e6:,.1f} of {every / 1e6:,.1f} MB; skipped, unchanged: "
        f"{len(job.skipped):,} files, {sum(entry.held.rows for entry in job.skipped.values()):,} rows"
    )


def gone_line(job: Job, held: Mapping[str, RowChecksum]) -> list[str]:
    """What is no longer listed."""
    gone = [rows for name, rows in held.items() if job.is_gone(name)]
    rows = sum(each.rows for each in gone)
    return [f"files that are gone: {len(gone):,}, of which the table has {rows:,} rows"] if gone else []


def look_at(job: Job, units: Sequence[Unit], base: TableVersion) -> Probe:
    """Select from the first records of some units, spread over all rows, as a run would."""
    snapshot = Snapshot(base, job.column, file_hashes(job.files), file_hashes(job.skipped), others=job.others)
    read = to_embed = 0
    reasons: Counter[str] = Counter()
    records, seconds = [], 0.0
    places = spread([unit.rows for unit in units])
    for number, rows in places.items():
        unit = units[number]
        first = dataclasses.replace(unit.scope, limit=min(rows, unit.scope.limit or rows))
        batch = {"task": [Task(dataclasses.replace(unit, scope=first), job.mark).row()["task"]]}
        for table in read_and_select(batch, job.source.without_listing(), job.rules, snapshot):
            seconds += sum(measured(table, SECONDS).values())
            found, stats = split_stats(table)
            read += sum(file.read for each in stats for file in each.files)
            reasons.update(found[REASON].drop_null().to_pylist())
            found = found.filter(pa.array(embeddable(found), pa.bool_()))
            to_embed += len(found)
            records.append(bounded(found, rows / sum(places.values())))
    return Probe(read, to_embed, reasons, records, seconds)
