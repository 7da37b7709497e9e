"""Gate: all vectors of a column are of one encoder."""

from __future__ import annotations

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence, of_every_column
from pipelines.records import OBJECT
from pipelines.tables.run_ids import older_than
from pipelines.tables.vector_column import VectorColumn, since


def one_encoder(evidence: Evidence) -> Verdict:
    """Each column names this run's encoder, has its type, and no row is older than the encoder's first run."""
    return of_every_column(evidence, lambda column: is_of_one_encoder(evidence, column))


def is_of_one_encoder(evidence: Evidence, column: VectorColumn) -> Verdict:
    """The verdict on one column."""
    table = evidence.table
    stored = VectorColumn.of(table.schema, column.name)
    differences = stored.identity.differences(column.identity)
    kind = table.schema.field(column.name).type
    if kind != column.type:
        differences.append(f"vectors are {kind}, not {column.type}")
    if left := rows_of_another_encoder(evidence, stored):
        differences.append(
            f"{left:,} rows still have the vectors of another encoder: their records were not read, since they are "
            "no longer in the source (--delete-missing removes them), were rejected, or belong to another source or "
            f"client (`{OBJECT} IS NULL`)"
        )
    identity = column.identity
    return Verdict("one encoder", not differences, "; ".join(differences) or f"{identity.model}, {identity.dtype}")


def rows_of_another_encoder(evidence: Evidence, stored: VectorColumn) -> int:
    """Rows that a re-embedding has not reached; it is over once a version with the same `since` was published."""
    published = evidence.published
    if published is not None and since(published.schema, stored.name) == stored.since:
        return 0
    return int(evidence.table.count_rows(older_than(stored.since))) if stored.since else 0
