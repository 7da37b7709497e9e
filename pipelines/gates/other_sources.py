"""Gate: rows of the table's other sources, which the canary of this run can't read, were judged by a run of theirs."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence
from pipelines.records import ID, OBJECT, RUN
from pipelines.tables.dataset import SCAN

NAME = "other sources"


def other_sources(evidence: Evidence) -> Verdict:
    """No row that would be published is of another source and of a run that no run of that source has judged."""
    judged = pa.array(sorted(evidence.runs.judged(NAME)) if evidence.runs else [], pa.string())
    columns = [ID, evidence.column.fingerprint, RUN, OBJECT]
    scanner = evidence.table.scanner(columns, fragments=evidence.fresh, **SCAN)
    for batch in scanner.to_batches() if evidence.fresh else ():
        rows = pa.Table.from_batches([batch])
        # Rows that other clients wrote are of no source and of no run; other gates judge them.
        suspects = rows.filter(pc.and_(pc.invert(pc.is_in(rows[RUN], judged)), pc.is_valid(rows[RUN]))).drop_null()
        others = [file for file in pc.unique(suspects[OBJECT]).to_pylist() if not evidence.owns(file)]
        suspects = suspects.filter(pc.is_in(suspects[OBJECT], pa.array(others, pa.string())))
        unpublished = suspects.filter(pa.array(evidence.unpublished(suspects.drop([OBJECT])), pa.bool_()))
        for row in unpublished.slice(0, 1).to_pylist():
            return Verdict(
                NAME,
                False,
                f"{row[ID]!r} and maybe others of {row[OBJECT]} were written by run {row[RUN]}, which did not pass its "
                "gates or never came to them. Run the job for that source: if its rows pass, they are published with "
                "those of this run",
            )
    return Verdict(NAME, True, "every new row of another source passed the gates of a run of that source")
