"""What a report keeps of a run's events, and that this doesn't grow with the run."""

import random
from collections import Counter

from pipelines.events import (
    Arrived,
    BundleCommitted,
    Counted,
    Counts,
    IndexMeasured,
    Judged,
    MeasuredSetting,
    Published,
    Publishing,
    Reading,
    ReadingEnded,
    UpkeepPostponed,
    Verdict,
)
from pipelines.ingest.pictured import EXAMPLES, ROWS
from pipelines.records import Pictured
from pipelines.report.recorder import POINTS, Recorder, Timeline


class Run:
    """A run that reports events at the times that a test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.recorder = Recorder(100.0, lambda: self.now)

    def at(self, seconds, *events):
        self.now = 100.0 + seconds
        for event in events:
            self.recorder(event)


def test_phases_gates_and_rows_are_noted_with_their_times():
    run = Run()
    run.at(10, Counted(Counts(skipped=7)), Reading(500, True))
    run.at(30, Arrived(64, Counts()))
    run.at(40, Arrived(128, Counts()))
    counts = Counts(read=300, written=120, rewritten=5, unchanged=170, reasons=Counter(image_truncated=5))
    run.at(60, BundleCommitted(counts))
    run.at(61, ReadingEnded(counts))
    run.at(70, Counted(counts), UpkeepPostponed("the index was not updated"))
    run.at(71, Judged(Verdict("conservation", True, "")))
    measured = IndexMeasured((MeasuredSetting(8, 0, 0.97, 1.5, 2.5),), None)
    run.at(71, measured)
    run.at(74, Judged(Verdict("canary", False, "0.4")))
    run.at(80, Publishing(7))
    run.at(81, Published(7))
    found = run.recorder
    assert found.phases == {
        "reading": 10,
        "first rows": 30,
        "closing": 61,
        "gates": 70,
        "publishing": 80,
        "tidying": 81,
    }
    assert found.arrived.points == [(0, 0), (30, 64), (40, 128), (60, 130)]
    assert found.resolved.points == [(0, 0), (30, 0), (60, 300)]
    assert [(each.verdict.gate, each.seconds) for each in found.judgements] == [("conservation", 1), ("canary", 3)]
    assert (found.counts, found.commits, found.published) == (counts, 1, 7)
    assert found.index is measured
    assert found.postponed == ("the index was not updated",)


def test_a_timeline_stays_small_and_keeps_its_ends():
    timeline, number = Timeline(), 0
    for second in range(1, 100_001):
        number += second % 7
        timeline.note(float(second), number)
    assert POINTS / 4 < len(timeline.points) <= POINTS
    assert timeline.points[0] == (0, 0)
    assert timeline.points[-1] == (100_000, number)
    assert timeline.points == sorted(timeline.points)
    apart = [later[0] - earlier[0] for earlier, later in zip(timeline.points[1:-2], timeline.points[2:-1], strict=True)]
    assert max(apart) <= 4 * min(apart), "evenly"


def test_a_timeline_never_falls():
    """What arrived and was then found to be a duplicate was counted as arrived."""
    timeline = Timeline()
    for number in (64, 128, 120, 200):
        timeline.note(float(number), number)
    assert [number for _, number in timeline.points] == [0, 64, 128, 128, 200]


def test_pictures_are_bounded_and_the_same_in_whatever_order_bundles_come():
    pictures = [Pictured(f"id {n}", "a", n, None, b"") for n in range(3 * ROWS)]
    pictures += [Pictured(f"id {n}", "a", n, reason, b"") for n in range(10) for reason in ("bad_vector", "missing_id")]
    found = []
    for seed in range(2):
        random.Random(seed).shuffle(pictures)
        run = Run()
        for start in range(0, len(pictures), 50):
            run.at(start, BundleCommitted(Counts(), pictures[start : start + 50]))
        found.append(sorted(run.recorder.pictures, key=str))
    assert found[0] == found[1]
    reasons = Counter(each.reason for each in found[0])
    assert reasons == {None: ROWS, "bad_vector": EXAMPLES, "missing_id": EXAMPLES}


def test_of_a_record_that_comes_twice_the_later_picture_is_kept():
    run = Run()
    run.at(1, BundleCommitted(Counts(), [Pictured("a", "x", 1, None, b"old")]))
    run.at(2, BundleCommitted(Counts(), [Pictured("a", "y", 1, None, b"new")]))
    assert [each.picture for each in run.recorder.pictures] == [b"new"]
