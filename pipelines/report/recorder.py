"""What a report keeps of a run's events: when what was done, and pictures of a few records. It has a bounded size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
