"""--plan: what a run would read and embed, how long that would take and what it would cost. Nothing is written."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from dataclasses import dataclass

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.job import Job, name_encoder
from pipelines.progress import duration
from pipelines.records import TALLY, alive
from pipelines.sink.read_objects import Held, held
from pipelines.sink.table import TableVersion, open_dataset, table_uri
from pipelines.stages.decode import decode
from pipelines.stages.encode import EncodeActor
from pipelines.stages.fetch import fetch
from pipelines.stages.read import read_and_select
from pipelines.stages.select import Against, names_digest

PROBED_UNITS = 4  # of each kind
PROBED_ROWS = 1_000  # of each of them
ENCODED_ROWS = 64
RUNS = 5  # of the past, by which the speed is judged


@dataclass(frozen=True)
class Probe:
    """What a look at some units told."""

    read: int
    to_embed: int
    records: list[pa.Table]  # some of those to embed


@dataclass(frozen=True)
class Plan:
    """What there is to do."""

    lines: list[str]

    def __str__(self) -> str:
        """For people."""
        return "\n".join(self.lines)


def plan(job: Job) -> Plan:
    """What a run of `job` would do, by the listing, by the ids of some records, and by the speed of former runs."""
    existing = open_dataset(table_uri(job.config.db, job.config.table))
    if existing is None:
        with tempfile.TemporaryDirectory() as folder:
            return plan_against(job, lance.write_dataset(job.schema.empty_table(), f"{folder}/empty.lance"))
    return plan_against(job, existing)


def plan_against(job: Job, table: lance.LanceDataset) -> Plan:
    """The same, with a table to look records up in."""
    base = TableVersion(table.uri, table.version)
    there = held(base)
    known = [unit for unit in job.units if any(name in there for name in job.objects_of(unit))]
    new = [unit for unit in job.units if not any(name in there for name in job.objects_of(unit))]
    lines = [*objects_line(job, there), *gone_line(job, there)]
    to_embed = 0.0
    records: list[pa.Table] = []
    for units, which in ((new, "in new objects"), (known, "in objects that changed, or were not read in full")):
        if rows := sum(unit["rows"] for unit in units):
            probe = look_at(job, units, base)
            share = probe.to_embed / max(1, probe.read)
            to_embed, records = to_embed + share * rows, records + probe.records
            lines.append(
                f"{'' if job.exact else 'about '}{rows:,} rows {which}, {share:.1%} of them to embed, as far as "
                f"{probe.read:,} rows tell"
            )
    return Plan([*lines, *forecast(job, round(to_embed), records)])


def objects_line(job: Job, there: dict[str, Held]) -> list[str]:
    """What is read and what is not."""
    reading = [item for name, item in job.objects.items() if name not in job.skipped]
    new = sum(name not in there for name in job.objects if name not in job.skipped)
    every = sum(item.size for item in job.objects.values())
    return [
        f"{job.config.table}: {len(reading):,} of {len(job.objects):,} objects to read ({new:,} of them new), "
        f"{sum(item.size for item in reading) / 1e6:,.1f} of {every / 1e6:,.1f} MB; {len(job.skipped):,} are as they "
        f"were, with {sum(row['rows'] for row in job.skipped.values()):,} rows"
    ]


def gone_line(job: Job, there: dict[str, Held]) -> list[str]:
    """What is no longer listed."""
    gone = [number for name, number in there.items() if name not in job.objects and job.owns(name)]
    rows = sum(each.rows for each in gone)
    return [f"{len(gone):,} objects are gone, of which the table has {rows:,} rows"] if gone else []


def look_at(job: Job, units: list[dict], base: TableVersion) -> Probe:
    """Select from the first records of some units, evenly spaced, as a run would."""
    against = Against(base, names_digest(job.objects), names_digest(job.skipped))
    read = to_embed = 0
    records = []
    for unit in units[:: max(1, len(units) // PROBED_UNITS)][:PROBED_UNITS]:
        task = json.dumps({"unit": unit, "ended": [], "mark": job.name("")})
        stop = read + PROBED_ROWS
        for table in read_and_select({"task": [task]}, job.source.without_listing(), job.rules, 1.0, against):
            tallies = table.filter(pc.is_valid(table[TALLY]))[TALLY].to_pylist()
            read += sum(share["read"] for tally in tallies for share in tally["objects"])
            live = table.filter(pa.array(alive(table), pa.bool_()))
            to_embed += len(live)
            records.append(live.slice(0, ENCODED_ROWS))
            if read >= stop:
                break
    return Probe(read, to_embed, records)


def forecast(job: Job, rows: int, records: list[pa.Table]) -> list[str]:
    """Time and cost of embedding `rows`, by former runs or, where there are none, by encoding `records` here."""
    if not rows:
        return ["nothing to embed"]
    speeds = former_speeds(job)
    if speeds:
        speed, by = statistics.median(speeds), f"the median of the last {len(speeds)} runs"
    else:
        speed, by = measured_speed(job, records), "measured here, start-up not counted"
    hours = rows / speed / 3600
    took = f"{duration(rows / speed)} at {speed:,.1f} rows/s ({by}; {name_encoder(job)})"
    price = job.config.price_per_hour
    cost = [] if price is None else [f"cost: {hours:,.2f} h at {price:,.2f} an hour: {hours * price:,.2f}"]
    return [f"about {rows:,} rows to embed: {took}", *cost]


def former_speeds(job: Job) -> list[float]:
    """Rows per second of the last runs with this encoder on as many actors of the same kind."""
    runs = open_dataset(table_uri(job.config.db, f"{job.config.table}_runs"))
    if runs is None:
        return []
    done = runs.to_table(columns=["started", "rows_per_second", "configuration"], filter="rows_per_second IS NOT NULL")
    here = (json.loads(job.identity.to_json()), job.resources.device, job.resources.actors)
    speeds = []
    for row in sorted(done.to_pylist(), key=lambda row: row["started"]):
        made = json.loads(row["configuration"])
        if (made["encoder"], made["resources"]["device"], made["resources"]["actors"]) == here:
            speeds.append(row["rows_per_second"])
    return speeds[-RUNS:]


def measured_speed(job: Job, records: list[pa.Table]) -> float:
    """Rows per second of decoding and encoding some records in this process, times the actors."""
    settings = dataclasses.replace(job.settings, device="auto")
    few = fetch(pa.concat_tables(records).slice(0, ENCODED_ROWS), job.rules)
    actor = EncodeActor(settings, job.identity, job.resources.actors_per_node)
    actor(decode(few.slice(0, 1), settings, False))  # what is done once
    started = time.monotonic()
    actor(decode(few, settings, False))
    return len(few) / (time.monotonic() - started) * job.resources.actors
