import pytest
import torch

from tests.vista_core.conftest import BASE, TINY
from vista_core import MODELS
from vista_core.device import resolve_device, resolve_dtype

CPU = torch.device("cpu")
M3 = "bge-visualized-m3"


@pytest.fixture
def cpu_with(monkeypatch):
    def pretend(*features: str) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))

    return pretend


@pytest.mark.parametrize(
    ("feature", "dtype"), [("avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("avx2", "float32")]
)
def test_auto_is_bfloat16_where_the_cpu_is_fast_at_it(cpu_with, feature: str, dtype: str):
    cpu_with(feature)
    assert resolve_dtype("auto", "cpu", MODELS[BASE]) == dtype
    assert resolve_dtype("auto", "cpu", MODELS[TINY]) == "float32"  # too narrow to keep a cosine of 0.999
    assert resolve_dtype("auto", "cpu", MODELS[M3]) == "float32"  # too deep


def test_auto_on_a_gpu_is_float16_where_bfloat16_is_too_coarse():
    """Known without a GPU here, since a driver decides for its workers."""
    assert resolve_dtype("auto", "cuda", MODELS[BASE]) == "bfloat16"
    assert resolve_dtype("auto", "cuda", MODELS[M3]) == "float16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_is_taken_at_its_word(cpu_with, dtype: str):
    cpu_with()
    assert resolve_dtype(dtype, "cpu", MODELS[TINY]) == dtype


def test_auto_is_the_gpu_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU
