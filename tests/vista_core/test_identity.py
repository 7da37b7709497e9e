import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vista_core.conftest import TINY
from vista_core import MODELS, CheckpointError, Encoder, EncoderIdentity, EncoderSettings, encoder_identity
from vista_core.hub import BUILT_IN
from vista_core.synthetic import write_synthetic


def test_it_is_computed_without_building_the_model(tiny_encoder: Encoder):
    identity = encoder_identity(EncoderSettings(device="cpu"))
    assert identity == tiny_encoder.identity
    assert (identity.model, identity.dtype, identity.dimension) == (TINY, "float32", 128)
    assert identity.max_tokens == (128, 112)


def test_it_round_trips_through_json(tiny_encoder: Encoder):
    text = tiny_encoder.identity.to_json()
    assert EncoderIdentity.from_json(text) == tiny_encoder.identity
    assert set(json.loads(text)) == {
        *("model", "weights", "tokenizer", "config", "dtype", "preprocessing", "alpha", "max_tokens", "dimension")
    }


def test_it_is_the_same_in_another_process(tiny_encoder: Encoder):
    code = "import vista_core as v; print(v.encoder_identity(v.EncoderSettings(device='cpu')).to_json())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert EncoderIdentity.from_json(done.stdout) == tiny_encoder.identity


def test_differences_name_the_field_and_both_values(tiny_encoder: Encoder):
    here = replace(tiny_encoder.identity, weights="a" * 64, alpha="white")
    there = replace(here, weights="b" * 64, alpha="drop", max_tokens=(100, 90))
    assert here.differences(here) == []
    assert here.differences(there) == [
        "weights: aaaaaaaaaaaa... here, bbbbbbbbbbbb... in the table",
        "alpha: white here, drop in the table",
        "max_tokens: 128 / 112 here, 100 / 90 in the table",
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"alpha": "white"}, "alpha"),
        ({"max_tokens": 50}, "max_tokens"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"resize": "exact"}, "preprocessing"),
    ],
)
def test_a_setting_that_affects_vectors_affects_the_identity(change: dict, field: str):
    plain, other = encoder_identity(EncoderSettings()), encoder_identity(EncoderSettings(**change))
    assert [line.partition(":")[0] for line in plain.differences(other)] == [field]


def test_max_tokens_above_the_models_limits_changes_nothing():
    assert encoder_identity(EncoderSettings(max_tokens=9999)) == encoder_identity(EncoderSettings())


def test_other_weights_another_tokenizer_and_another_config_are_differences(tmp_path: Path):
    weights = tmp_path / "drawn.pth"
    write_synthetic(MODELS[TINY], weights)
    plain = encoder_identity(EncoderSettings())
    # the built-in file holds the same values in float16
    assert [line[:8] for line in encoder_identity(EncoderSettings(weights=str(weights))).differences(plain)] == [
        "weights:"
    ]
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((BUILT_IN / TINY / name).read_bytes())
    moved = EncoderSettings(from_pretrained=str(tmp_path))
    assert encoder_identity(moved) == plain
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config["text"] | {"layer_norm_eps": 1e-6}))
    lines = encoder_identity(moved).differences(plain)
    assert [line.partition(":")[0] for line in lines] == ["tokenizer", "config"]


def test_weights_that_do_not_fit_the_config_are_a_checkpoint_error(tmp_path: Path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((BUILT_IN / TINY / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config["text"] | {"num_hidden_layers": 5}))
    with pytest.raises(CheckpointError, match=r"16 missing: bge_encoder\.layer\.4\."):
        encoder_identity(EncoderSettings(from_pretrained=str(tmp_path)))
