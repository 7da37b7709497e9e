"""--plan: what a run would read and embed, how long that would take and what it would cost. Nothing is written."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa

from pipelines.batch_stats import split_stats
from pipelines.embed.job import Job, configuration, describe_encoder
from pipelines.embed.tables import schema_of
from pipelines.gates.reject_rate import name_reasons
from pipelines.ingest.manifest import RowChecksum, row_checksum_by_file
from pipelines.progress import duration
from pipelines.records import REASON, embeddable
from pipelines.sources.units import Unit
from pipelines.stages.decode import decode, slots_of
from pipelines.stages.encode import EncodeActor
from pipelines.stages.fetch import fetch
from pipelines.stages.read import Task, read_and_select
from pipelines.stages.select import Snapshot, file_hashes
from pipelines.tables.dataset import TableVersion, open_dataset

PROBED_UNITS = 4  # of new files, and as many of changed ones
PROBED_ROWS = 1_000  # of each of them
ENCODED_ROWS = 64
RUNS = 5  # of the past, by which the speed is estimated


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
    return Plan([*lines, *forecast(job, round(to_embed), records)])


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


def forecast(job: Job, rows: int, records: list[pa.Table]) -> list[str]:
    """Time and cost of embedding `rows`: by earlier runs or, if there are none, by encoding `records` here."""
    if not rows:
        return ["nothing to embed"]
    speeds = former_speeds(job)
    if speeds:
        speed, by = statistics.median(speeds), f"the median of the last {len(speeds)} runs"
    else:
        speed, by = measured_speed(job, records), "measured here, start-up not counted"
    hours = rows / speed / 3600
    took = f"{duration(rows / speed)} at {speed:,.1f} rows/s ({by}; {describe_encoder(job)})"
    price = job.config.price_per_hour
    cost = [] if price is None else [f"cost: {hours:,.2f} h at {price:,.2f} an hour: {hours * price:,.2f}"]
    return [f"about {rows:,} rows to embed: {took}", *cost]


def former_speeds(job: Job) -> list[float]:
    """Rows per second of the last runs with these encoders on as many actors of the same kind."""
    runs = open_dataset(job.config.side_table("runs"))
    if runs is None:
        return []
    done = runs.to_table(columns=["started", "rows_per_second", "configuration"], filter="rows_per_second IS NOT NULL")
    here = setup_of(json.loads(json.dumps(configuration(job))))
    rows = sorted(done.to_pylist(), key=lambda row: row["started"])
    return [row["rows_per_second"] for row in rows if setup_of(json.loads(row["configuration"])) == here][-RUNS:]


def setup_of(made: Mapping[str, Any]) -> tuple[list[str], str, int] | None:
    """The encoders of a run, in any order, and its actors, by its configuration; None if it was no run of `embed`."""
    if not made.keys() >= {"options", "encoder", "resources"}:
        return None
    encoders = made["encoder"] if isinstance(made["encoder"], list) else [made["encoder"]]
    resources = made["resources"]
    return sorted(json.dumps(each, sort_keys=True) for each in encoders), resources["device"], resources["actors"]


def measured_speed(job: Job, records: list[pa.Table]) -> float:
    """Rows per second of decoding and encoding some records in this process, times the actors."""
    first, *others = [dataclasses.replace(each.settings, device="auto") for each in job.kept]
    few = fetch(pa.concat_tables(records).slice(0, ENCODED_ROWS), job.rules)
    actors = [
        EncodeActor(settings, each.column.identity, job.resources.actors_per_node, slot)
        for settings, each, slot in zip((first, *others), job.kept, slots_of((first, *others)), strict=True)
    ]

    def encode(some: pa.Table) -> None:
        decoded = decode(some, first, False, others)
        for actor in actors:
            decoded = actor(decoded)

    encode(few.slice(0, 1))  # what is done once is not measured
    started = time.monotonic()
    encode(few)
    return len(few) / (time.monotonic() - started) * job.resources.actors
