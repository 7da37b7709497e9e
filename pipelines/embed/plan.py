"""--plan: what a run would read and embed, how long that would take and what it would cost. Nothing is written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lance
import pyarrow as pa

from pipelines.batch_stats import split_stats
from pipelines.embed.job import OPTIONS, Job, describe_encoder
from pipelines.embed.tables import schema_of
from pipelines.forecast import ENCODED_ROWS, Embedding
from pipelines.gates.reject_rate import name_reasons
from pipelines.ingest.manifest import RowChecksum, row_checksum_by_file
from pipelines.records import REASON, embeddable
from pipelines.sources.units import Unit
from pipelines.stages.pool import Encoding
from pipelines.stages.read import Task, read_and_select
from pipelines.stages.select import Snapshot, file_hashes
from pipelines.tables.dataset import TableVersion

PROBED_UNITS = 4  # of new files, and as many of changed ones
PROBED_ROWS = 1_000  # of each of them


@dataclass(frozen=True)
class Probe:
    """What some units hold."""

    read: int
    to_embed: int
    reasons: Counter[str]  # of those that are rejected before any image is decoded
    records: list[pa.Table]  # some of those to embed


@dataclass(frozen=True)
class Plan:
    """What there is to do, in lines for people."""

    lines: list[str]

    def __str__(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def plan(job: Job, existing: lance.LanceDataset | None) -> Plan:
    """What a run of `job` would do: from the listing, a sample of the records, and the speed of earlier runs."""
    if existing is None:
        with tempfile.TemporaryDirectory() as folder:
            empty = schema_of(job).empty_table()
            return plan_against(job, lance.write_dataset(empty, f"{folder}/empty.lance"))
    return plan_against(job, existing)


def plan_against(job: Job, table: lance.LanceDataset) -> Plan:
    """The same, with a table in which records are looked up."""
    base = TableVersion(table.uri, table.version)
    held = row_checksum_by_file(base, job.column.fingerprint)
    known = [unit for unit in job.units if any(name in held for name in job.files_of(unit))]
    new = [unit for unit in job.units if not any(name in held for name in job.files_of(unit))]
    lines = [files_line(job, held), *gone_line(job, held)]
    to_embed = 0.0
    records: list[pa.Table] = []
    for units, which in ((new, "in new files"), (known, "in files that changed or were not read in full")):
        if rows := sum(unit.rows for unit in units):
            probe = look_at(job, units, base)
            share = probe.to_embed / max(1, probe.read)
            to_embed, records = to_embed + share * rows, records + probe.records
            lines.append(
                f"{'' if job.exact else 'about '}{rows:,} rows {which}; {share:.1%} of them to embed, by a sample of "
                f"{probe.read:,} rows"
            )
            if probe.reasons:
                lines.append(f"rejected in this sample, before images are decoded: {name_reasons(probe.reasons)}")
    encodings = [Encoding(each.settings, each.column.identity) for each in job.kept]
    described, runs = describe_encoder(job), job.config.side_table("runs")
    embedding = Embedding(encodings, job.resources, job.rules, runs, OPTIONS, described)
    return Plan([*lines, *embedding.forecast(round(to_embed), records, job.config.price_per_hour)])


def files_line(job: Job, held: Mapping[str, RowChecksum]) -> str:
    """What is read and what is skipped."""
    reading = [file for name, file in job.files.items() if name not in job.skipped]
    new = sum(name not in held for name in job.files if name not in job.skipped)
    every = sum(file.size for file in job.files.values())
    return (
        f"{job.config.table}: {len(reading):,} of {len(job.files):,} files to read ({new:,} of them new), "
        f"{sum(file.size for file in reading) / 1e6:,.1f} of {every / 1e6:,.1f} MB; skipped, unchanged: "
        f"{len(job.skipped):,} files, {sum(entry.held.rows for entry in job.skipped.values()):,} rows"
    )


def gone_line(job: Job, held: Mapping[str, RowChecksum]) -> list[str]:
    """What is no longer listed."""
    gone = [rows for name, rows in held.items() if job.is_gone(name)]
    rows = sum(each.rows for each in gone)
    return [f"{len(gone):,} files are gone, of which the table has {rows:,} rows"] if gone else []


def look_at(job: Job, units: Sequence[Unit], base: TableVersion) -> Probe:
    """Select from the first records of some units, evenly spaced, as a run would."""
    snapshot = Snapshot(base, job.column, file_hashes(job.files), file_hashes(job.skipped), others=job.others)
    read = to_embed = 0
    reasons: Counter[str] = Counter()
    records = []
    for unit in units[:: max(1, len(units) // PROBED_UNITS)][:PROBED_UNITS]:
        batch = {"task": [Task(unit, job.mark).row()["task"]]}
        stop = read + PROBED_ROWS
        for table in read_and_select(batch, job.source.without_listing(), job.rules, snapshot):
            found, stats = split_stats(table)
            read += sum(file.read for each in stats for file in each.files)
            reasons.update(found[REASON].drop_null().to_pylist())
            found = found.filter(pa.array(embeddable(found), pa.bool_()))
            to_embed += len(found)
            records.append(found.slice(0, ENCODED_ROWS))
            if read >= stop:
                break
    return Probe(read, to_embed, reasons, records)
