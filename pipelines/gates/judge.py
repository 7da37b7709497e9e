"""All gates in their order, and what happens if one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pipelines.events import Events, Judged, Verdict
from pipelines.gates.canary import canary
from pipelines.gates.conservation import conservation
from pipelines.gates.evidence import Evidence, Gate
from pipelines.gates.index_recall import index_recall
from pipelines.gates.missing_rows import missing_rows
from pipelines.gates.one_encoder import one_encoder
from pipelines.gates.other_sources import other_sources
from pipelines.gates.reject_rate import reject_rate
from pipelines.gates.retrieval import retrieval
from pipelines.gates.unique_ids import unique_ids
from pipelines.gates.vectors import sound_vectors
from vista_core import VistaError

E = TypeVar("E")  # what gates judge by

OF_THE_RUN: tuple[Gate, ...] = (conservation, reject_rate, missing_rows)  # at the end of every run
# If the table differs from the published version:
OF_THE_TABLE: tuple[Gate, ...] = (
    unique_ids,
    sound_vectors,
    one_encoder,
    canary,
    other_sources,
    index_recall,
    retrieval,
)


class GateError(VistaError):
    """The result of a run did not pass a gate and was not published."""

    exit_code = 3


class TooManyRejectsError(GateError):
    """More of the source was rejected than --max-reject-rate allows; it ends a run early."""


def judge(gates: Sequence[Callable[[E], Verdict]], evidence: E, events: Events) -> list[Verdict]:
    """Every gate's verdict, each of which is reported."""
    verdicts = []
    for gate in gates:
        verdicts.append(gate(evidence))
        events.report(Judged(verdicts[-1]))
    return verdicts


def require(verdicts: Sequence[Verdict], otherwise: str = "not published") -> None:
    """Raise GateError, which says what follows and names all gates that failed."""
    if failed := [verdict for verdict in verdicts if not verdict.passed]:
        raise GateError(
            f"{otherwise}: " + "; ".join(f"{each.gate}: {each.message}" for each in failed) + ". What was committed "
            "stays; the same command judges it again"
        )


def require_few_rejects(evidence: Evidence, events: Events) -> None:
    """Raise TooManyRejectsError if the gate on rejects fails, which ends a run early. The verdict is reported then."""
    verdict = reject_rate(evidence)
    if not verdict.passed:
        events.report(Judged(verdict))
        raise TooManyRejectsError(f"{verdict.message}: what was committed stays")
