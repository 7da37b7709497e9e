import pytest
import torch
import torch.nn.functional as F

from vista_core.attention import FULL_SCORES_UP_TO, attend


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_both_implementations_agree(queries: int, masked: bool):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 9, 16).unbind(0)
    q = q[:, :, :queries]
    mask = (torch.arange(9) < torch.tensor([[5], [9]]))[:, None, None] if masked else None
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, k, v, mask), exact)
    rounded = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=3e-2)


def test_long_sequences_do_not_compute_the_full_score_matrix():
    q = torch.randn(1, 1, FULL_SCORES_UP_TO + 1, 8).bfloat16()
    expected = F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, q, q), expected, rtol=0, atol=0)
