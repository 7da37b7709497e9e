"""The card of a trained model, as Markdown: what it was trained with, how well it did, and what isn't known of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pipelines.finetune.figures import Figures, in_steps, in_words
from pipelines.progress import duration
from pipelines.tables.runs import library_versions
from vista_core.hub import resolve_config


def card(figures: Figures) -> str:
    """The card."""
    sizes, recipe = resolve_config(figures.start), figures.training.recipe
    text, vision = sizes.text, sizes.vision
    found = figures.validated[-1].hit_rates if figures.validated else {}
    rates = [[task, name, f"{value:.3f}"] for task, each in found.items() for name, value in each.items()]
    facts = figures.prepared.facts
    lines = [
        f"# {figures.name}",
        "",
        "One embedding for a text, for an image, and for an image with text (VISTA, arXiv 2406.04292).",
        "",
        f"    vista embed --source CATALOG --db DB --table TABLE --model {figures.name}",
        "",
        "where the folder that this card is in stands for the name. `model.pth` has the same weights in the released "
        "layout of Visualized-BGE.",
        "",
        "## Sizes",
        "",
        *markdown(
            ["", "width", "layers", "heads", ""],
            [
                ["text tower", text.width, text.layers, text.heads, f"{text.family}, {text.vocab_size:,} tokens"],
                [
                    "vision tower",
                    vision.width,
                    vision.layers,
                    vision.heads,
                    f"{vision.image_size} px, {vision.tokens} tokens",
                ],
            ],
        ),
        "",
        "## Training",
        "",
        f"It started from `{figures.config.model}`, and made {in_steps(len(figures.stepped))} in "
        f"{duration(figures.seconds)} on {figures.trained_on}, with products in {figures.training.dtype}.",
        "",
        *markdown(["data", "pairs"], [[task.name, f"{len(task.pairs):,}"] for task in figures.prepared.tasks]),
        "",
        *(f"* {name}: {value}" for name, value in facts.items()),
        *(f"* skipped {each}" for each in in_words(figures.left_out)),
        "",
        f"Transparent images {'were composited on white' if figures.alpha == 'white' else 'lost their alpha channel'}.",
        "",
        f"Recipe `{figures.config.recipe}`, seed {figures.config.seed}:",
        "",
        *markdown(["hyperparameter", "value"], dataclasses.asdict(recipe).items()),
        "",
        "## Figures",
        "",
        *markdown(["task", "mean loss of the last steps"], figures.last_losses().items()),
        "",
        "Pairs that were held out, searched for among their own positives and hard negatives:",
        "",
        *markdown(["task", "", "share"], rates),
        "",
        "## What isn't known",
        "",
        "The held-out pairs are like those that it was trained with. How it does on other data, and what it lost of "
        "the abilities of the model that it started from, is for `vista evaluate` to say.",
        "",
        "Made with " + ", ".join(f"{name} {version}" for name, version in library_versions().items()) + ".",
        "",
    ]
    return "\n".join(lines)


def markdown(head: list[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table."""
    lines = [head, ["---"] * len(head), *(["" if cell is None else in_figures(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def in_figures(cell: object) -> str:
    """A value with as many digits as people read."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
