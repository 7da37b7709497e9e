import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.vista_core.conftest import BASE, GOLDEN, M3, TINY_CONFIGS
from vista_core import MODELS
from vista_core.synthetic import draw, main, synthetic_checkpoint, synthetic_shapes

CONFIGS = {"base": MODELS[BASE], "m3": MODELS[M3], **TINY_CONFIGS}


def released_keys(variant: str) -> dict[str, tuple[int, ...]]:
    listed = json.loads((GOLDEN / f"keys_{variant}.json").read_text())
    return {key: tuple(shape) for key, (shape, _) in listed.items()}


@pytest.mark.parametrize("variant", CONFIGS)
def test_keys_and_shapes_are_exactly_those_of_the_released_file(variant: str):
    assert synthetic_shapes(CONFIGS[variant]) == released_keys(variant)


@pytest.mark.parametrize("variant", ["base", "tiny_bert", "tiny_xlmr"])
def test_tensors_equal_those_of_the_recipe(variant: str):
    expected = json.loads((GOLDEN / "recipe_sha256_16.json").read_text())[variant]
    shapes = released_keys(variant)
    drawn = {key: hashlib.sha256(draw(key, shapes[key]).tobytes()).hexdigest()[:16] for key in expected}
    assert drawn == expected


def test_the_command_writes_both_formats(tmp_path, capsys):
    shapes = synthetic_shapes(MODELS["vista-tiny"])
    for name in ("tiny.safetensors", "tiny.pth"):
        assert main(["vista-tiny", str(tmp_path / name)]) == 0
    assert "untrained" in capsys.readouterr().out
    released = torch.load(tmp_path / "tiny.pth", weights_only=True)
    assert {key: tuple(value.shape) for key, value in released.items()} == shapes
    converted = load_file(tmp_path / "tiny.safetensors")
    checkpoint = synthetic_checkpoint(MODELS["vista-tiny"])
    for key in shapes:
        assert torch.equal(released[key], converted[key])
        assert torch.equal(released[key], checkpoint.read(key))
