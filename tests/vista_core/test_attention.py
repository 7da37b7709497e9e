import pytest
import torch
import torch.nn.functional as F

from vista_core.attention import FULL_SCORES_UP_TO, Rows, attend


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("trained", [False, True])  # with gradients it is the full matrix on every CPU
def test_both_implementations_agree(queries: int, masked: bool, trained: bool):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 9, 16).unbind(0)
    q = q[:, :, :queries].requires_grad_(trained)
    mask = (torch.arange(9) < torch.tensor([[5], [9]]))[:, None, None] if masked else None
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, k, v, mask), exact)
    rounded = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=3e-2)


def test_long_sequences_do_not_compute_the_full_score_matrix():
    q = torch.randn(1, 1, FULL_SCORES_UP_TO + 1, 8).bfloat16().requires_grad_()
    expected = F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, q, q), expected, rtol=0, atol=0)


def test_rows_are_selected_and_their_gradients_put_back():
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    order = torch.tensor([3, 0, 4, 1, 2])
    back = torch.argsort(order)
    assert torch.autograd.gradcheck(lambda x: Rows.apply(x, order, back), rows)
    some = torch.tensor([4, 1])
    assert torch.autograd.gradcheck(lambda x: Rows.apply(x, some, None), rows)  # rows 0, 2 and 3 have no gradient
    torch.testing.assert_close(Rows.apply(rows, order, back), rows.index_select(0, order))


def test_padding_gets_no_gradient():
    rows = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    padded_from, packed_from = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 3])  # one token, padded; two tokens
    padded = Rows.apply(rows, padded_from, packed_from)
    weights = torch.tensor([[1.0], [0.0], [2.0], [3.0]], dtype=torch.float64)  # the mask: nothing depends on padding
    (padded * weights).sum().backward()
    torch.testing.assert_close(rows.grad, torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64).expand(3, 2))
