"""The contrastive loss, against that of sentence-transformers, and against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.finetune.loss import info_nce, loss_and_gradients, others_right
from pipelines.finetune.processes import Processes


def vectors(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


class Given(torch.nn.Module):
    """Stands for a model of sentence-transformers: the vectors are given."""

    def forward(self, features):
        return {"sentence_embedding": features["vectors"]}


def theirs(queries, positives, negatives, temperature):
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(Given(), scale=1 / temperature)
    columns = [{"vectors": each} for each in (queries, positives, *negatives)]
    return loss(columns, torch.empty(0))


def across(gradients, rows):
    rows = rows.detach()
    return gradients - (gradients * rows).sum(1, keepdim=True) * rows


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_loss_and_gradients_are_those_of_sentence_transformers(temperature):
    queries, positives, *negatives = (vectors(6, seed).requires_grad_() for seed in range(4))
    expected = theirs(queries, positives, negatives, temperature)
    expected.backward()
    candidates = torch.cat([positives, *negatives]).detach()
    keys = (np.arange(6), np.arange(100, 106), np.arange(100, 118))
    loss, of_queries, of_candidates = loss_and_gradients((queries.detach(), candidates), keys, Processes(), temperature)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    # Theirs normalises the vectors once more, which takes the part along each vector out of its gradient.
    torch.testing.assert_close(across(of_queries, queries), queries.grad, rtol=1e-4, atol=1e-5)
    theirs_of_candidates = torch.cat([each.grad for each in (positives, *negatives)])
    torch.testing.assert_close(across(of_candidates, candidates), theirs_of_candidates, rtol=1e-4, atol=1e-5)


def test_equal_candidates_count_once():
    queries, candidates = vectors(2, 0), vectors(3, 1)
    doubled = torch.cat([candidates, candidates[:1]])
    once, *_ = loss_and_gradients(
        (queries, candidates), (np.array([1, 2]), np.array([7, 8]), np.array([7, 8, 9])), Processes(), 0.1
    )
    keys = (np.array([1, 2]), np.array([7, 8]), np.array([7, 8, 9, 7]))
    twice, *_ = loss_and_gradients((queries, doubled), keys, Processes(), 0.1)
    assert twice == pytest.approx(once)


def test_what_another_query_of_equal_content_finds_is_not_wrong():
    queries, candidates = vectors(3, 0), vectors(4, 1)
    queries[1] = queries[0]
    keys = (np.array([5, 5, 6]), np.array([10, 11, 12]), np.array([10, 11, 12, 13]))
    loss, *_ = loss_and_gradients((queries, candidates), keys, Processes(), 0.1)
    scores = (queries @ candidates.T / 0.1).exp()
    shares = [
        scores[0, 0] / scores[0, [0, 2, 3]].sum(),
        scores[1, 1] / scores[1, [1, 2, 3]].sum(),
        scores[2, 2] / scores[2].sum(),
    ]
    assert loss == pytest.approx(-float(torch.stack(shares).log().mean()), rel=1e-5)


def test_others_right_leaves_out_the_own_target():
    others = others_right(np.array([5, 5, 6, 5]), np.array([0, 1, 2, 0]), 4)
    assert others.tolist() == [
        [False, True, False, False],
        [True, False, False, False],
        [False, False, False, False],
        [False, True, False, False],
    ]


def test_a_perfect_match_among_orthogonal_candidates_has_hardly_a_loss():
    axes = torch.eye(4)
    found = info_nce(axes, axes, torch.arange(4), torch.zeros(4, 4, dtype=torch.bool), 0.02)
    assert float(found) == pytest.approx(0, abs=1e-6)
