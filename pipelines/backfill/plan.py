"""--plan: what a run would do, how long that would take and what it would cost. Nothing is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import lance
import pyarrow as pa

from pipelines.backfill.finished import Finished
from pipelines.backfill.flow import Flow
from pipelines.backfill.job import OPTIONS, Job, configuration
from pipelines.backfill.parked import Parked
from pipelines.backfill.rounds import unfinished
from pipelines.backfill.select import Targets, read_and_select, task_of
from pipelines.batch_stats import SECONDS, measured, split_stats
from pipelines.forecast.embedding import Embedding, Work
from pipelines.forecast.sample import bounded, spread
from pipelines.gates.canary import canary_seconds
from pipelines.gates.reject_rate import name_reasons
from pipelines.records import REASON, embeddable
from pipelines.stages.pool import Stages


@dataclass(frozen=True)
class Plan:
    """What there is to do, in lines for people."""

    lines: list[str]

    def __str__(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Look:
    """What some units hold."""

    read: int
    wanted: int  # rows to embed
    reasons: Counter[str]  # of those that are rejected before any image is decoded
    records: list[pa.Table]  # some of those to embed
    seconds: float  # that reading and selecting took


def plan(job: Job, table: lance.LanceDataset, stages: Stages, began: float) -> Plan:
    """What a run of `job` would do: from the fragments, a sample of the rows, former runs, and a probe of the stages.

    `began` is when the command began, on the clock of `time.monotonic`.
    """
    startup = time.monotonic() - began
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
    look = look_at(job, table, units)
    share = look.wanted / max(1, look.read)
    lines.append(f"{share:.1%} of them to embed, by a sample of {look.read:,} rows")
    if look.reasons:
        lines.append(f"rejected in this sample, before images are decoded: {name_reasons(look.reasons)}")
    parts = [(share * rows, pa.concat_tables(look.records))] if look.wanted else []
    embedding = Embedding(
        pool=Flow(job.rows, job.rules, job.encodings, job.resources, stages).pool,
        canary_seconds=canary_seconds,
        runs_uri=job.config.side_table("runs"),
        configuration=configuration(job),
        options=OPTIONS,
        described=str(job),
        price_per_hour=job.config.price_per_hour,
        startup=startup,
    )
    return Plan([*lines, *embedding.forecast(Work(rows, parts, look.seconds / max(1, look.read)))])


def look_at(job: Job, table: lance.LanceDataset, units: Sequence) -> Look:
    """Select from the first rows of some units, spread over all rows, as a run would."""
    targets = Targets(job.columns, Parked.open(job.config.side_table("backfill"), job.columns))
    there = tuple(name for name in job.rows.fingerprints if name in table.schema.names)
    rows = replace(job.rows, fingerprints=there)
    read, wanted, reasons, records, seconds = 0, 0, Counter[str](), list[pa.Table](), 0.0
    places = spread([unit.rows for unit in units])
    for number, few_rows in places.items():
        few = replace(units[number], rows=few_rows)
        for block in read_and_select({"task": [task_of(few)["task"]]}, rows, job.rules, targets):
            seconds += sum(measured(block, SECONDS).values())
            found, stats = split_stats(block)
            read += sum(file.read for each in stats for file in each.files)
            reasons.update(found[REASON].drop_null().to_pylist())
            found = found.filter(pa.array(embeddable(found), pa.bool_()))
            wanted += len(found)
            records.append(bounded(found, few_rows / sum(places.values())))
    return Look(read, wanted, reasons, records, seconds)
