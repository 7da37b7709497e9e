"""The contrastive loss (InfoNCE, arXiv 1807.03748) over the candidates of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.finetune.processes import Processes


def info_nce(queries: Tensor, candidates: Tensor, targets: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Mean over the queries of -log of the share that the target has of exp(cosine / temperature) over all candidates.

    `queries` [Q, D] and `candidates` [C, D] have norm 1; `targets` int64 [Q] are rows of candidates. `others` bool
    [Q, C] marks further candidates that are right for a query: they don't count as wrong ones.
    """
    scores = queries @ candidates.T / temperature
    return F.cross_entropy(scores.masked_fill(others, float("-inf")), targets)


@dataclass(frozen=True)
class Gathered:
    """The vectors of all processes, and where this process's own are among them."""

    vectors: Tensor  # [N, D]
    own: slice

    @classmethod
    def of(cls, vectors: Tensor, processes: Processes) -> Gathered:
        """Gather what each process has."""
        parts = processes.gather(vectors)
        start = sum(len(part) for part in parts[: processes.rank])
        return cls(torch.cat(parts), slice(start, start + len(vectors)))


def loss_and_gradients(
    vectors: tuple[Tensor, Tensor], keys: Sequence[np.ndarray], processes: Processes, temperature: float
) -> tuple[float, Tensor, Tensor]:
    """The loss over the queries and candidates of all processes, and its gradients for those of this process.

    `vectors` are this process's queries [Q, D] and candidates [C, D], without a graph; `keys` the int64 hashes of the
    content of its queries, of their positives, and of its candidates. Every process computes the whole loss, so the
    gradients of negatives that another process contributed are right without passing a gradient between them.
    Candidates of equal content count once. What is right for a query isn't wrong for another query of equal content.
    """
    device = vectors[0].device
    queries, candidates = (Gathered.of(each, processes) for each in vectors)
    query_keys, positive_keys, candidate_keys = (
        torch.cat(processes.gather(torch.from_numpy(each).to(device))).cpu().numpy() for each in keys
    )
    distinct, first = np.unique(candidate_keys, return_index=True)
    targets = np.searchsorted(distinct, positive_keys)
    others = others_right(query_keys, targets, len(distinct))
    q = queries.vectors.detach().requires_grad_()
    c = candidates.vectors.detach().requires_grad_()
    chosen = c.index_select(0, torch.from_numpy(first).to(device))
    loss = info_nce(q, chosen, torch.from_numpy(targets).to(device), torch.from_numpy(others).to(device), temperature)
    loss.backward()  # type: ignore[no-untyped-call]
    assert q.grad is not None and c.grad is not None, "both are leaves of the loss"
    return float(loss.detach()), q.grad[queries.own], c.grad[candidates.own]


def others_right(query_keys: np.ndarray, targets: np.ndarray, candidates: int) -> np.ndarray:
    """Bool [Q, candidates]: the targets of queries with the same key, apart from a query's own target."""
    others = np.zeros((len(query_keys), candidates), bool)
    order = np.argsort(query_keys, kind="stable")
    for twins in np.split(order, np.flatnonzero(np.diff(query_keys[order])) + 1):
        if len(twins) > 1:
            others[np.ix_(twins, targets[twins])] = True
            others[twins, targets[twins]] = False
    return others
