"""A run says how long it is going to take: at its start by former runs, then by its own first minute."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events import Arrived, BundleCommitted, Counts, Reading
from pipelines.forecast.first_minute import MINUTE, SHORTEST, RunForecast
from pipelines.forecast.former import FormerRun, next_seconds
from pipelines.tables.runs import RunRecord

NIGHT = FormerRun(seconds=130.0, read=10_000, written=1_000, rows_per_second=10.0)  # 30 s around 100 s


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run that began at 0, reads at a constant speed after its start-up, and commits every so many seconds."""

    def __init__(self, startup: float, rate: float, former: tuple[FormerRun, ...] = (), every: float = MINUTE) -> None:
        self.startup, self.rate, self.every, self.clock = startup, rate, every, Clock()
        self.committed, self.last = 0, 0.0  # rows, and when
        self.record = RunRecord("not written", "run-1", datetime.now(UTC), {})
        self.forecast = RunForecast(self.record, 0.0, former, self.clock)

    def done(self) -> int:
        return round(max(0.0, self.clock.now - self.startup) * self.rate)

    def go_on(self, rows: int, until: float) -> None:
        if not self.clock.now:
            self.forecast.start(rows)
            self.clock.now = self.last = 1.0
            self.forecast(Reading(rows, True))
        while self.clock.now < until:
            self.clock.now += 1.0
            if self.done() > self.committed:
                self.forecast(Arrived(self.done() - self.committed, Counts(written=self.committed)))
            if self.clock.now - self.last >= self.every and self.done() > self.committed:
                self.committed, self.last = self.done(), self.clock.now
                self.forecast(BundleCommitted(Counts(written=self.committed)))


@given(st.integers(0, 100), st.integers(10, 10_000), st.integers(300, 100_000))
def test_of_a_run_at_a_constant_speed_the_first_minute_tells_the_end(startup, rate, seconds):
    run = Run(float(startup), float(rate))
    run.go_on(rate * seconds, until=240.0)
    assert run.record.forecast.seconds == pytest.approx(startup + seconds, rel=0.06)  # rows come once a second
    assert MINUTE <= run.record.forecast.after <= startup + SHORTEST + 2 * MINUTE


def test_a_run_that_ends_within_the_minute_keeps_what_former_runs_said():
    run = Run(5.0, 100.0, (NIGHT,))
    run.go_on(5_000, until=50.0)
    assert (run.record.forecast.seconds, run.record.forecast.after) == (80.0, 0.0)
    first = Run(5.0, 100.0)
    first.go_on(5_000, until=50.0)
    assert first.record.forecast is None, "nothing is known of the first run yet"


def test_the_first_minute_counts_what_former_runs_took_for_gates():
    run = Run(10.0, 100.0, (NIGHT,))
    run.go_on(100_000, until=200.0)
    assert run.record.forecast.seconds == pytest.approx(10 + 1_000 + 20, abs=15)


def test_a_run_that_commits_often_waits_for_the_minute_too():
    run = Run(10.0, 100.0, every=5.0)
    run.go_on(100_000, until=60.0)
    assert run.record.forecast is None
    run.go_on(100_000, until=90.0)
    assert MINUTE <= run.record.forecast.after <= MINUTE + 10


def test_processes_that_warm_up_do_not_mislead():
    class Warming(Run):
        def done(self) -> int:
            return round(super().done() / 10 if self.clock.now < 25.0 else 150 + (self.clock.now - 25.0) * self.rate)

    run = Warming(10.0, 100.0)
    run.go_on(100_000, until=200.0)
    assert run.record.forecast.seconds == pytest.approx(25 + 1_000, rel=0.03)


def test_only_the_first_minute_counts():
    run = Run(5.0, 100.0)
    run.go_on(100_000, until=70.0)
    said = run.record.forecast
    run.rate = 1.0
    run.go_on(100_000, until=700.0)
    assert run.record.forecast == said


def test_nothing_is_said_without_former_runs():
    assert next_seconds([], 1_000) is None


@given(
    st.lists(
        st.builds(
            FormerRun,
            seconds=st.floats(1, 1e5),
            read=st.integers(0, 10**7),
            written=st.integers(0, 10**6),
            rows_per_second=st.none() | st.floats(0.1, 1e5),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 10**7),
)
def test_more_rows_never_take_less_time(former, rows):
    assert 0 <= next_seconds(former, rows) <= next_seconds(former, rows + 1_000)
    assert all(run.around >= 0 for run in former)


def test_the_same_night_again_takes_as_long():
    assert next_seconds([NIGHT, NIGHT], NIGHT.read) == pytest.approx(NIGHT.seconds)


@pytest.mark.parametrize(("share", "similar"), [(0.1, True), (0.06, True), (0.04, False), (0.19, True), (0.3, False)])
def test_a_former_run_tells_the_speed_of_similar_work_only(share, similar):
    assert NIGHT.is_similar(share) is similar
