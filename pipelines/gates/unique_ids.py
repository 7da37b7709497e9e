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
CURE = "The job writes neither: delete the rows that another client wrote, which have no `_object` unless it set one"


def unique_ids(evidence: Evidence) -> Verdict:
    """No row has no id, and no two have the same. Only fresh rows are judged: the published ones passed this gate."""
    table, fresh = evidence.table, evidence.fresh
    rows, total = sum(each.count_rows() for each in fresh), table.count_rows()
    if not rows:
        return Verdict("unique ids", True, f"no fresh rows among {total:,}")
    fragments = [each.fragment_id for each in fresh]
    call = (TableVersion(table.uri, table.version), fragments, rows < total)
    [(duplicates, without)] = evidence.on_workers(duplicate_ids, [call])
    problems = [f"{without:,} rows have no id"] if without else []
    if duplicates:
        examples = ", ".join(f"{key!r} {times} times" for key, times in duplicates)
        problems.append(f"ids are in the table more than once, such as {examples}")
    if problems:
        return Verdict("unique ids", False, f"{' and '.join(problems)}. {CURE}")
    return Verdict("unique ids", True, f"{rows:,} fresh rows among {total:,}")


def duplicate_ids(table: TableVersion, fragments: list[int], only_fresh: bool) -> tuple[list[tuple[str, int]], int]:
    """Some ids that occur more than once, and how often; and the number of fresh rows without one. Memory is bounded.

    `fragments` are the fresh ones; with `only_fresh` just the ids that occur in them are counted.
    """
    dataset = table.open()
    fresh_fragments = [each for each in dataset.get_fragments() if each.fragment_id in set(fragments)]
    without = dataset.scanner(filter=f"{ID} IS NULL", fragments=fresh_fragments).count_rows()
    every = dataset.scanner(columns=[ID], **SCAN).to_reader()
    fresh = dataset.scanner(columns=[ID], fragments=fresh_fragments, **SCAN).to_reader()
    among = f"WHERE {ID} IN (SELECT {ID} FROM fresh)" if only_fresh else f"WHERE {ID} IS NOT NULL"
    query = f"SELECT {ID}, count(*) AS times FROM every {among} GROUP BY {ID} HAVING times > 1 LIMIT {EXAMPLES}"
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False}
        with duckdb.connect(config=options) as connection:
            connection.register("every", every)
            connection.register("fresh", fresh)
            return connection.execute(query).fetchall(), without
