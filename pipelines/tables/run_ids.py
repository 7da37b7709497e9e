"""Run ids: each is greater than every id before it, whatever the clocks say.

Strings that begin with the time, such as `20260102T030405000006-ab12`. Which of two runs held the table later decides
which rejects are stale, which entry of the manifest counts, and which vectors are of the latest encoder. So a run gets
its id when it takes the lease (`tables/lease.py`), above all ids that the table and `NAME_runs` know.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import RUN
from pipelines.tables.dataset import SCAN, quoted

RUN_ID: Final = "^[0-9]{8}T[0-9]{12}-[0-9a-f]{4}$"


def next_run_id(now: datetime, ids: Iterable[str]) -> str:
    """An id above all of `ids`: of the time `now` or, if one of them is of a later time, the next after the greatest.

    Strings that are no run ids are ignored: other writers may put anything into `_run`.
    """
    digits = f"{now:%Y%m%d%H%M%S%f}"
    greatest = max(filter(re.compile(RUN_ID).match, ids), default="")
    earlier = greatest[:8] + greatest[9:21]
    if earlier >= digits:
        digits = f"{int(earlier) + 1:020}"  # sorts correctly, and need not be a time that exists
    return f"{digits[:8]}T{digits[8:]}-{secrets.token_hex(2)}"


def greatest_run(table: lance.LanceDataset) -> str:
    """The greatest run id in the column `_run`; empty if there is none. A scan: 0.1 s for a million rows.

    Tables that vista didn't make have no such column, or something else in it.
    """
    greatest = ""
    if RUN not in table.schema.names or table.schema.field(RUN).type != pa.string():
        return greatest
    for batch in table.scanner(columns=[RUN], **SCAN).to_batches():
        runs = pc.unique(batch.column(RUN))
        greatest = max(greatest, pc.max(runs.filter(pc.match_substring_regex(runs, RUN_ID))).as_py() or "")
    return greatest


def is_since(runs: pa.ChunkedArray, since: str) -> pa.ChunkedArray:
    """bool [N]: which of some values of `_run` are of the run `since` or a later one.

    False for what other writers put there. With an empty `since`, true for every value but null.
    """
    if not since:
        return runs.is_valid()
    later = pc.and_(pc.greater_equal(runs, since), pc.match_substring_regex(runs, RUN_ID))
    return pc.fill_null(later, False)


def older_than(since: str) -> str:
    """SQL: the rows of which `is_since` is false."""
    return f"({RUN} IS NULL OR {RUN} < {quoted(since)} OR NOT regexp_like({RUN}, {quoted(RUN_ID)}))"
