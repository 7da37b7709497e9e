"""--plan: what a run would do, how long that would take and what it would cost. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import lance
import pyarrow as pa

from pipelines.backfill.finished import Finished
from pipelines.backfill.job import OPTIONS, Job
from pipelines.backfill.parked import Parked
from pipelines.backfill.rounds import unfinished
from pipelines.backfill.select import Targets, read_and_select, task_of
from pipelines.batch_stats import split_stats
from pipelines.forecast import ENCODED_ROWS, Embedding
from pipelines.gates.reject_rate import name_reasons
from pipelines.records import REASON, embeddable

PROBED_UNITS = 4
PROBED_ROWS = 1_000  # of all of them


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
    embedding = Embedding(
        job.encodings, job.resources, job.rules, job.config.side_table("runs"), OPTIONS, described=str(job)
    )
    return Plan([*lines, *embedding.forecast(to_embed, records, job.config.price_per_hour)])


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
