"""The runs of the past, from `NAME_runs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipelines.tables.dataset import open_dataset

NIGHTS: Final = 30
WITHOUT_ROWS: Final = ("index", "rollback", "switch", "drop_column")  # commands that read no records
EMBEDDED: Final = "configuration IS NULL OR NOT ({})".format(
    " OR ".join(f"""starts_with(configuration, '{{"{command}":')""" for command in WITHOUT_ROWS)
)
COLUMNS: Final = (
    *("run", "status", "started", "heartbeat", "finished", "read", "written", "rewritten", "unchanged", "rejected"),
    *("missing", "published_version", "rows_per_second", "error", "forecast_seconds"),
)


@dataclass(frozen=True)
class Night:
    """A run of the past."""

    run: str
    status: str
    started: datetime | None
    ended: datetime | None
    read: int
    written: int
    rejected: int
    missing: int
    published: int | None
    rows_per_second: float | None
    error: str | None
    forecast_seconds: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Night:
        """A row of `NAME_runs`."""
        numbers = {name: row[name] or 0 for name in ("read", "written", "rejected", "missing")}
        return cls(
            run=row["run"],
            status=row["status"],
            started=row["started"],
            ended=row["finished"] or row["heartbeat"],
            published=row["published_version"],
            rows_per_second=row["rows_per_second"],
            error=row["error"],
            forecast_seconds=row.get("forecast_seconds"),
            **numbers,
        )

    @property
    def minutes(self) -> float | None:
        """How long it took, by the clock of its machine."""
        if self.started is None or self.ended is None:
            return None
        return max(0.0, (self.ended - self.started).total_seconds() / 60)

    @property
    def deviation_percent(self) -> float | None:
        """How much longer than forecast it took, if it was done; negative if it took less."""
        if self.status != "done" or self.minutes is None or not self.forecast_seconds:
            return None
        return 100 * (60 * self.minutes / self.forecast_seconds - 1)

    @property
    def reject_percent(self) -> float | None:
        """Rejected records among those that were read."""
        return 100 * self.rejected / self.read if self.read else None


def read_nights(uri: str) -> list[Night]:
    """The last runs that embedded, oldest first: what another command took says nothing of a night."""
    runs = open_dataset(uri)
    if runs is None:
        return []
    columns = [name for name in COLUMNS if name in runs.schema.names]  # earlier versions forecast nothing
    rows = runs.to_table(columns, filter=EMBEDDED).sort_by([("run", "descending")]).slice(0, NIGHTS)
    return [Night.of(row) for row in rows.to_pylist()][::-1]
