"""What people see while a job runs."""

import io
import logging
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipelines.events import Arrived, BundleCommitted, Counts, Judged, Reading, ReadingEnded, Verdict
from pipelines.progress import RunProgress, Timing, duration


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(caplog):
    """The messages logged since the last call."""
    caplog.set_level(logging.INFO, logger="pipelines.progress")

    def take() -> list[str]:
        found = list(caplog.messages)
        caplog.clear()
        return found

    return take


def without_terminal(clock: Clock) -> RunProgress:
    return RunProgress(clock, Console(file=io.StringIO(), force_terminal=False))


def on_a_terminal(clock: Clock) -> RunProgress:
    return RunProgress(clock, Console(file=io.StringIO(), force_terminal=True, width=160))


def drawn(progress: RunProgress) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", progress.console.file.getvalue())


def test_without_a_terminal_a_line_appears_now_and_then(clock, lines):
    with without_terminal(clock) as progress:
        progress(Reading(1000, exact=True))
        progress(Arrived(0, Counts()))  # start-up took long, which must not count as slow rows
        clock.now += 9
        progress(BundleCommitted(Counts(written=90)))
        assert lines() == []
        clock.now += 1
        counts = Counts(written=195, reasons=Counter(image_truncated=3))
        progress(Arrived(2, counts))
        progress(Arrived(3, counts))
        assert lines() == ["200 of 1,000 rows (20%), 20.0 rows/s, 40 s left, 3 rejected"]
    assert progress.console.file.getvalue() == ""


def test_without_a_rate_nothing_is_said_of_time_and_nothing_to_do_is_done(clock, lines):
    with without_terminal(clock) as progress:
        progress(Reading(0, exact=True))
        progress(ReadingEnded(Counts()))
    assert lines() == ["0 of 0 rows (100%), 0 rejected"]


def test_more_rows_than_were_listed_are_not_more_than_all(clock, lines):
    with without_terminal(clock) as progress:
        progress(Reading(10, exact=True))
        progress(Arrived(7, Counts(written=8)))
        clock.now += 10
        progress(Arrived(8, Counts(written=8)))
    assert lines() == ["10 of 10 rows (100%), 0 rejected"]


def test_an_estimated_total_is_marked_and_corrected_by_what_comes(clock, lines):
    with without_terminal(clock) as progress:
        progress(Reading(100, exact=False))
        progress(Arrived(0, Counts()))
        clock.now += 10
        progress(BundleCommitted(Counts(written=50)))
        assert lines()[0].startswith("50 of about 100 rows (50%)")
        clock.now += 10
        progress(BundleCommitted(Counts(written=120)))
        assert lines()[0].startswith("120 of about 120 rows (100%)")
    with without_terminal(clock) as progress:
        progress(Reading(100, exact=False))
        progress(Arrived(85, Counts()))  # five of them batch statistics
        clock.now += 10
        progress(ReadingEnded(Counts(written=80)))
    assert lines()[0].startswith("80 of 80 rows (100%)")


def test_a_short_run_gets_one_line_which_is_its_end(clock, lines):
    with without_terminal(clock) as progress:
        progress(Reading(10, exact=True))
        clock.now += 30  # a start-up longer than the time between lines
        progress(Arrived(6, Counts()))
        assert lines() == []
        clock.now += 1
        progress(ReadingEnded(Counts(written=7, unchanged=3)))
    assert lines() == ["10 of 10 rows (100%), 4.0 rows/s, 0 s left, 0 rejected"]


def test_every_record_with_an_outcome_is_done(clock, lines):
    with without_terminal(clock) as progress:
        progress(Reading(10, exact=True))
        progress(ReadingEnded(Counts(read=10, written=1, rewritten=2, unchanged=3, reasons=Counter(a=4), removed=4)))
    assert lines() == ["10 of 10 rows (100%), 4 rejected"]


def test_a_run_that_reads_nothing_and_other_events_show_nothing(clock, lines):
    with without_terminal(clock) as progress:
        progress(BundleCommitted(Counts(written=5)))
        progress(Judged(Verdict("canary", True, "fine")))
        progress(ReadingEnded(Counts(skipped=5)))
    assert lines() == []


def test_a_terminal_gets_a_bar_instead_of_lines(clock, lines):
    with on_a_terminal(clock) as progress:
        progress(Reading(1000, exact=True))
        progress(Arrived(0, Counts()))
        clock.now += 10
        progress(BundleCommitted(Counts(written=200)))
        progress(ReadingEnded(Counts(written=200)))
    assert "200/1000 rows, 20.0 rows/s, 40 s left, 0 rejected" in drawn(progress)
    assert lines() == []


def test_the_bar_ends_when_the_run_fails_and_the_cursor_is_back(clock):
    with pytest.raises(ZeroDivisionError), on_a_terminal(clock) as progress:
        progress(Reading(1000, exact=True))
        progress(Arrived(1, Counts()))
        assert progress.bar.live.is_started
        bar = progress.bar
        raise ZeroDivisionError
    assert not bar.live.is_started
    written = progress.console.file.getvalue()
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor is shown after it was hidden"


def test_standard_error_decides_by_itself_whether_there_is_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # set by some CI systems, which keep logs all the same
    with RunProgress(clock) as progress:
        progress(Reading(10, exact=True))
        assert progress.bar is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3599.7, "1 h 0 min"), (90_061, "25 h 1 min")],
)
def test_a_duration_has_two_units_at_most(seconds, said):
    assert duration(seconds) == said


@given(st.floats(0, 1e7))
def test_a_duration_never_says_sixty(seconds):
    assert "60 s" not in duration(seconds)
    assert "60 min" not in duration(seconds)


@pytest.mark.parametrize(
    "rows, timing, speed",
    [
        (336, Timing(startup=10, first_rows=64, ended=26), 17.0),
        (70, Timing(startup=10, first_rows=69, ended=110), None),  # nearly all of them were there at once
        (64, Timing(startup=10, first_rows=64, ended=26), None),
        (336, Timing(startup=10, first_rows=64, ended=10.5), None),
        (0, Timing(startup=10, first_rows=0, ended=20), None),
    ],
)
def test_the_speed_is_that_after_the_first_rows_if_most_came_later(rows, timing, speed):
    assert timing.rows_per_second(rows) == speed
