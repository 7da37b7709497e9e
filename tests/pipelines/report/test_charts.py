"""Plots and the diagram of the flow: what they say, and that nothing makes them fail."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.events import Counts
from pipelines.report.charts import (
    RecallPoint,
    brief,
    forecast_chart,
    nights_chart,
    phases_chart,
    rates_of,
    recall_chart,
    stages_chart,
    throughput,
)
from pipelines.report.flow_diagram import HEIGHT, flow_diagram, outcomes
from pipelines.report.nights import Night
from pipelines.report.recorder import Phase, Timeline
from pipelines.report.sections import nights_section
from tests.pipelines.report.pages import Elements

NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)


def texts(svg: str) -> str:
    return " ".join(Elements(svg).text)


def test_the_flow_names_every_outcome_with_its_number():
    counts = Counts(
        read=1_000_000,
        written=10,
        rewritten=3,
        unchanged=999_980,
        skipped=5_000_000,
        skipped_rejected=2,
        reasons=Counter(image_truncated=4),
    )
    svg = flow_diagram(counts)
    found = texts(svg)
    for words in ("source 6,000,002", "read 1,000,000", "5,000,000 in unch", "2 rejected earlier", "999,980 unchanged"):
        assert words in found.replace("  ", " ")
    assert "3 read, not resolved" in found.replace("  ", " "), "of a run that failed, not every outcome is known"
    assert "5,000,000" in Elements(svg).found[0][1]["aria-label"]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10**9), min_size=6, max_size=6))
def test_bands_keep_in_the_picture_and_each_that_is_not_empty_is_seen(numbers):
    written, rewritten, unchanged, rejected, skipped, earlier = numbers
    read = written + rewritten + unchanged + rejected
    counts = Counts(read, written, rewritten, unchanged, skipped=skipped, skipped_rejected=earlier)
    counts.reasons["bad_vector"] += rejected
    svg = flow_diagram(counts)
    if not sum(numbers):
        assert svg is None
        return
    heights = [float(each) for each in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)]
    assert min(heights) >= 3
    assert sum(each.records for each in outcomes(counts)) == sum(numbers)
    bottom = float(re.search(r'viewBox="0 0 \d+ (\d+)"', svg)[1])
    assert bottom >= HEIGHT
    for y in re.findall(r'[ V"](-?[\d.]+)[CVZ]', svg):
        assert -1 <= float(y) <= bottom + 1


def test_rates_are_those_of_the_timeline():
    timeline = Timeline()
    for second in range(1, 101):
        timeline.note(float(second), second * 50)
    edges, rates = rates_of(timeline, 0.0, 100.0)
    assert (edges[0], edges[-1], len(rates)) == (0, 100, 80)
    assert rates == pytest.approx([50.0] * 80)


def test_plots_have_their_numbers_as_text_and_no_styles_of_their_own():
    timeline = Timeline()
    timeline.note(1.0, 100)
    nights = [Night(f"r{n}", "done", NOW, NOW, n, n, n, n, n, None, None) for n in range(30)]
    charts = {
        "throughput": throughput([("rows", timeline), ("others", timeline)], 0.0, 4000.0),
        "phases": phases_chart([Phase("start-up", 0, 10), Phase("gates", 10, 400)]),
        "stages": stages_chart({"decode": 75.0, "encode": 25.0}),
        "nights": nights_chart(nights),
        "recall": recall_chart([RecallPoint("nprobes 16, refine 4", 0.96, 3.5, chosen=True)], 0.95),
    }
    for svg in charts.values():
        page = Elements(svg)
        assert not [values for _, values in page.found if "style" in values or "xlink:href" in values]
        assert "#0000" not in svg, "the stand-ins for the colours of the page are exchanged"
        assert page.found[0][1]["aria-label"]
    assert "10.0 s" in texts(charts["phases"])
    assert "6 min 30 s" in texts(charts["phases"])
    assert "75%" in texts(charts["stages"])
    assert "nprobes 16, refine 4" in texts(charts["recall"])
    assert len(set(re.findall(r' id="([^"]+)"', "".join(charts.values())))) == len(
        re.findall(r' id="([^"]+)"', "".join(charts.values()))
    ), "plots on one page don't share ids"


def night(number: int, minutes: float, forecast: float | None, status: str = "done") -> Night:
    ended = NOW + timedelta(minutes=minutes)
    return Night(f"r{number}", status, NOW, ended, 1, 1, 0, 0, 1, 5.0, None, forecast)


def test_runs_beside_their_forecasts():
    nights = [
        night(1, 10, None),
        night(2, 11, 600.0),
        night(3, 7.5, 600.0),
        night(4, 1, 600.0, "failed"),
        night(5, 1, 600.0, "running"),
    ]
    found = [each.deviation_percent for each in nights]
    assert found == [None, pytest.approx(10), pytest.approx(-25), None, None], "a run that failed did not take its time"
    assert (
        Elements(forecast_chart(nights)).found[0][1]["aria-label"] == "Of 2 runs with a forecast, 1 within 20 % of it"
    )
    assert forecast_chart(nights[:1]) is None
    section = nights_section(nights, "r3")
    assert "1 of 2 runs took as long as forecast within 20 % (dashed); half of them within 18 %." in section.body
    assert "10 min 0 s" in section.body, "the table has the forecasts"
    assert "forecast within" not in nights_section(nights[:1], "r1").body


def test_plots_of_next_to_nothing():
    one = Night("r", "running", None, None, 0, 0, 0, 0, None, None, None)
    assert nights_chart([one])
    assert throughput([("rows", Timeline())], 5.0, 5.0)
    assert phases_chart([Phase("start-up", 0, 0)])
    assert stages_chart({"read": 0.0})


@pytest.mark.parametrize(("number", "words"), [(0, "0"), (0.25, "0.25"), (34_000, "34k"), (1.5e6, "1.5M"), (2e9, "2G")])
def test_numbers_of_axes_are_brief(number, words):
    assert brief(number) == words
