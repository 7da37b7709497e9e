import pytest
import torch

from tests.vista_core.conftest import BASE, TINY
from vista_core import MODELS
from vista_core.device import resolve_device, resolve_dtype

CPU = torch.device("cpu")
M3 = "bge-visualized-m3"


@pytest.mark.parametrize(
    ("feature", "dtype"), [("avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("avx2", "float32")]
)
def test_auto_is_bfloat16_if_the_cpu_is_fast_at_it(feature: str, dtype: str):
    cpu = {feature: True}
    assert resolve_dtype("auto", "cpu", MODELS[BASE], cpu) == dtype
    assert resolve_dtype("auto", "cpu", MODELS[TINY], cpu) == "float32"  # too narrow to keep a cosine of 0.999
    assert resolve_dtype("auto", "cpu", MODELS[M3], cpu) == "float32"  # too deep


def test_auto_asks_this_machines_cpu_by_default():
    here = torch.cpu.get_capabilities()
    assert resolve_dtype("auto", "cpu", MODELS[BASE]) == resolve_dtype("auto", "cpu", MODELS[BASE], here)


def test_auto_on_a_gpu_is_float16_if_bfloat16_is_too_coarse():
    """This machine needs no GPU, since a driver decides for its workers."""
    assert resolve_dtype("auto", "cuda", MODELS[BASE]) == "bfloat16"
    assert resolve_dtype("auto", "cuda", MODELS[M3]) == "float16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_explicit_dtype_is_kept_even_if_the_cpu_is_slow_at_it(dtype: str):
    assert resolve_dtype(dtype, "cpu", MODELS[TINY], {}) == dtype


def test_auto_is_the_gpu_if_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU
