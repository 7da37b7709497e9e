"""The page of a training: losses, hit rates of the held-out pairs, the learning rate, and the options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.figures import Figures, in_steps, in_words
from pipelines.progress import duration
from pipelines.report.figures import STAND_IN, WIDTH, drawing, words
from pipelines.report.markup import Markup, table
from pipelines.report.page import Page, Section
from pipelines.report.sections import configuration_section, versions_section, wide
from pipelines.tables.runs import library_versions

HEIGHT: Final = 280.0
COLOURS: Final = ("blue", "red", "teal", "amber", "grey")
POINTS: Final = 400  # of a line; more can't be told apart
SMOOTHED: Final = 25  # steps of a mean

Line = Sequence[tuple[float, float]]


def page_of(figures: Figures) -> Page:
    """The page of a training that is over."""
    last = figures.validated[-1].hit_rates if figures.validated else {}
    tiles = [(f"loss, {task}", f"{loss:.3f}") for task, loss in figures.last_losses().items()]
    tiles += [
        (f"hit rate at 5, {task}", f"{rates['hit_rate@5']:.3f}")
        for task, rates in last.items()
        if "hit_rate@5" in rates
    ]
    lost = [f"Skipped {each}." for each in in_words(figures.left_out)]
    pairs = ", ".join(f"{len(task.pairs):,} of {task.name}" for task in figures.prepared.tasks)
    return Page(
        title=figures.name,
        subtitle=f"vista finetune: from {figures.config.model}, recipe {figures.config.recipe}",
        passed=True,
        verdict=f"{in_steps(len(figures.stepped))} in {duration(figures.seconds)}",
        explanation=[f"Trained on {figures.trained_on} with pairs: {pairs}.", *lost],
        tiles=tiles,
        sections=[
            loss_section(figures),
            held_out_section(figures),
            rate_section(figures),
            configuration_section(
                {"options": dataclasses.asdict(figures.config), "recipe": dataclasses.asdict(figures.training.recipe)},
                "options",
                FinetuneConfig,
            ),
            versions_section(library_versions(), {}),
        ],
    )


def loss_section(figures: Figures) -> Section:
    """The loss of each task, smoothed over its last steps."""
    lines = {name: smoothed(figures.losses(number)) for number, name in enumerate(figures.tasks)}
    note = (
        f"InfoNCE over the candidates of a batch, the mean of {SMOOTHED} steps of a task. A loss depends on how many "
        "candidates there are, so that of one batch size can't be compared with that of another."
    )
    return Section("Loss", wide(lines_chart("loss", lines, "loss", top=None)), note)


def held_out_section(figures: Figures) -> Section | None:
    """What searches for the held-out pairs found."""
    if not figures.validated:
        return None
    lines: dict[str, Line] = {}
    for task in figures.validated[-1].hit_rates:
        for name in figures.validated[-1].hit_rates[task]:
            lines[f"{task}: {name}"] = [(each.step, each.hit_rates[task][name]) for each in figures.validated]
    rows = [[name, f"{line[0][1]:.3f}", f"{line[-1][1]:.3f}"] for name, line in lines.items()]
    drawn = {name: line for name, line in lines.items() if name.endswith("@1")}  # more would be a tangle
    body = Markup(
        wide(lines_chart("held-out", drawn, "hit rate", top=1.0)) + table(["", "first", "last"], rows, (1, 2))
    )
    note = (
        "Pairs that were left out of the training are searched for among all positives and hard negatives of their "
        "task that were left out. `vista evaluate` measures on a task of your own, against a whole corpus."
    )
    return Section("Held-out pairs", body, note)


def rate_section(figures: Figures) -> Section:
    """The learning rate over the steps."""
    line = [(each.step, each.learning_rate) for each in figures.stepped]
    return Section("Learning rate", wide(lines_chart("rate", {"vision tower": thinned(line)}, "", top=None)))


def smoothed(line: Sequence[tuple[int, float]]) -> Line:
    """Means over the last steps, of at most POINTS of them."""
    if not line:
        return []
    steps, values = np.array([each[0] for each in line]), np.array([each[1] for each in line])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - SMOOTHED)
    return thinned(list(zip(steps.tolist(), ((sums[ends] - sums[starts]) / (ends - starts)).tolist(), strict=True)))


def thinned(line: Line) -> Line:
    """At most POINTS of a line, its last one included."""
    stride = -(-len(line) // POINTS) or 1
    return list(line[::-1][::stride])[::-1]


def lines_chart(name: str, lines: dict[str, Line], label: str, top: float | None) -> Markup:
    """Lines over steps, with their names at their ends."""
    shown = {each: line for each, line in lines.items() if line}
    said = "; ".join(f"{each}: {line[-1][1]:.4g} at the end" for each, line in shown.items())
    with drawing(name, HEIGHT, said) as result:
        axes = result.figure.add_axes((50 / WIDTH, 40 / HEIGHT, (WIDTH - 240) / WIDTH, (HEIGHT - 56) / HEIGHT))
        for number, line in enumerate(shown.values()):
            steps, values = zip(*line, strict=True)
            axes.plot(steps, values, color=STAND_IN[COLOURS[number % len(COLOURS)]], linewidth=1.5)
        axes.set_ylim(0, top)
        axes.set_xlim(left=0)
        axes.set_xlabel("steps")
        axes.set_ylabel(label)
        bottom, height = axes.get_ylim()
        last = -1.0
        ends = sorted((line[-1][1], each, number) for number, (each, line) in enumerate(shown.items()))
        for value, each, number in ends:  # names are moved apart where they would cover each other
            last = max((value - bottom) / (height - bottom), last + 0.06)
            colour = STAND_IN[COLOURS[number % len(COLOURS)]]
            axes.text(1.02, last, words(each, 32), color=colour, va="center", fontsize=8.5, transform=axes.transAxes)
    return result.svg
