"""--plan: what a run would do, how long that would take and what it would cost. Nothing is written."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import lance
import pyarrow as pa

from pipelines.backfill.finished import Finished
from pipelines.backfill.job import Job
from pipelines.backfill.parked import Parked
from pipelines.backfill.rounds import unfinished
from pipelines.backfill.select import Targets, read_and_select, task_of
from pipelines.batch_stats import split_stats
from pipelines.gates.reject_rate import name_reasons
from pipelines.progress import duration
from pipelines.records import REASON, embeddable
from pipelines.stages.decode import decode, slots_of
from pipelines.stages.encode import EncodeActor
from pipelines.stages.fetch import fetch
from pipelines.tables.dataset import open_dataset

PROBED_UNITS = 4
PROBED_ROWS = 1_000  # of all of them
ENCODED_ROWS = 64
RUNS = 5  # of the past, by which the speed is estimated


@dataclass(frozen=True)
class Plan:
    """What there is to do, in lines for people."""

    lines: list[str]

    def __str__(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def plan(job: Job, table: lance.LanceDataset) -> Plan:
    """What a run of `job` would do: from the fragments, a sample of the rows, and the speed of earlier runs."""
    there = {each.name for each in job.columns if each.name in table.schema.names}
    every = table.get_fragments()
    names = ", ".join(f"`{name}`{'' if name in there else ' (new)'}" for name in job.config.column)
    known = set() if job.config.read_all else Finished(job.config.side_table("backfilled")).digests
    fillings = job.fillings(table) if len(there) == len(job.columns) else None
    left = [each.fragment_id for each in every] if fillings is None else unfinished(table, fillings, known)
    units = job.rows.units(left)
    rows = sum(unit.rows for unit in units)
    lines = [
        f"{job.config.table}: {names}, {job.targets[0].content}: {len(left):,} of {len(every):,} fragments to look at, "
        f"{rows:,} of {table.count_rows():,} rows"
    ]
    if not rows:
        return Plan([*lines, "nothing to embed"])
    read, wanted, reasons, records = look_at(job, table, units)
    to_embed = round(rows * wanted / max(1, read))
    lines.append(f"{wanted / max(1, read):.1%} of them to embed, by a sample of {read:,} rows")
    if reasons:
        lines.append(f"rejected in this sample, before images are decoded: {name_reasons(reasons)}")
    return Plan([*lines, *forecast(job, to_embed, records)])


def look_at(job: Job, table: lance.LanceDataset, units: Sequence) -> tuple[int, int, Counter[str], list[pa.Table]]:
    """Select from the first rows of some units, evenly spaced: rows read and to embed, rejects, some records."""
    targets = Targets(job.columns, Parked.open(job.config.side_table("backfill"), job.columns))
    there = tuple(name for name in job.rows.fingerprints if name in table.schema.names)
    rows = replace(job.rows, fingerprints=there)
    read, wanted, reasons, records = 0, 0, Counter[str](), list[pa.Table]()
    chosen = units[:: max(1, len(units) // PROBED_UNITS)][:PROBED_UNITS]
    for unit in chosen:
        few = replace(unit, rows=min(unit.rows, PROBED_ROWS // len(chosen)))
        for block in read_and_select({"task": [task_of(few)["task"]]}, rows, job.rules, targets):
            found, stats = split_stats(block)
            read += sum(file.read for each in stats for file in each.files)
            reasons.update(found[REASON].drop_null().to_pylist())
            found = found.filter(pa.array(embeddable(found), pa.bool_()))
            wanted += len(found)
            records.append(found.slice(0, ENCODED_ROWS))
    return read, wanted, reasons, records


def forecast(job: Job, rows: int, records: list[pa.Table]) -> list[str]:
    """Time and cost of embedding `rows`: by earlier runs or, if there are none, by encoding `records` here."""
    if not rows:
        return ["nothing to embed"]
    if speeds := former_speeds(job):
        speed, by = statistics.median(speeds), f"the median of the last {len(speeds)} runs"
    else:
        speed, by = measured_speed(job, records), "measured here, start-up not counted"
    hours, price = rows / speed / 3600, job.config.price_per_hour
    took = f"{duration(rows / speed)} at {speed:,.1f} rows/s ({by}; {job})"
    cost = [] if price is None else [f"cost: {hours:,.2f} h at {price:,.2f} an hour: {hours * price:,.2f}"]
    return [f"about {rows:,} rows to embed: {took}", *cost]


def former_speeds(job: Job) -> list[float]:
    """Rows per second of the last runs with these encoders on as many actors of the same kind."""
    runs = open_dataset(job.config.side_table("runs"))
    if runs is None:
        return []
    done = runs.to_table(columns=["started", "rows_per_second", "configuration"], filter="rows_per_second IS NOT NULL")
    here = ([json.loads(each.identity.to_json()) for each in job.columns], job.resources.device, job.resources.actors)
    speeds = []
    for row in sorted(done.to_pylist(), key=lambda row: row["started"]):
        made = json.loads(row["configuration"])
        if (made["encoder"], made["resources"]["device"], made["resources"]["actors"]) == here:
            speeds.append(row["rows_per_second"])
    return speeds[-RUNS:]


def measured_speed(job: Job, records: list[pa.Table]) -> float:
    """Rows per second of decoding and encoding some records in this process, times the actors."""
    first, *others = [replace(each.settings, device="auto") for each in job.targets]
    few = fetch(pa.concat_tables(records).slice(0, ENCODED_ROWS), job.rules)
    slots = slots_of((first, *others))
    actors = [
        EncodeActor(each, target.column.identity, job.resources.actors_per_node, slot)
        for each, target, slot in zip((first, *others), job.targets, slots, strict=True)
    ]

    def encode(rows: pa.Table) -> None:
        rows = decode(rows, first, False, tuple(others))
        for actor in actors:
            rows = actor(rows)

    encode(few.slice(0, 1))  # what is done once is not measured
    started = time.monotonic()
    encode(few)
    return len(few) / (time.monotonic() - started) * job.resources.actors
