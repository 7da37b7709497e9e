"""Recipes: the hyperparameters of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are those of the second stage of VISTA (arXiv 2406.04292).

    `trained`: `vision` trains the vision tower and the projection of its tokens, and leaves the text tower frozen;
    `all` trains everything. `batch` counts queries, over all processes. Each query brings hard negatives into its
    batch: `edit_negatives` where it is an image with an instruction and finds an image, else `negatives`.
    `learning_rate` holds for the vision tower and the projection, `text_learning_rate` for the text tower; with a
    `muon_learning_rate`, Muon trains the matrices of all layers at that rate instead. `warmup` is a share of all steps.
    `temperature` divides the cosines.
    """

    trained: Literal["vision", "all"] = "vision"
    batch: int = 640
    negatives: int = 1
    edit_negatives: int = 3
    epochs: float = 5
    learning_rate: float = 2e-5
    text_learning_rate: float = 2e-5
    muon_learning_rate: float | None = None
    schedule: Literal["linear", "cosine"] = "linear"
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    temperature: float = 0.02


# Published: batch, groups, epochs and learning rate of stage2; batch, groups and epochs of cirr; the temperature; what
# is trained. The rest are choices of this project.
RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "stage1": Recipe(negatives=0, edit_negatives=0, epochs=1),  # aligns the vision tower with the text tower
        "stage2": Recipe(),
        "cirr": Recipe(trained="all", batch=720, negatives=4, edit_negatives=4, epochs=50),
        "webqa": Recipe(trained="all"),
        "remuq": Recipe(trained="all"),
    }
)
