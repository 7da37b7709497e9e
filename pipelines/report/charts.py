"""The plots of a report: rows over time, where the time went, the nights before, recall against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipelines.progress import duration
from pipelines.report.figures import STAND_IN, WIDTH, drawing, words
from pipelines.report.markup import Markup
from pipelines.report.nights import Night
from pipelines.report.recorder import Phase, Timeline

BINS: Final = 80  # of a plot over time
STAGES: Final = ("read", "select", "fetch", "decode", "encode", "write")  # in the order of the flow
WITHIN: Final = 20.0  # percent by which a run may differ from its forecast
COLOUR_OF_STATUS: Final = {"done": "blue", "failed": "red", "stopped": "amber", "dead": "red"}


@dataclass(frozen=True)
class RecallPoint:
    """A measured setting of an index."""

    setting: str  # as people know it: "nprobes 16, refine 4"
    recall: float  # at 10, against exact search
    milliseconds: float  # at p50
    chosen: bool = False  # True for the setting that searches use


def throughput(panels: Sequence[tuple[str, Timeline]], start: float, end: float) -> Markup:
    """Records a second between two moments of a run, a panel for each named timeline."""
    scale, unit = time_scale(end - start)
    with drawing("throughput", 40 + 110 * len(panels), f"Records a second over {duration(end - start)}") as result:
        for number, (name, timeline) in enumerate(panels):
            axes = result.figure.add_axes(panel(number, len(panels), 40 + 110 * len(panels)))
            edges, rates = rates_of(timeline, start, end)
            places = [(edge - start) / scale for edge in edges]
            axes.stairs(rates, places, fill=True, color=STAND_IN["blue"], alpha=0.35, linewidth=0)
            axes.stairs(rates, places, color=STAND_IN["blue"], linewidth=1.4, baseline=None)
            axes.set_title(words(name, 120))
            axes.set_xlim(0, max(places[-1], 1e-9))
            axes.set_ylim(0, 1.1 * max(rates) or 1)
            few_ticks(axes)
            axes.tick_params(axis="x", labelbottom=number == len(panels) - 1)
        axes.set_xlabel(unit)
    return result.svg


def rates_of(timeline: Timeline, start: float, end: float) -> tuple[list[float], list[float]]:
    """Edges of bins (N + 1), in seconds, and the mean rate in each (N)."""
    import numpy as np

    times, numbers = (np.array(column, float) for column in zip(*timeline.points, strict=True))
    edges = np.linspace(start, max(end, start + 1e-6), max(2, min(BINS, 2 * len(times), int(end - start) + 1)) + 1)
    rates = np.diff(np.interp(edges, times, numbers)) / np.diff(edges)
    return edges.tolist(), rates.tolist()


def panel(number: int, of: int, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height, as shares of a figure, of one of several panels that lie below each other."""
    one = (height - 40) / of
    bottom = 34 + (of - 1 - number) * one
    return 56 / WIDTH, bottom / height, (WIDTH - 66) / WIDTH, (one - 24) / height


def few_ticks(axes: Any, number: int = 3) -> None:
    """A few numbers on the vertical axis, in full."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(number))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))


def brief(value: float) -> str:
    """A number in at most five characters or so: 1.2M, 34k, 12, 0.5."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def time_scale(seconds: float) -> tuple[float, str]:
    """By how many seconds, and under which name, a time is shown."""
    return (3600, "hours") if seconds > 7200 else (60, "minutes") if seconds > 180 else (1, "seconds")


def phases_chart(phases: Sequence[Phase]) -> Markup:
    """The run by the clock: a bar for each phase from its start to its end."""
    height = 44 + 22 * len(phases)
    scale, unit = time_scale(phases[-1].end)
    label = "; ".join(f"{each.name}: {in_seconds(each.end - each.start)}" for each in phases)
    with drawing("phases", height, label) as result:
        axes = result.figure.add_axes((170 / WIDTH, 34 / height, (WIDTH - 290) / WIDTH, (height - 40) / height))
        for row, each in enumerate(phases):
            long = each.end - each.start
            axes.barh(row, long / scale, left=each.start / scale, height=0.62, color=STAND_IN["blue"])
            beside(axes, each.end / scale, row, in_seconds(long))
        horizontal(axes, [each.name for each in phases])
        axes.set_xlim(0, max(phases[-1].end / scale, 1e-9))
        axes.set_xlabel(unit)
    return result.svg


def stages_chart(seconds: Mapping[str, float]) -> Markup:
    """What the stages took, added up over all tasks."""
    stages = sorted(seconds, key=lambda stage: STAGES.index(stage) if stage in STAGES else len(STAGES))
    total, height = sum(seconds.values()) or 1.0, 12 + 22 * len(stages)
    label = "; ".join(f"{stage}: {in_seconds(seconds[stage])}" for stage in stages)
    with drawing("stages", height, label) as result:
        axes = result.figure.add_axes((170 / WIDTH, 6 / height, (WIDTH - 290) / WIDTH, (height - 12) / height))
        for row, stage in enumerate(stages):
            axes.barh(row, seconds[stage], height=0.62, color=STAND_IN["teal"])
            beside(axes, seconds[stage], row, f"{in_seconds(seconds[stage])}, {seconds[stage] / total:.0%}")
        horizontal(axes, stages)
        axes.set_xlim(0, max(*seconds.values(), 1e-9))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
    return result.svg


def horizontal(axes: Any, names: Sequence[str]) -> None:
    """Names at the left of horizontal bars, from top to bottom."""
    axes.set_yticks(range(len(names)), [words(name, 30) for name in names])
    axes.tick_params(axis="y", labelcolor=STAND_IN["ink"], labelsize=9.5)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def beside(axes: Any, x: float, y: float, words: str) -> None:
    """Words behind the end of a horizontal bar."""
    axes.annotate(words, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=9)


def in_seconds(seconds: float) -> str:
    """A duration; a short one with a decimal."""
    return f"{seconds:.1f} s" if seconds < 20 else duration(seconds)


def nights_chart(nights: Sequence[Night]) -> Markup:
    """The last runs, oldest first, as small multiples of bars; a run without a figure has none."""
    kinds: list[tuple[str, list[float | int | None]]] = [
        ("records read", [night.read for night in nights]),
        ("embedded", [night.written for night in nights]),
        ("rejected, % of the read", [night.reject_percent for night in nights]),
        ("minutes", [night.minutes for night in nights]),
        ("embedded a second", [night.rows_per_second for night in nights]),
        ("rows no longer in the source", [night.missing for night in nights]),
    ]
    colours = [STAND_IN[COLOUR_OF_STATUS.get(night.status, "grey")] for night in nights]
    height, columns = 236.0, 3
    with drawing("nights", height, f"Six figures of the last {len(nights)} runs") as result:
        for at, (name, values) in enumerate(kinds):
            row, column = divmod(at, columns)
            left, bottom = 40 + column * (WIDTH - 10) / columns, 124 if row == 0 else 18
            place = (left / WIDTH, bottom / height, (WIDTH / columns - 56) / WIDTH, 82 / height)
            axes = result.figure.add_axes(place)
            upright_bars(axes, [value or 0.0 for value in values], colours)
            axes.set_title(name)
            axes.set_xlim(-0.6, max(len(nights), 10) - 0.4)
            axes.set_ylim(0, 1.1 * max(value or 0 for value in values) or 1)
            axes.set_xticks([])
            few_ticks(axes, 2)
    return result.svg


def forecast_chart(nights: Sequence[Night]) -> Markup | None:
    """How much longer than forecast the last runs took, in percent, oldest first; None if nothing was forecast."""
    deviations = [night.deviation_percent for night in nights]
    found = [each for each in deviations if each is not None]
    if not found:
        return None
    height = 96.0
    label = f"Of {len(found)} runs with a forecast, {within(found)} within {WITHIN:.0f} % of it"
    with drawing("forecasts", height, label) as result:
        axes = result.figure.add_axes((40 / WIDTH, 12 / height, (WIDTH - 56) / WIDTH, (height - 36) / height))
        colours = [STAND_IN["blue" if abs(each or 0.0) <= WITHIN else "amber"] for each in deviations]
        upright_bars(axes, [each or 0.0 for each in deviations], colours)
        axes.set_title(words(f"took longer than forecast (up) or less (down), %; amber: beyond {WITHIN:.0f} %", 120))
        axes.set_xlim(-0.6, max(len(nights), 10) - 0.4)
        most = 1.1 * max(1.5 * WITHIN, *map(abs, found))
        axes.set_ylim(-most, most)
        axes.set_xticks([])
        for at in (-WITHIN, WITHIN):
            axes.axhline(at, color=STAND_IN["faint"], linestyle="--", linewidth=1)
        axes.axhline(0, color=STAND_IN["faint"], linewidth=1)
        few_ticks(axes, 2)
    return result.svg


def within(deviations: Sequence[float]) -> int:
    """How many are within WITHIN percent."""
    return sum(abs(each) <= WITHIN for each in deviations)


def upright_bars(axes: Any, heights: Sequence[float], colours: Sequence[str]) -> None:
    """Bars side by side, as one element: matplotlib takes six times as long for one that it makes of each bar."""
    from matplotlib.collections import PolyCollection

    edges = [(at - 0.4, at + 0.4, height) for at, height in enumerate(heights)]
    corners = [((left, 0), (left, top), (right, top), (right, 0)) for left, right, top in edges]
    axes.add_collection(PolyCollection(corners, facecolors=colours, linewidths=0), autolim=False)


def recall_chart(points: Sequence[RecallPoint], wanted: float | None = None) -> Markup:
    """Recall against latency; a dashed line is the recall that was asked for."""
    height = 260.0
    label = "; ".join(f"{each.setting}: {each.recall:.3f}, {each.milliseconds:.1f} ms" for each in points)
    with drawing("recall", height, label) as result:
        axes = result.figure.add_axes((56 / WIDTH, 40 / height, (WIDTH - 76) / WIDTH, (height - 56) / height))
        for point in points:
            colour = STAND_IN["red" if point.chosen else "blue"]
            axes.plot(point.milliseconds, point.recall, "o", color=colour, markersize=8 if point.chosen else 5)
            if point.chosen:
                place = (point.milliseconds, point.recall)
                axes.annotate(words(point.setting), place, (8, -12), textcoords="offset points")
        if wanted is not None:
            axes.axhline(wanted, color=STAND_IN["faint"], linestyle="--", linewidth=1)
        axes.set_xlabel("ms at p50")
        axes.set_ylabel("recall@10")
    return result.svg
