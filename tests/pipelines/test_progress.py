"""What people see while a job runs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import progress
from pipelines.progress import RunProgress, duration
from pipelines.sink.commit import Counts


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when the test says so."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_away_from_a_terminal_a_line_appears_now_and_then(clock, capsys):
    counts = Counts()
    with RunProgress(1000, exact=True) as shown:
        shown.update(counts, 0)  # start-up took long, which must not count as slow rows
        clock.now += 9
        counts.written = 90
        shown.update(counts, 0)
        assert capsys.readouterr().err == ""
        clock.now += 1
        counts.written, counts.reasons["image_truncated"] = 195, 3
        shown.update(counts, 2)
        shown.update(counts, 3)
    assert capsys.readouterr().err == "embed: 200 of 1,000 rows (20%), 20.0 rows/s, 40 s left, 3 rejected\n"


def test_without_a_rate_nothing_is_said_of_time_and_nothing_to_do_is_done(clock, capsys):
    with RunProgress(0, exact=True) as shown:
        shown.update(Counts(), 0, ended=True)
    assert capsys.readouterr().err == "embed: 0 of 0 rows (100%), 0 rejected\n"


def test_more_rows_than_were_listed_are_not_more_than_all(clock, capsys):
    with RunProgress(10, exact=True) as shown:
        shown.update(Counts(written=8), 7, ended=True)
    assert "10 of 10 rows (100%)" in capsys.readouterr().err


def test_a_total_that_is_a_guess_says_so_and_gives_way_to_what_comes(clock, capsys):
    with RunProgress(100, exact=False) as shown:
        shown.update(Counts(), 0)
        clock.now += 10
        shown.update(Counts(written=50), 0)
        assert capsys.readouterr().err.startswith("embed: 50 of about 100 rows (50%)")
        clock.now += 10
        shown.update(Counts(written=120), 0)
        assert capsys.readouterr().err.startswith("embed: 120 of about 120 rows (100%)")
    with RunProgress(100, exact=False) as shown:
        shown.update(Counts(), 85)  # five of them tallies
        clock.now += 10
        shown.update(Counts(written=80), 0, ended=True)
    assert capsys.readouterr().err.startswith("embed: 80 of 80 rows (100%)")


def test_a_short_run_gets_one_line_which_is_its_end(clock, capsys):
    with RunProgress(10, exact=True) as shown:
        clock.now += 30  # a start-up longer than the time between lines
        shown.update(Counts(), 6)
        assert capsys.readouterr().err == ""
        clock.now += 1
        shown.update(Counts(written=7, unchanged=3), 0, ended=True)
    assert capsys.readouterr().err == "embed: 10 of 10 rows (100%), 4.0 rows/s, 0 s left, 0 rejected\n"


def test_a_terminal_gets_a_bar_instead_of_lines(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with RunProgress(1000, exact=True) as shown:
        shown.update(Counts(), 0)
        clock.now += 10
        shown.update(Counts(written=200), 0)
    bar = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "200/1000 rows  20.0 rows/s, 40 s left, 0 rejected" in bar
    assert "embed: " not in bar


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3599.7, "1 h 0 min"), (90_061, "25 h 1 min")],
)
def test_a_duration_is_said_in_two_units_at_most(seconds, said):
    assert duration(seconds) == said


@given(st.floats(0, 1e7))
def test_a_duration_never_says_sixty(seconds):
    assert "60 s" not in duration(seconds)
    assert "60 min" not in duration(seconds)
