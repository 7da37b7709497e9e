"""Gate: every record read is accounted for."""

from __future__ import annotations

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence


def conservation(evidence: Evidence) -> Verdict:
    """read = written + rewritten + unchanged + rejected."""
    counts = evidence.counts
    passed = counts.read == counts.resolved
    return Verdict(
        "conservation",
        passed,
        f"read {counts.read:,} {'=' if passed else '!='} written {counts.written:,} + rewritten {counts.rewritten:,} "
        f"+ unchanged {counts.unchanged:,} + rejected {counts.rejected:,}",
    )
