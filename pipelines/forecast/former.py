"""Former runs, from `NAME_runs`: how long they took, and for what."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipelines.storage.uris import redacted_text
from pipelines.tables.dataset import open_dataset

RUNS: Final = 5  # of the past, by which the next one is forecast
SIMILAR: Final = 2.0  # the share of the records that is embedded differs by no more than this factor


@dataclass(frozen=True)
class FormerRun:
    """A run that was done."""

    seconds: float  # all of it
    read: int
    written: int  # embedded
    rows_per_second: float | None  # embedded ones, after the start-up; None for too few

    @property
    def flowing(self) -> float:
        """Seconds in which it embedded."""
        return min(self.seconds, self.written / self.rows_per_second) if self.rows_per_second else 0.0

    @property
    def around(self) -> float:
        """Seconds of start-up, gates and upkeep."""
        return self.seconds - self.flowing

    def is_similar(self, share: float) -> bool:
        """True if it says how fast a run is of which this share of the records is to be embedded.

        Where little is embedded, reading decides how fast that is.
        """
        return bool(self.rows_per_second) and self.written * SIMILAR >= share * self.read >= self.written / SIMILAR


def former_runs(runs_uri: str, configuration: Mapping[str, Any], options: str) -> list[FormerRun]:
    """The last runs of the same command with these encoders on as many actors of the same kind, oldest first.

    `configuration` is that of the run that is forecast, with the options of its command under the key `options`.
    """
    runs = open_dataset(runs_uri)
    if runs is None:
        return []
    columns = ["run", "started", "finished", "read", "written", "rows_per_second", "configuration"]
    done = runs.to_table(columns, "status = 'done' AND finished IS NOT NULL").sort_by("run").to_pylist()
    here = what_decides(json.loads(redacted_text(json.dumps(configuration))), options)
    return [
        FormerRun(
            (row["finished"] - row["started"]).total_seconds(), row["read"], row["written"], row["rows_per_second"]
        )
        for row in done
        if what_decides(json.loads(row["configuration"]), options) == here
    ][-RUNS:]


def what_decides(configuration: Mapping[str, Any], options: str) -> tuple[Any, ...] | None:
    """What decides how fast a run is: its source, encoders and actors; None for a run of another command."""
    if options not in configuration:
        return None
    given = configuration[options]
    source = given.get("source_name") or given.get("source")  # a backfill has no other source than its table
    encoders, resources = configuration["encoder"], configuration["resources"]
    each = [encoders] if isinstance(encoders, Mapping) else encoders  # a single encoder may stand alone
    sorted_encoders = sorted(json.dumps(one, sort_keys=True) for one in each)
    return source, sorted_encoders, resources["device"], resources["actors"]


def next_seconds(former: Sequence[FormerRun], rows: int) -> float | None:
    """How long a run takes that reads so many rows, if as much comes of them as before; None without former runs."""
    if not former:
        return None
    around = statistics.median(run.around for run in former)
    return around + rows * statistics.median(run.flowing / max(1, run.read) for run in former)
