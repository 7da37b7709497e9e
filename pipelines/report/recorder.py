"""What a report keeps of a run's events: when what was done, and pictures of a few records. It has a bounded size."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.events import (
    Arrived,
    BundleCommitted,
    Counted,
    Counts,
    Event,
    IndexMeasured,
    Judged,
    Published,
    Publishing,
    Reading,
    ReadingEnded,
    UpkeepPostponed,
    Verdict,
)
from pipelines.ingest.pictured import kept
from pipelines.records import Pictured

POINTS = 400  # of a timeline; beyond that it is thinned out
SHORTEST_PART = 0.05  # seconds


class Timeline:
    """A number that grows, over time: (seconds, number) points, evenly thinned out when they become too many."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = [(0.0, 0)]
        self.apart = 0.0  # seconds between two points

    def note(self, seconds: float, number: int) -> None:
        """The number is `number` now. It never falls: what was counted twice for a moment is not shown."""
        number = max(number, self.points[-1][1])
        if len(self.points) > 1 and seconds - self.points[-2][0] < self.apart:
            self.points.pop()  # the last point moves along until it is far enough from the one before
        self.points.append((seconds, number))
        if len(self.points) > POINTS:
            self.apart = 2 * max(self.apart, seconds / POINTS)
            self.points = [self.points[0], *self.points[2:-1:2], self.points[-1]]


@dataclass(frozen=True)
class Phase:
    """A part of a run, in seconds since it began."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Judgement:
    """A gate's verdict, and the seconds that it took."""

    verdict: Verdict
    seconds: float


@dataclass
class Recorder:
    """A listener. Times are seconds since `began`, which is on the clock of `time.monotonic`."""

    began: float
    clock: Callable[[], float] = time.monotonic
    counts: Counts = field(default_factory=Counts)
    phases: dict[str, float] = field(default_factory=dict)  # when each began: reading, first rows, closing, publishing
    arrived: Timeline = field(default_factory=Timeline)  # records that came out of the encoders, or were rejected
    resolved: Timeline = field(default_factory=Timeline)  # records of which the outcome was committed
    commits: int = 0
    judgements: list[Judgement] = field(default_factory=list)
    postponed: tuple[str, ...] = ()
    published: int | None = None
    pictures: Sequence[Pictured] = ()
    index: IndexMeasured | None = None  # if the index was built anew
    last: float = 0.0  # when the event before this one was reported

    def parts(self, names: Mapping[str, str], ended: float) -> list[Phase]:
        """The parts of the run, one after the other, under the `names` of those that a report shows.

        "start" is the name of what came before the first phase. Very short parts are left out.
        """
        shown = [(at, names[phase]) for phase, at in self.phases.items() if phase in names]
        starts = sorted([(0.0, names["start"]), *shown], key=lambda each: each[0])
        ends = [*(at for at, _ in starts[1:]), ended]
        every = [Phase(name, start, end) for (start, name), end in zip(starts, ends, strict=True)]
        return [phase for phase in every if phase.end - phase.start >= SHORTEST_PART]

    def __call__(self, event: Event) -> None:
        """Note what a report shows."""
        now = self.clock() - self.began
        match event:
            case Reading():
                self.phases.setdefault("reading", now)
            case Arrived():
                if "first rows" not in self.phases:
                    self.phases["first rows"] = now
                    self.resolved.note(now, 0)  # nothing is resolved during the start-up
                self.counts = event.counts
                self.arrived.note(now, changed(event.counts) + event.rows)
            case BundleCommitted():
                self.counts, self.commits = event.counts, self.commits + 1
                self.pictures = kept([*self.pictures, *event.pictures])
                self.arrived.note(now, changed(event.counts))
                self.resolved.note(now, event.counts.resolved)
            case ReadingEnded():
                self.phases.setdefault("closing", now)
                self.counts = event.counts
            case Counted():
                self.counts = event.counts
            case Judged():
                self.phases.setdefault("gates", self.last)
                self.judgements.append(Judgement(event.verdict, now - self.last))
            case Publishing():
                self.phases["publishing"] = now
            case Published():
                self.phases["tidying"] = now
                self.published = event.version
            case IndexMeasured():
                self.index = event
            case UpkeepPostponed():
                self.postponed += (event.message,)
        self.last = now


def changed(counts: Counts) -> int:
    """Records that went the whole way of the flow, since the table did not hold them unchanged."""
    return counts.written + counts.rewritten + counts.rejected
