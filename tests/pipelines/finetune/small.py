"""A small model, and batches of drawn pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines.finetune.batches import BatchMaker, TrainingBatch
from pipelines.finetune.layout import read_layout
from pipelines.finetune.plan import Plan
from pipelines.finetune.prepared import Prepared
from pipelines.finetune.step import Computation
from tests.pipelines.finetune.drawn import write_data
from vista_core import MODELS, EncoderSettings, Preprocessor
from vista_core.checkpoint import load_model
from vista_core.model import VistaModel
from vista_core.synthetic import synthetic_checkpoint

TINY = "vista-tiny"
FLOAT32 = Computation(torch.float32, 1_000_000, 0.02)


@dataclass
class Small:
    """What a step needs."""

    prepared: Prepared
    plan: Plan

    def batch(self, step: int, rank: int = 0, processes: int = 1, negatives: int = 2) -> TrainingBatch:
        preprocessor = Preprocessor.load(EncoderSettings(TINY))
        maker = BatchMaker(self.prepared, preprocessor, self.plan, [negatives, negatives])
        return maker.make(self.plan.of(step), rank, processes)


def small(folder: Path, batch: int = 12) -> Small:
    prepared = read_layout(str(write_data(folder)))
    return Small(prepared, Plan(tuple(len(task.pairs) for task in prepared.tasks), batch, seed=0, held_out=0))


def model() -> VistaModel:
    return load_model(MODELS[TINY], synthetic_checkpoint(MODELS[TINY])).train()


def gradients(of: VistaModel) -> dict[str, np.ndarray]:
    found = {name: each.grad for name, each in of.named_parameters() if each.grad is not None}
    return {name: gradient.numpy().copy() for name, gradient in found.items()}


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """As a share of the longest gradient of a weight."""
    assert one.keys() == other.keys()
    scale = max(np.abs(each).max() for each in one.values())
    assert scale > 0
    return max(np.abs(one[name] - other[name]).max() for name in one) / scale
