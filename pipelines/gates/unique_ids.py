"""Gate: no id is in the table twice."""

from __future__ import annotations

import tempfile
from typing import Any

import duckdb

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence
from pipelines.records import ID
from pipelines.tables.dataset import SCAN, TableVersion

MEMORY = "512MB"  # of the search for duplicates; DuckDB keeps the rest on disk
EXAMPLES = 3


def unique_ids(evidence: Evidence) -> Verdict:
    """Only fresh rows can have brought a duplicate, since the published version passed this gate, too."""
    table, fresh = evidence.table, evidence.fresh
    rows, total = sum(each.count_rows() for each in fresh), table.count_rows()
    if not rows:
        return Verdict("unique ids", True, f"no fresh rows among {total:,}")
    fragments = [each.fragment_id for each in fresh]
    call = (TableVersion(table.uri, table.version), fragments, rows < total)
    [duplicates] = evidence.on_workers(duplicate_ids, [call])
    if duplicates:
        examples = ", ".join(f"{key!r} {times} times" for key, times in duplicates)
        return Verdict("unique ids", False, f"ids are in the table more than once, such as {examples}")
    return Verdict("unique ids", True, f"{rows:,} fresh rows among {total:,}")


def duplicate_ids(table: TableVersion, fragments: list[int], only_fresh: bool) -> list[tuple[str, int]]:
    """Some ids that occur more than once, and how often. Memory is bounded.

    `fragments` are the fresh ones; with `only_fresh` just the ids that occur in them are counted.
    """
    dataset = table.open()
    fresh_fragments = [each for each in dataset.get_fragments() if each.fragment_id in set(fragments)]
    every = dataset.scanner(columns=[ID], **SCAN).to_reader()
    fresh = dataset.scanner(columns=[ID], fragments=fresh_fragments, **SCAN).to_reader()
    among = f"WHERE {ID} IN (SELECT {ID} FROM fresh)" if only_fresh else ""
    query = f"SELECT {ID}, count(*) AS times FROM every {among} GROUP BY {ID} HAVING times > 1 LIMIT {EXAMPLES}"
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False}
        with duckdb.connect(config=options) as connection:
            connection.register("every", every)
            connection.register("fresh", fresh)
            return connection.execute(query).fetchall()
