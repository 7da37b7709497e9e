"""What became of the records of a source, as a diagram: bands as wide as what flows through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipelines.events import Counts
from pipelines.report.markup import Markup, joined, tag
from pipelines.report.style import variable

WIDTH, HEIGHT = 780.0, 210.0
THINNEST: Final = 3.0  # of a band that is not empty, however little flows through it
GAP: Final = 17.0  # between two outcomes, so that each has room for its label
BAR: Final = 10.0  # width of what a band begins or ends at
LEFT, MIDDLE, RIGHT = 130.0, 300.0, 500.0


@dataclass(frozen=True)
class Outcome:
    """What became of some records."""

    label: str
    records: int
    colour: str  # a variable of the page's style
    was_read: bool = True


def outcomes(counts: Counts) -> list[Outcome]:
    """What became of all records of the source, as far as the run knows; those of which nothing is, are left out."""
    every = [
        Outcome("in unchanged files, skipped", counts.skipped, "grey", False),
        Outcome("rejected earlier, in skipped files", counts.skipped_rejected, "amber", False),
        Outcome("unchanged", counts.unchanged, "grey"),
        Outcome("rewritten, vector kept", counts.rewritten, "teal"),
        Outcome("embedded and written", counts.written, "blue"),
        Outcome("rejected", counts.rejected, "red"),
        Outcome("read, not resolved", counts.read - counts.resolved, "amber"),
    ]
    return [each for each in every if each.records > 0]


def flow_diagram(counts: Counts) -> Markup | None:
    """The diagram; None if there were no records."""
    parts = outcomes(counts)
    total = sum(each.records for each in parts)
    if not total:
        return None
    wide = [max(THINNEST, each.records / total * (HEIGHT - GAP * len(parts))) for each in parts]
    height = max(HEIGHT, sum(wide) + GAP * len(parts))
    source_top, top = (height - sum(wide)) / 2, GAP / 2
    read_from = sum(width for each, width in zip(parts, wide, strict=True) if not each.was_read)
    read, read_top = sum(each.records for each in parts if each.was_read), source_top + read_from + GAP / 2
    drawn = [bar(LEFT, source_top, sum(wide), "ink"), label(LEFT - 8, height / 2, "source", total, "end")]
    if read and read_from:
        drawn.append(band((LEFT + BAR, source_top + read_from), (MIDDLE, read_top), sum(wide) - read_from, "grey"))
        drawn.append(bar(MIDDLE, read_top, sum(wide) - read_from, "ink"))
        drawn.append(label(MIDDLE + BAR / 2, read_top + sum(wide) - read_from + 12, "read", read, "middle"))
    begin = source_top
    for each, width in zip(parts, wide, strict=True):
        through_read = each.was_read and read_from
        start = (MIDDLE + BAR, begin + GAP / 2) if through_read else (LEFT + BAR, begin)
        drawn.append(band(start, (RIGHT, top), width, each.colour))
        drawn.append(bar(RIGHT, top, width, each.colour))
        drawn.append(label(RIGHT + BAR + 8, top + width / 2, each.label, each.records, "start"))
        begin, top = begin + width, top + width + GAP
    words = ", ".join(f"{each.label}: {each.records:,}" for each in parts)
    box = f"0 0 {WIDTH:g} {height:.0f}"
    return tag("svg", *drawn, viewBox=box, role="img", aria_label=f"{total:,} records. {words}")


def band(start: tuple[float, float], end: tuple[float, float], width: float, colour: str) -> Markup:
    """A band between two points, which are the left and the right end of its upper edge."""
    (x0, y0), (x1, y1) = start, end
    bend = (x0 + x1) / 2
    path = (
        f"M{x0:.1f} {y0:.1f}C{bend:.1f} {y0:.1f} {bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        f"V{y1 + width:.1f}C{bend:.1f} {y1 + width:.1f} {bend:.1f} {y0 + width:.1f} {x0:.1f} {y0 + width:.1f}Z"
    )
    return tag("path", d=path, fill=variable(colour), fill_opacity="0.35")


def bar(left: float, top: float, height: float, colour: str) -> Markup:
    """What a band begins or ends at."""
    place = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": BAR, "height": f"{height:.1f}"}
    return tag("rect", **place, fill=variable(colour), rx=2)


def label(x: float, y: float, name: str, records: int, anchor: str) -> Markup:
    """A name with its number."""
    number = tag("tspan", f"{records:,}", font_weight=600, fill=variable("ink"))
    words = [number, " ", name] if anchor == "start" else [name, " ", number]
    place = {"x": f"{x:.1f}", "y": f"{y + 4:.1f}", "text_anchor": anchor}
    return tag("text", joined(words), **place, font_size=12, fill=variable("faint"))
