"""Gate: no larger share of the source is rejected than the user allows. It is checked during the run, too."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import Final

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence

NAMED: Final = 5  # reasons


def reject_rate(evidence: Evidence) -> Verdict:
    """At most --max-reject-rate of the records are rejected.

    Records of skipped files that an earlier run rejected count, too; otherwise the next run would let them pass.
    """
    counts, limit = evidence.counts, evidence.tolerance.reject_rate
    read = counts.read + counts.skipped + counts.skipped_rejected
    rejected = counts.rejected_in_earnest + counts.skipped_rejected
    share = f"{rejected:,} of {read:,} rows of the source were rejected ({rejected / max(1, read):.1%})"
    if rejected <= limit * read:
        return Verdict("reject rate", True, share)
    return Verdict(
        "reject rate",
        False,
        f"{share}, more than --max-reject-rate {limit:g}: {why(evidence)}. "
        f"{PurePosixPath(evidence.table.uri).stem}_rejects has each row and its reason. Mend the cause and run again, "
        "or run with a higher rate",
    )


def why(evidence: Evidence) -> str:
    """The reasons, with an example of the most common one."""
    reasons = evidence.counts.reasons
    if not reasons:
        return "by earlier runs, in files that are skipped, unchanged"
    return f"{name_reasons(reasons)}. For example: {evidence.example(reasons.most_common(1)[0][0])}"


def name_reasons(reasons: Counter[str]) -> str:
    """The most common reasons first."""
    named = [f"{reason} {number:,}" for reason, number in reasons.most_common(NAMED)]
    others = len(reasons) - len(named)
    return ", ".join(named) + (f", and {others} other{'s' * (others > 1)}" if others else "")
