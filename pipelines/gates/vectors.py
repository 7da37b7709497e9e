"""Gate: vectors are sound as they are stored."""

from __future__ import annotations

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence
from pipelines.ingest.fragments import off_norm
from pipelines.tables.dataset import SCAN, TableVersion


def sound_vectors(evidence: Evidence) -> Verdict:
    """The fresh vectors, read back from the table, are finite and of norm 1 within 1e-3."""
    table, fragments = evidence.table, [each.fragment_id for each in evidence.fresh]
    call = (TableVersion(table.uri, table.version), fragments, evidence.column.name)
    [(rows, bad)] = evidence.on_workers(unsound_vectors, [call]) if fragments else [(0, 0)]
    return Verdict("vectors", not bad, f"{bad:,} of {rows:,} fresh vectors are not finite or not of norm 1")


def unsound_vectors(table: TableVersion, fragments: list[int], column: str) -> tuple[int, int]:
    """The number of vectors in some fragments, and of those that are null, not finite, or not of norm 1."""
    dataset, rows, bad = table.open(), 0, 0
    chosen = [each for each in dataset.get_fragments() if each.fragment_id in set(fragments)]
    for batch in dataset.scanner(columns=[column], fragments=chosen, **SCAN).to_batches():
        vectors = batch.column(column)
        rows, bad = rows + len(batch), bad + vectors.null_count + len(off_norm(vectors.drop_null())[0])
    return rows, bad
