"""For --plan: how long it would take to embed some rows, and what it would cost."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.cluster.resources import Resources
from pipelines.fetching.locations import FetchRules
from pipelines.progress import duration
from pipelines.stages.decode import decode, slots_of
from pipelines.stages.encode import EncodeActor
from pipelines.stages.fetch import fetch
from pipelines.stages.pool import Encoding
from pipelines.tables.dataset import open_dataset

ENCODED_ROWS: Final = 64
RUNS: Final = 5  # of the past, by which the speed is estimated


@dataclass(frozen=True)
class Embedding:
    """What encodes the rows, and the runs that did it before."""

    encodings: Sequence[Encoding]
    resources: Resources
    rules: FetchRules
    runs_uri: str
    options: str  # where a run of this command has its options in its configuration
    described: str  # the encoders and actors, for people

    def forecast(self, rows: int, records: Sequence[pa.Table], price_per_hour: float | None) -> list[str]:
        """Time and cost of embedding `rows`: by earlier runs or, if there are none, by encoding `records` here."""
        if not rows:
            return ["nothing to embed"]
        if speeds := self.former_speeds():
            speed, by = statistics.median(speeds), f"the median of the last {len(speeds)} runs"
        else:
            speed, by = self.measured_speed(records), "measured here, start-up not counted"
        hours = rows / speed / 3600
        took = f"{duration(rows / speed)} at {speed:,.1f} rows/s ({by}; {self.described})"
        price = price_per_hour
        cost = [] if price is None else [f"cost: {hours:,.2f} h at {price:,.2f} an hour: {hours * price:,.2f}"]
        return [f"about {rows:,} rows to embed: {took}", *cost]

    def former_speeds(self) -> list[float]:
        """Rows per second of the last runs with these encoders on as many actors of the same kind."""
        runs = open_dataset(self.runs_uri)
        if runs is None:
            return []
        columns = ["started", "rows_per_second", "configuration"]
        done = runs.to_table(columns=columns, filter="rows_per_second IS NOT NULL").to_pylist()
        identities = [json.loads(each.identity.to_json()) for each in self.encodings]
        here = encoders_and_actors(identities, dataclasses.asdict(self.resources))
        speeds = []
        for row in sorted(done, key=lambda row: row["started"]):
            made = json.loads(row["configuration"])
            if self.options in made and encoders_and_actors(made["encoder"], made["resources"]) == here:
                speeds.append(row["rows_per_second"])
        return speeds[-RUNS:]

    def measured_speed(self, records: Sequence[pa.Table]) -> float:
        """Rows per second of decoding and encoding some records in this process, times the actors."""
        few = fetch(pa.concat_tables(records).slice(0, ENCODED_ROWS), self.rules)
        first, *others = [dataclasses.replace(each.settings, device="auto") for each in self.encodings]
        actors = [
            EncodeActor(settings, each.identity, self.resources.actors_per_node, slot)
            for settings, each, slot in zip((first, *others), self.encodings, slots_of((first, *others)), strict=True)
        ]

        def encode(some: pa.Table) -> None:
            decoded = decode(some, first, False, others)
            for actor in actors:
                decoded = actor(decoded)

        encode(few.slice(0, 1))  # what is done once is not measured
        started = time.monotonic()
        encode(few)
        return len(few) / (time.monotonic() - started) * self.resources.actors


def encoders_and_actors(
    encoders: Sequence[Mapping[str, Any]] | Mapping[str, Any], resources: Mapping[str, Any]
) -> tuple[list[str], str, int]:
    """What decides how fast a run was: its encoders, in any order, and its actors. A single encoder may stand alone."""
    each = [encoders] if isinstance(encoders, Mapping) else encoders
    return sorted(json.dumps(one, sort_keys=True) for one in each), resources["device"], resources["actors"]
