import json
from pathlib import Path

import pytest

from tests.vista_core.conftest import BASE, M3, TINY
from vista_core import MODELS, EncoderSettings, UsageError
from vista_core.config import hugging_face_config, read_text_config


def test_three_models_are_known_by_name():
    assert list(MODELS) == ["bge-visualized-base-en-v1.5", "bge-visualized-m3", "vista-tiny"]
    assert [MODELS[name].dimension for name in MODELS] == [768, 1024, 128]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "clip"}, "--model 'clip' is none of bge-visualized-base-en-v1.5, bge-visualized-m3, vista-tiny"),
        ({"dtype": "int8"}, "--dtype 'int8' is none of auto, float32, bfloat16, float16"),
        ({"alpha": "black"}, "--alpha 'black' is none of drop, white"),
        ({"device": "tpu"}, "--device 'tpu' is none of auto, cpu, cuda, cuda:N"),
        ({"max_tokens": 2}, "--max-tokens 2 leaves no room"),
    ],
)
def test_a_wrong_setting_is_an_error_with_the_option_and_the_allowed_values(change: dict, message: str):
    with pytest.raises(UsageError) as caught:
        EncoderSettings(**change)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", [BASE, M3, TINY])
def test_a_hugging_face_config_round_trips(tmp_path: Path, name: str):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(hugging_face_config(MODELS[name].text) | {"architectures": ["Any"]}))
    assert read_text_config(path, MODELS[name].text) == MODELS[name].text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "xlm-roberta"}', "describes a 'xlm-roberta' text tower; this model has a 'bert' one"),
        ('{"hidden_act": "relu"}', "hidden_act 'relu'"),
        ("[]", "cannot be read as a config.json"),
        ("{", "cannot be read as a config.json"),
    ],
)
def test_an_unreadable_or_unsupported_config_is_refused(tmp_path: Path, content: str, message: str):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_text_config(path, MODELS[BASE].text)


def test_a_folder_without_a_config_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"config\.json"):
        read_text_config(tmp_path / "config.json", MODELS[BASE].text)
