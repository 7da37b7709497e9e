"""Searches for the held-out pairs: how often what a query should find is among the first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from pipelines.finetune.batches import BatchMaker, TrainingBatch
from pipelines.finetune.plan import Batch, Plan
from pipelines.finetune.prepared import Prepared
from pipelines.finetune.step import Computation, encode_part, in_order, parts_of
from vista_core import Preprocessor
from vista_core.model import VistaModel

DEPTHS: Final = (1, 5, 10)
ALL: Final = sys.maxsize  # hard negatives


def held_out_batches(prepared: Prepared, preprocessor: Preprocessor, plan: Plan) -> list[TrainingBatch]:
    """The held-out pairs of each task with all of their hard negatives, as far as their images can be used."""
    maker = BatchMaker(prepared, preprocessor, plan, [ALL] * len(prepared.tasks))
    made = [maker.make(Batch(0, task, rows)) for task, rows in enumerate(plan.validation) if len(rows)]
    return [batch for batch in made if len(batch.queries)]


@torch.no_grad()
def hit_rates(model: VistaModel, batch: TrainingBatch, computation: Computation) -> dict[str, float]:
    """`hit_rate@K` of the pairs of a batch, among all of its candidates; a candidate that ties counts as before it."""
    parts = parts_of(batch.inputs, model.config.vision.tokens, computation.tokens)
    found = [encode_part(model, batch.inputs, part, computation.dtype) for part in parts]
    vectors = in_order(found, parts, model)
    rows = [torch.from_numpy(each).to(model.device) for each in (batch.queries, batch.positives, batch.candidates)]
    queries, positives, candidates = (vectors[each] for each in rows)
    scores, own = queries @ candidates.T, (queries * positives).sum(1, keepdim=True)
    is_own = rows[1][:, None] == rows[2]
    before = ((scores >= own) & ~is_own).sum(1).cpu().numpy()
    return {f"hit_rate@{depth}": float(np.mean(before < depth)) for depth in depths_of(batch.candidates)}


def depths_of(candidates: Sequence[int] | np.ndarray) -> list[int]:
    """The depths that say something about so many candidates."""
    return [depth for depth in DEPTHS if depth < len(candidates)]
