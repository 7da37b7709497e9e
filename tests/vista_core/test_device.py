import pytest
import torch

from tests.vista_core.conftest import BASE, TINY
from vista_core import MODELS
from vista_core.cpu_speed import fastest, product_rates
from vista_core.device import dtype_name, resolve_device, resolve_dtype

CPU = torch.device("cpu")
M3 = "bge-visualized-m3"


@pytest.mark.parametrize(
    ("bfloat16", "expected"), [(970, "bfloat16"), (121, "float32"), (190, "float32"), (220, "bfloat16")]
)
def test_auto_is_what_this_cpu_multiplies_fastest(bfloat16, expected):
    rates = {torch.float32: 179.0, torch.bfloat16: bfloat16}
    assert resolve_dtype("auto", "cpu", MODELS[BASE], lambda _: rates) == expected


@pytest.mark.parametrize("model", [TINY, M3])
def test_bfloat16_is_not_measured_for_models_whose_vectors_it_changes_too_much(model):
    """vista-tiny is too narrow to keep a cosine of 0.999, m3 too deep."""
    rates = product_rates(MODELS[model])
    assert torch.bfloat16 not in rates
    assert min(rates.values()) > 0


def test_the_base_model_is_measured_in_each_precision():
    rates = product_rates(MODELS[BASE])
    assert rates.keys() == {torch.float32, torch.bfloat16}
    assert resolve_dtype("auto", "cpu", MODELS[BASE]) == dtype_name(fastest(rates)), "measured once in a process"


def test_auto_on_a_gpu_is_float16_if_bfloat16_is_too_coarse():
    """This machine needs no GPU, since a driver decides for its workers."""
    assert resolve_dtype("auto", "cuda", MODELS[BASE]) == "bfloat16"
    assert resolve_dtype("auto", "cuda", MODELS[M3]) == "float16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_explicit_dtype_is_kept_even_if_the_cpu_is_slow_at_it(dtype: str):
    assert resolve_dtype(dtype, "cpu", MODELS[TINY]) == dtype


def test_auto_is_the_gpu_if_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU
