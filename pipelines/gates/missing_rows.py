"""Gate: missing rows that the user wants to be removed can be removed safely."""

from __future__ import annotations

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence
from pipelines.ingest.missing import WHY_SOME_STAY


def missing_rows(evidence: Evidence) -> Verdict:
    """With --delete-missing, no more rows were missing than may be removed, and all files could be read."""
    missing, tolerance = evidence.missing, evidence.tolerance
    if not tolerance.delete_missing:
        return Verdict(
            "missing rows", True, f"{missing.rows + missing.known:,} of {missing.owned:,} rows, which are kept"
        )
    refusal = missing.refusal(tolerance.delete_at_most)
    if refusal is not None:
        return Verdict("missing rows", False, refusal)
    removed = evidence.counts.deleted
    message = f"{removed:,} of {missing.owned:,} rows removed"
    if removed < missing.rows:
        message = f"{message}; {missing.rows - removed:,} that are missing, too, stay: {WHY_SOME_STAY}"
    return Verdict("missing rows", True, message)
