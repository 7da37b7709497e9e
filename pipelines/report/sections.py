"""The parts of a report that any command may put on its page."""

from __future__ import annotations

import base64
import dataclasses
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipelines.events import Counts, IndexMeasured, MeasuredSetting
from pipelines.progress import duration
from pipelines.records import IMAGE_URI, MODALITY
from pipelines.report.charts import (
    WITHIN,
    RecallPoint,
    forecast_chart,
    nights_chart,
    phases_chart,
    recall_chart,
    stages_chart,
    throughput,
    within,
)
from pipelines.report.flow_diagram import flow_diagram
from pipelines.report.markup import Markup, joined, shortened, table, tag
from pipelines.report.nights import Night
from pipelines.report.page import Section
from pipelines.report.recorder import Judgement, Phase, Timeline
from pipelines.storage.uris import redacted_text

SHORTEST_STAGE: Final = 0.005  # seconds; one that had nothing to do is not shown
SHORTEST_FLOW: Final = 1.0  # seconds; in less, a rate says nothing
LONGEST_VALUE: Final = 2_000  # characters of an option


def picture(drawn: bytes | None, of: str, why_none: str = "no picture") -> Markup:
    """A small picture, as part of the page; if there is none, a frame that says why."""
    if drawn is None:
        return tag("div", why_none, class_="picture blank")
    source = f"data:image/webp;base64,{base64.b64encode(drawn).decode()}"
    return tag("img", src=source, alt=of, class_="picture", loading="lazy")


def picture_of_row(pictures: Mapping[str, bytes], key: str, row: Mapping[str, Any]) -> Markup | None:
    """The picture of a row of a table, or why it has none. Where no row has a picture, none has a frame."""
    if not pictures:
        return None
    without_image = {"text": "text only", None: "no picture"}  # None: the row is not in the table
    not_had = "image not fetched" if row.get(IMAGE_URI) else "image not stored"
    return picture(pictures.get(key), of="", why_none=without_image.get(row.get(MODALITY), not_had))


def wide(chart: Markup) -> Markup:
    """A chart, which a narrow screen scrolls."""
    return tag("div", chart, class_="wide", tabindex="0")


def flow_section(counts: Counts, remarks: Sequence[str]) -> Section | None:
    """What became of the records; `remarks` are on rows that no record of this run stands for."""
    diagram = flow_diagram(counts)
    if diagram is None and not remarks:
        return None
    notes = tag("ul", *(tag("li", each) for each in remarks)) if remarks else None
    return Section("What became of the records", joined([diagram and wide(diagram), notes]))


def throughput_section(panels: Sequence[tuple[str, Timeline]], start: float, end: float) -> Section | None:
    """Records a second; None if nothing came, or all at once."""
    shown = [(name, timeline) for name, timeline in panels if timeline.points[-1][1]]
    if not shown or end - start < SHORTEST_FLOW:
        return None
    note = f"From the first rows on, which came after {duration(start)}, to the last commit."
    return Section("Throughput", wide(throughput(shown, start, end)), note)


def time_section(phases: Sequence[Phase], stages: Mapping[str, float]) -> Section | None:
    """Where the time went: by the clock, and by the work of the stages."""
    stages = {stage: seconds for stage, seconds in stages.items() if seconds >= SHORTEST_STAGE}
    parts = [tag("p", "By the clock:", class_="faint"), wide(phases_chart(phases))] if phases else []
    if stages:
        busy = "By stage: seconds that tasks worked, added up over all tasks. They may be more than those of the clock:"
        parts += [tag("p", busy, class_="faint"), wide(stages_chart(stages))]
    return Section("Where the time went", joined(parts)) if parts else None


def gates_section(judgements: Sequence[Judgement]) -> Section | None:
    """The verdict of each gate that was asked."""
    if not judgements:
        return None
    rows = [
        [
            mark(each.verdict.passed),
            each.verdict.gate,
            shortened(each.verdict.message, LONGEST_VALUE),
            f"{each.seconds:.1f} s",
        ]
        for each in judgements
    ]
    ended_early = len(judgements) == 1 and not judgements[0].verdict.passed
    note = "It ended the run: the other gates were not asked." if ended_early else ""
    return Section("Gates", table(["", "gate", "what it saw", "took"], rows, numbers=(3,)), note)


def mark(passed: bool) -> Markup:
    """A verdict that can be told without colours."""
    return tag("span", "✓ passed" if passed else "✗ failed", class_=f"mark {'passed' if passed else 'failed'}")


def recall_section(points: Sequence[RecallPoint], wanted: float | None = None, note: str = "") -> Section | None:
    """Recall against latency of an index, from its measurement."""
    if not points:
        return None
    rows = [
        [point.setting, f"{point.recall:.3f}", f"{point.milliseconds:.2f}", "used by searches" if point.chosen else ""]
        for point in sorted(points, key=lambda point: point.milliseconds)
    ]
    body = [wide(recall_chart(points, wanted)), table(["setting", "recall@10", "ms at p50", ""], rows, numbers=(1, 2))]
    return Section("Recall against latency", joined(body), note)


def measured_section(measured: IndexMeasured | None, wanted: float | None = None) -> Section | None:
    """What the settings of a vector index find, as far as an index was measured."""
    if measured is None:
        return None
    chosen = measured.chosen
    others = [each for each in measured.settings if chosen is None or setting_of(each) != setting_of(chosen)]
    points = [RecallPoint(setting_of(each), each.recall, each.p50_ms) for each in others]
    points += [RecallPoint(setting_of(chosen), chosen.recall, chosen.p50_ms, chosen=True)] if chosen else []
    note = "Each setting against exact search. The red one is stored with the table, and used by searches."
    return recall_section(points, wanted, note)


def setting_of(measured: MeasuredSetting) -> str:
    """A setting in words."""
    refine = f"refine factor {measured.refine_factor}" if measured.refine_factor else "no refine"
    return f"nprobes {measured.nprobes}, {refine}"


def nights_section(nights: Sequence[Night], run: str) -> Section | None:
    """The runs that embedded, and this one if it did."""
    if not nights:
        return None
    rows = [
        [
            f"{night.started:%Y-%m-%d %H:%M}" if night.started else "",
            night.status + (" (this run)" if night.run == run else ""),
            f"{night.read:,}",
            f"{night.written:,}",
            f"{night.rejected:,}",
            duration(60 * night.minutes) if night.minutes is not None else "",
            "" if night.forecast_seconds is None else duration(night.forecast_seconds),
            "" if night.published is None else f"{night.published}",
            shortened(night.error or "", 160),
        ]
        for night in reversed(nights)
    ]
    head = ["started (UTC)", "status", "read", "embedded", "rejected", "took", "forecast", "published", "error"]
    listed = tag("details", tag("summary", "as a table"), table(head, rows, numbers=range(2, 8)))
    several = f"The last {len(nights)} runs" if len(nights) > 1 else "The last run"
    title = "This run" if [night.run for night in nights] == [run] else several
    note = "Oldest first. Blue: published; red: failed or killed; amber: stopped by a signal; grey: still running."
    return Section(title, joined([wide(nights_chart(nights)), *forecasts(nights), listed]), note)


def forecasts(nights: Sequence[Night]) -> list[Markup]:
    """How far the runs were from their forecasts."""
    chart, found = forecast_chart(nights), [night.deviation_percent for night in nights]
    deviations = [each for each in found if each is not None]
    if chart is None:
        return []
    near, half = within(deviations), statistics.median(map(abs, deviations))
    if len(deviations) == 1:
        return [wide(chart), tag("p", f"One run has a forecast; it was off by {half:.0f} %.", class_="faint")]
    of = f"{near} of {len(deviations)} runs took as long as forecast within {WITHIN:.0f} % (dashed)"
    said = f"{of}; half of them within {half:.0f} %."
    return [wide(chart), tag("p", said, class_="faint")]


def configuration_section(configuration: Mapping[str, Any], key: str, options_class: type) -> Section:
    """The options that were given; the others, and what they were resolved to, can be unfolded. Without secrets.

    `configuration` is that of a run, which has the fields of `options_class`, a dataclass, under `key`.
    """
    rest = json.loads(redacted_text(json.dumps(configuration)))
    options = rest.pop(key)
    fields = {each.name: each.default for each in dataclasses.fields(options_class)}
    with_default = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    defaults = json.loads(json.dumps(with_default))
    given = {name: value for name, value in options.items() if value != defaults.get(name)}
    others = {name: value for name, value in options.items() if name not in given}
    unfolded = [tag("h3", "options at their defaults"), values(others)]
    for name, more in rest.items():
        unfolded += [tag("h3", name), values(more if isinstance(more, Mapping) else {name: more})]
    return Section(
        "Configuration",
        joined([values(given), tag("details", tag("summary", "everything else"), *unfolded)]),
    )


def values(named: Mapping[str, Any]) -> Markup:
    """Names and values as a table."""
    rows = [[tag("code", name), tag("code", shortened(as_text(value), LONGEST_VALUE))] for name, value in named.items()]
    return table(["name", "value"], rows)


def as_text(value: Any) -> str:
    """A value as people write it."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def versions_section(versions: Mapping[str, str], encoder: Mapping[str, Any]) -> Section:
    """What made the vectors, if the run made some: the encoder's identity; and the libraries."""
    machine = {"python": platform.python_version(), "driver": f"{platform.system()} {platform.machine()}"}
    parts = [
        tag("div", tag("h3", "encoder"), values(encoder)) if encoder else None,
        tag("div", tag("h3", "software"), values(dict(versions) | machine)),
    ]
    return Section("Versions", tag("div", *parts, class_="two"))


def failed_section(title: str, cause: str) -> Section:
    """In place of a section that could not be made."""
    return Section(title, tag("p", f"could not be made: {shortened(cause)}", class_="faint"))
