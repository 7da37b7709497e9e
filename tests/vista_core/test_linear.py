import pytest
import torch

from vista_core.linear import GatedLinear, Linear, Packed, PackedGatedLinear, QueryKeyValue, can_pack, pack_for_cpu


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [1, 33])
def test_packed_layers_compute_the_same(dtype: torch.dtype, tolerance: float, gelu: bool, rows: int):
    torch.manual_seed(0)
    model = torch.nn.Sequential(Linear(40, 72, gelu=gelu), QueryKeyValue(72), GatedLinear(216, 30)).to(dtype)
    torch.nn.init.normal_(model[1].weight, std=0.1)
    torch.nn.init.normal_(model[1].q_bias)
    x = torch.randn(2, rows, 40, dtype=dtype)
    with torch.inference_mode():
        expected = model(x)
        pack_for_cpu(model)
        torch.testing.assert_close(model(x), expected, rtol=tolerance, atol=tolerance)
    assert [isinstance(layer, Packed | PackedGatedLinear) for layer in model] == [can_pack(dtype)] * 3
    assert can_pack(torch.float32) and not can_pack(torch.float16)


def test_keys_have_no_bias():
    layer = QueryKeyValue(4)
    torch.nn.init.ones_(layer.q_bias)
    torch.nn.init.ones_(layer.v_bias)
    assert layer.bias.tolist() == [1.0] * 4 + [0.0] * 4 + [1.0] * 4
