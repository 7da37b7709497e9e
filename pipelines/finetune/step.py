"""One step: loss and gradients of a batch whose activations need not fit into memory.

Cached gradients (GradCache, arXiv 2101.06983): all vectors are computed without a graph, the loss gives the gradient of
each vector, and then part after part of the batch is computed again, now with a graph, through which these gradients
go on to the weights. A batch that is one part is computed once. The result is the same, whatever the parts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipelines.finetune.batches import NO_IMAGE, Inputs, TrainingBatch
from pipelines.finetune.loss import loss_and_gradients
from pipelines.finetune.processes import Processes
from vista_core.attention import on_device
from vista_core.batching import plan_batches
from vista_core.model import VistaModel


@dataclass(frozen=True)
class Computation:
    """How a model is computed while it is trained.

    `dtype` is that of matrix products; the weights stay float32. `tokens` go through the model at once, image tokens
    included.
    """

    dtype: torch.dtype
    tokens: int
    temperature: float


@dataclass(frozen=True)
class Part:
    """Items that go through the model together, by their rows; all with an image, or all without."""

    rows: np.ndarray
    with_image: bool


def parts_of(inputs: Inputs, image_tokens: int, tokens: int) -> list[Part]:
    """Divide all items into parts of about `tokens` tokens. Within a part, shorter texts come first."""
    lengths, with_image = np.array([len(ids) for ids in inputs.ids]), inputs.image_of != NO_IMAGE
    parts = []
    for image in (True, False):
        rows = np.flatnonzero(with_image == image)
        planned = plan_batches((lengths[rows] + image_tokens * image).tolist(), tokens) if len(rows) else []
        parts += [Part(rows[chosen], image) for chosen in planned]
    return parts


def encode_part(model: VistaModel, inputs: Inputs, part: Part, dtype: torch.dtype) -> Tensor:
    """The vectors of a part, [P, D]. Each of its images goes through the vision tower once."""
    ids = [inputs.ids[row] for row in part.rows]
    packed, lengths = on_device(np.concatenate(ids), model.device), np.array([len(each) for each in ids])
    with computing_in(dtype, model.device):
        if not part.with_image:
            return model.encode(packed, lengths, None)
        distinct, number = np.unique(inputs.image_of[part.rows], return_inverse=True)
        tokens = model.image_tokens(on_device(inputs.images[distinct], model.device))
        return model.encode(packed, lengths, tokens.index_select(0, on_device(number, model.device)))


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in `dtype`, from float32 weights."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def recompute_layers(model: VistaModel) -> None:
    """Keep no activations within layers: they are computed again when gradients go through them."""
    for layer in [*model.vision.blocks, *model.text.layers]:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def loss_and_backward(
    model: VistaModel, batch: TrainingBatch, computation: Computation, processes: Processes
) -> float | None:
    """Add the gradients of a batch to those of the weights, over all processes; returns the loss over all of them.

    None, and no gradients, if no process has a pair that can be used.
    """
    inputs = batch.inputs
    if not sum(map(len, processes.gather(torch.empty(len(batch.queries), 0, device=model.device)))):
        return None
    parts = parts_of(inputs, model.config.vision.tokens, computation.tokens)
    at_once = len(parts) <= 1 or tokens_in(inputs, model.config.vision.tokens) <= computation.tokens
    with torch.set_grad_enabled(at_once):
        found = [encode_part(model, inputs, part, computation.dtype) for part in parts]
    vectors = in_order(found, parts, model)
    queries, candidates = (torch.from_numpy(rows).to(model.device) for rows in (batch.queries, batch.candidates))
    keys = (inputs.keys[batch.queries], inputs.keys[batch.positives], inputs.keys[batch.candidates])
    loss, of_queries, of_candidates = loss_and_gradients(
        (vectors[queries], vectors[candidates]), keys, processes, computation.temperature
    )
    gradients = torch.zeros_like(vectors)
    gradients.index_add_(0, queries, of_queries).index_add_(0, candidates, of_candidates)
    for number, part in enumerate(parts):
        encoded = found[number] if at_once else encode_part(model, inputs, part, computation.dtype)
        if encoded.requires_grad:  # not so for texts alone, where the text tower is frozen
            rows = torch.from_numpy(part.rows).to(model.device)
            torch.autograd.backward(encoded, gradients[rows])
    processes.add_up(gradient_of(each) for each in trained(model))
    return loss


def tokens_in(inputs: Inputs, image_tokens: int) -> int:
    """Tokens of all items."""
    return sum(map(len, inputs.ids)) + image_tokens * int((inputs.image_of != NO_IMAGE).sum())


def in_order(found: Sequence[Tensor], parts: Sequence[Part], model: VistaModel) -> Tensor:
    """The vectors of all parts, without a graph, [I, D] by the rows of the items."""
    if not parts:
        return torch.empty(0, model.config.dimension, device=model.device)
    order = np.argsort(np.concatenate([part.rows for part in parts]))
    return torch.cat([each.detach() for each in found])[torch.from_numpy(order).to(model.device)]


def trained(model: VistaModel) -> list[torch.nn.Parameter]:
    """The weights that are trained."""
    return [each for each in model.parameters() if each.requires_grad]


def gradient_of(weight: torch.nn.Parameter) -> Tensor:
    """The gradient of a weight; zeros if this process's share of the batch doesn't use it."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
