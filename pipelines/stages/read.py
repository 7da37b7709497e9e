"""Read a unit of the source and select from it at once: most nights nearly all that is read ends here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import OBJECT, read_schema, replace_column
from pipelines.sources import Source
from pipelines.sources.excerpt import thin_out
from pipelines.stages.fetch import identify
from pipelines.stages.places import FetchRules
from pipelines.stages.select import Against, ending, select, tally_row, with_content

IDENTIFIED_ROWS = 256  # whose images may be in memory at once


def read_and_select(
    batch: dict[str, Any], source: Source, rules: FetchRules, share: float, against: Against
) -> Iterator[pa.Table]:
    """One unit, streamed: its records that need a vector, its rejects, and its tallies."""
    for task in map(json.loads, batch["task"]):
        unit, mark = task["unit"], task["mark"]
        for records, rejects in thin_out(source.read(unit), share, unit.get("limit")):
            if mark:
                named = pc.binary_join_element_wise(mark, records[OBJECT], "")
                records = replace_column(records, OBJECT, named)
            rows = IDENTIFIED_ROWS if source.elsewhere else max(1, len(records))
            for start in range(0, len(records), rows):
                bad = {row - start: reject for row, reject in rejects.items() if start <= row < start + rows}
                identified = identify(records.slice(start, rows), bad, rules)
                yield from select(*identified, source.has_ids, against)
        if not against.claims:
            yield tally_row(
                with_content(read_schema(source.extra).empty_table(), {}, [], True).schema, ending(task["ended"])
            )
