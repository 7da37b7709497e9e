"""The lines that end a run of `index`, or its JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from pipelines.events import MeasuredSetting
from pipelines.index.choose import Choice
from pipelines.index.config import IndexConfig
from pipelines.index.measure import Measurement
from pipelines.index.scalar import ScalarIndex


@dataclass(frozen=True)
class Indexed:
    """What was built, and what it is worth."""

    config: IndexConfig
    choice: Choice
    scalar: list[ScalarIndex]
    measurement: Measurement | None  # None without a vector index
    version: int  # that readers see
    is_published: bool | None  # whether that has the indexes; None for a table that was never published
    seconds: float
    postponed: str | None = None  # what is left for a later run
    report: str | None = None  # where the page is, if one was written

    def __str__(self) -> str:
        """For people, or as JSON."""
        if self.config.json:
            return json.dumps(self.as_json, ensure_ascii=False)
        lines = [f"{self.config.table}: {self.choice}"]
        if self.measurement is not None:
            lines += measured(self.measurement, self.config.recall)
        lines.append(f"other indexes: {', '.join(map(str, self.scalar)) or 'none, without a text or an id'}")
        if self.postponed:
            lines.append(f"left for a later run: {self.postponed}")
        lines.append(f"{self.seconds:.0f} s; {self.outcome}")
        if self.report is not None:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)

    @property
    def outcome(self) -> str:
        """What readers see now."""
        uri = self.config.table_uri
        if self.is_published is None:
            return f"the indexes are in the latest version of {uri}, {self.version}"
        if self.is_published:
            return f"published version {self.version} of {uri}"
        return (
            f"version {self.version} of {uri} stays published: the latest one has other rows, which are published with "
            "the indexes by the next `vista embed` that comes through its gates"
        )

    @property
    def as_json(self) -> dict[str, Any]:
        """The same as values."""
        measurement, chosen = self.measurement, None
        if measurement is not None and measurement.swept.chosen is not None:
            chosen = dataclasses.asdict(measurement.swept.chosen)
        return {
            "table": self.config.table_uri,
            "column": self.config.column,
            "kind": self.choice.kind,
            "reason": self.choice.reason,
            "partitions": self.choice.partitions,
            "bits": self.choice.bits,
            "other_indexes": {each.column: each.kind for each in self.scalar},
            "setting": chosen,
            "measurement": None if measurement is None else dataclasses.asdict(measurement),
            "version": self.version,
            "published": self.is_published,
            "seconds": round(self.seconds, 3),
            "postponed": self.postponed,
            "report": self.report,
        }


def measured(measurement: Measurement, recall: float) -> list[str]:
    """Recall and latency of the chosen setting, and those of the others."""
    swept, chosen = measurement.swept, measurement.swept.chosen
    assert chosen is not None, "without a setting there is no result"
    stored = f" and {measurement.stored} stored queries" if measurement.stored else ""
    lines = [
        f"measured with {measurement.sampled} rows{stored} against exact search, which takes {swept.exact_ms:.1f} ms:",
        *("  " + setting_line(each) for each in swept.settings),
        f"stored, as the fastest with a recall of {recall:g}: {setting_line(chosen)}",
    ]
    if measurement.filtered is not None:
        lines.append(f"with a filter that keeps 1 % of the rows: {setting_line(measurement.filtered)}")
    return lines


def setting_line(each: MeasuredSetting) -> str:
    """A measured setting."""
    refine = f"refine factor {each.refine_factor}" if each.refine_factor else "no refine"
    latency = f"p50 {each.p50_ms:.1f} ms, p95 {each.p95_ms:.1f} ms"
    return f"nprobes {each.nprobes}, {refine}: recall@10 {each.recall:.3f}, {latency}"
