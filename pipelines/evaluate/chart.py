"""Curves of hit rate over the number of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluate.scoring import CHANCE, Scored
from pipelines.quality.metrics import CUTS
from pipelines.report.figures import STAND_IN, WIDTH, drawing, words
from pipelines.report.markup import Markup

HEIGHT = 300.0
COLOURS = ("blue", "red", "teal", "amber", "grey")


def hit_rate_chart(systems: Mapping[str, Scored]) -> Markup:
    """The hit rate at each cut, a line for each system; a band is its 95 % interval."""
    places, names = range(len(CUTS)), [f"hit_rate@{cut}" for cut in CUTS]
    said = "; ".join(f"{name}: {scored.intervals['hit_rate@5'].mean:.3f} at 5" for name, scored in systems.items())
    with drawing("hit-rate", HEIGHT, said) as result:
        axes = result.figure.add_axes((50 / WIDTH, 40 / HEIGHT, (WIDTH - 220) / WIDTH, (HEIGHT - 56) / HEIGHT))
        ends = []
        for number, (name, scored) in enumerate(systems.items()):
            colour = STAND_IN["faint" if name == CHANCE else COLOURS[number % len(COLOURS)]]
            found = [scored.intervals[metric] for metric in names]
            low, high = [each.low for each in found], [each.high for each in found]
            axes.plot(places, [each.mean for each in found], color=colour, marker="o", markersize=3.5)
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
            ends.append((found[-1].mean, name, colour))
        label_ends(axes, ends)
        axes.set_xticks(places, [str(cut) for cut in CUTS])
        axes.set_xlim(-0.2, len(CUTS) - 0.9)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("results that are looked at")
        axes.set_ylabel("hit rate")
    return result.svg


def label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Names at the ends of lines, moved apart where they would cover each other."""
    apart, last = 0.055, -1.0
    for height, name, colour in sorted(ends):
        last = max(height, last + apart)
        axes.text(len(CUTS) - 0.8, last, words(name, 34), color=colour, va="center", fontsize=8.5)
