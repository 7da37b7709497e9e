"""Model folders for tests: vista-tiny under another name, perhaps with another vector for each text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from safetensors.torch import load_file

from vista_core.hub import BUILT_IN
from vista_core.model_folder import ModelFolder

TINY = ModelFolder.open(BUILT_IN / "vista-tiny")


def write_model(path: Path, name: str = "products-v3", retrained: bool = False) -> str:
    """A model folder with the weights of vista-tiny, or `retrained` ones; returns its path."""
    state = load_file(TINY.weights)
    if retrained:
        key = "bge_embeddings.word_embeddings.weight"
        state[key] = state[key].flip(0).contiguous()
    tokenizer = (TINY.path / "tokenizer.json").read_text()
    dataclasses.replace(TINY, path=path, name=name, made_by={"recipe": "a test"}).write(tokenizer, state)
    return str(path)
