"""A page shows whatever it is given as text, and needs nothing but itself."""

import io
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.events import Counts, Verdict
from pipelines.pictures import picture_of_pixels
from pipelines.records import Pictured
from pipelines.report.charts import RecallPoint
from pipelines.report.markup import escaped, shortened, table, tag
from pipelines.report.neighbours import Neighbour, Sample, Sampled
from pipelines.report.nights import Night
from pipelines.report.page import Page, Section, render
from pipelines.report.recorder import Judgement, Phase, Timeline
from pipelines.report.rejects import Rejected, rejects_section
from pipelines.report.sample_section import sample_section
from pipelines.report.sections import (
    configuration_section,
    failed_section,
    flow_section,
    gates_section,
    nights_section,
    recall_section,
    throughput_section,
    time_section,
    versions_section,
)
from tests.pipelines.report.pages import HOSTILE, Elements, check

PICTURE = picture_of_pixels(np.zeros((8, 8, 3), np.uint8))
NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)


@dataclass
class Options:
    """Options of a command: `b` has a default."""

    b: str | None = None


def timeline(*points: tuple[float, int]) -> Timeline:
    made = Timeline()
    for point in points:
        made.note(*point)
    return made


def hostile_sections() -> list[Section | None]:
    """Every section, with hostile text wherever a catalog, a library or a user may put some."""
    row = {"id": HOSTILE, "text": HOSTILE, "_object": HOSTILE, "modality": HOSTILE}
    reject = {"id": HOSTILE, "object": HOSTILE, "row": 7, "reason": HOSTILE, "message": HOSTILE, "run": HOSTILE}
    counts = Counts(read=9, written=5, reasons=Counter({HOSTILE: 4}))
    night = Night(HOSTILE, HOSTILE, NOW, NOW, 9, 5, 4, 0, 3, 1.5, HOSTILE)
    return [
        flow_section(counts, [HOSTILE]),
        gates_section([Judgement(Verdict(HOSTILE, False, HOSTILE), 1.0)]),
        rejects_section(
            counts, Rejected(Counter(), {HOSTILE: [reject]}), [Pictured(HOSTILE, HOSTILE, 7, HOSTILE, PICTURE)]
        ),
        sample_section(Sample([Sampled(row, [Neighbour(row, 0.5)])], HOSTILE), {HOSTILE: PICTURE}),
        throughput_section([(HOSTILE, timeline((1, 5), (2, 9)))], 0, 2),
        time_section([Phase(HOSTILE, 0, 2)], {HOSTILE: 1.0, "read": 2.0}),
        recall_section([RecallPoint(HOSTILE, 0.9, 1.0, True), RecallPoint("other", 0.5, 0.5)], 0.95, HOSTILE),
        nights_section([night, night], HOSTILE),
        configuration_section(
            {"options": {HOSTILE: HOSTILE, "b": None}, HOSTILE: {HOSTILE: [HOSTILE]}}, "options", Options
        ),
        versions_section({HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}),
        failed_section(HOSTILE, HOSTILE),
        None,
    ]


def page_of(*sections: Section | None, text: str = "t") -> str:
    return render(Page(text, text, False, text, [text], [(text, text)], sections))


def test_hostile_text_is_shown_and_never_obeyed():
    html = page_of(*hostile_sections(), text=HOSTILE)
    page = check(html)
    shown = re.escape("<script>alert(1)</script>")
    assert len(re.findall(shown, "".join(page.text))) > 30
    assert "\\u202e" in "".join(page.text), "what reverses text is shown as an escape"


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed")
def test_a_browser_shows_a_page_without_breaking_its_policy(tmp_path):
    def complaints(html: str) -> list[str]:
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command = [CHROMIUM, *options, f"--user-data-dir={tmp_path}/profile", f"file://{tmp_path}/page.html"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "A sample, with nearest neighbours" in done.stdout
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    html = page_of(*hostile_sections(), text=HOSTILE)
    assert complaints(html) == []
    broken = html.replace("</head>", "<style>p { color: red }</style></head>")
    assert "Content Security Policy" in complaints(broken)[0], "otherwise the check above would see nothing"


@settings(max_examples=20)
@given(st.text())
def test_any_text_is_text(text):
    page = Elements(tag("p", text, title=text))
    assert [name for name, _ in page.found] == ["p"]
    assert "".join(page.text).count("<") == text.count("<")


def test_only_markup_is_not_escaped():
    assert escaped("<b>") == "&lt;b&gt;"
    assert escaped(tag("b", "x")) == "<b>x</b>"
    assert tag("b", None, "x", False, 1) == "<b>x1</b>"
    assert str(table(["<"], [["<"]])).count("&lt;") == 2


def test_a_page_without_anything_is_a_page():
    check(page_of())
    nothing = [
        flow_section(Counts(), []),
        gates_section([]),
        rejects_section(Counts(), Rejected(), []),
        sample_section(Sample(), {}),
        throughput_section([("rows", Timeline())], 0, 0),
        time_section([], {}),
        recall_section([]),
        nights_section([], "run"),
    ]
    assert nothing == [None] * len(nothing)


def test_a_page_has_a_bounded_size():
    """Whatever is long is cut, and whatever is many is chosen from."""
    long = "x" * 100_000
    row = {"id": long, "text": long, "_object": long, "modality": "image"}
    sampled = [Sampled(row, [Neighbour(row, 0.5)] * 5)] * 8
    reject = {"id": long, "object": long, "row": 7, "reason": "", "message": long, "run": "r"}
    reasons = Counter({f"reason {number}": 10**9 for number in range(27)})
    noisy = picture_of_pixels(np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8))
    html = page_of(
        sample_section(Sample(sampled, "all"), {long: noisy}),
        rejects_section(Counts(reasons=reasons), Rejected(Counter(), dict.fromkeys(reasons, [reject] * 3)), []),
        gates_section([Judgement(Verdict("canary", False, long), 1.0)] * 10),
        nights_section([Night("r", "failed", NOW, NOW, 9, 5, 4, 0, 3, 1.5, long)] * 30, "r"),
        configuration_section({"options": {"source": long}, "encoder": {"weights": long}}, "options", Options),
    )
    check(html)
    assert len(html) < 1_500_000


def test_a_row_without_a_picture_says_why():
    pictured, stored_nowhere, external, text = rows = [
        {"id": "a", "modality": "image"},
        {"id": "b", "modality": "image", "image_uri": None},
        {"id": "c", "modality": "pair", "image_uri": "https://shop.example/c.jpg"},
        {"id": "d", "modality": "text", "text": "words"},
    ]
    sample = Sample([Sampled(row, []) for row in rows], "all")
    page = "".join(check(page_of(sample_section(sample, {pictured["id"]: PICTURE}))).text)
    said = [page.count(why) for why in ("image not stored", "image not fetched", "text only", "--store-images")]
    assert said == [1, 1, 1, 1]
    none = page_of(sample_section(Sample([Sampled(stored_nowhere, []), Sampled(external, [])], "all"), {}))
    assert "image not" not in none
    assert "--store-images" in none
    assert "--store-images" not in page_of(sample_section(Sample([Sampled(text, [])], "all"), {}))


def test_a_gate_that_ends_a_run_early_is_the_only_one_on_the_page_and_says_so():
    failed, passed = (Judgement(Verdict("reject rate", each, "words"), 0.0) for each in (False, True))
    early, late = (page_of(gates_section(each)) for each in ([failed], [passed, failed]))
    assert "the other gates were not asked" in early
    assert "not asked" not in late


def test_shortened_text_says_so():
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize("side", [3, 500])
def test_pictures_are_small_webps_without_what_the_catalog_had(side):
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    picture = picture_of_pixels(pixels)
    assert Image.open(io.BytesIO(picture)).format == "WEBP"
    assert max(Image.open(io.BytesIO(picture)).size) == min(side, 128)
    assert len(picture) < 16_000
