"""Gates: what must hold of a run before its table is published. A gate is a function that returns a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.sink.commit import Counts


@dataclass(frozen=True)
class Verdict:
    """Whether a gate let the run through, and the figures it judged by."""

    gate: str
    passed: bool
    message: str


def conservation(counts: Counts) -> Verdict:
    """Every row read is accounted for: read = written + rewritten + unchanged + rejected."""
    message = (
        f"read {counts.read:,} = written {counts.written:,} + rewritten {counts.rewritten:,} "
        f"+ unchanged {counts.unchanged:,} + rejected {counts.rejected:,}"
    )
    if counts.read == counts.settled:
        return Verdict("conservation", True, message)
    return Verdict("conservation", False, message.replace(" = ", " != ", 1))
