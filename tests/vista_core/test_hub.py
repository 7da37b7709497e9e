import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vista_core.conftest import BASE, M3
from tests.vista_core.test_tokenizer import UNCASED, text_folder
from vista_core import EncoderSettings
from vista_core.hub import BUILT_IN, weights_path
from vista_core.hub import text_folder as resolve_text_folder

LOAD = (
    "import sys, vista_core as v; v.Encoder.load(v.EncoderSettings(sys.argv[1], from_pretrained=sys.argv[2] or None))"
)


def load_offline(model: str, folder: str, tmp_path: Path, **environment: str) -> str:
    """Load an encoder in a process without a hub or a cache; returns the last line of its error."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, model, folder],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - start < 30
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_network_the_error_names_the_text_model_and_its_option(tmp_path: Path, environment: dict[str, str]):
    message = load_offline(M3, "", tmp_path, **environment)
    assert "DownloadError: config.json of BAAI/bge-m3" in message
    assert "https://huggingface.co/BAAI/bge-m3/resolve/5617a9f61b028005a4858fdac845db406aefb181/config.json" in message
    assert "--from-pretrained FOLDER" in message


def test_without_a_network_the_error_names_the_weights_and_their_option(tmp_path: Path):
    folder = text_folder(tmp_path, BASE, (UNCASED / "tokenizer.json").read_text())
    message = load_offline(BASE, str(folder), tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "DownloadError: Visualized_base_en_v1.5.pth of BAAI/bge-visualized" in message
    assert "--weights PATH" in message


def test_files_that_are_given_or_built_in_are_not_downloaded(tmp_path: Path):
    assert weights_path(EncoderSettings(BASE, weights="a.pth")) == Path("a.pth")
    assert resolve_text_folder(EncoderSettings(BASE, from_pretrained=str(tmp_path))) == tmp_path
    assert weights_path(EncoderSettings()) == BUILT_IN / "vista-tiny" / "model.safetensors"
    assert resolve_text_folder(EncoderSettings()) == BUILT_IN / "vista-tiny"


def test_the_built_in_model_is_small():
    assert sum(path.stat().st_size for path in BUILT_IN.rglob("*") if path.is_file()) < 5_000_000
