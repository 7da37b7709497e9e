"""The text tower keeps what its text model can: real weights and sentences give the vectors that transformers gives.

`make prove` runs it, since it takes minutes.
"""

from __future__ import annotations

import ast
import itertools
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.vista_core.test_tokenizer import UNCASED
from vista_core import Encoder, EncoderSettings, Record
from vista_core.checkpoint import released_shapes
from vista_core.hub import resolve_config

SENTENCES = 10_000
BATCH = 64
TOLERANCE = 1e-5
pytestmark = [pytest.mark.prove, pytest.mark.timeout(1_200)]


def sentences() -> Iterator[str]:
    """Sentences of the documentation in Python's own library."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        try:
            nodes = list(ast.walk(ast.parse(path.read_bytes())))
        except (SyntaxError, ValueError):  # files that are wrong on purpose, for Python's own tests
            continue
        for node in nodes:
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                yield from (each for each in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if " " in each)


def with_random_images(folder: Path, model: Path) -> Encoder:
    """An encoder with the text model's weights, in the released layout beside a random vision tower."""
    from transformers import BertModel

    settings = EncoderSettings("vista-tiny", from_pretrained=str(model), device="cpu", dtype="float32")
    state = BertModel.from_pretrained(model).state_dict()
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in released_shapes(resolve_config(settings)).items():
        own = key.replace("bge_embeddings.", "embeddings.").replace("bge_encoder.", "encoder.")
        weights[key] = state[own].contiguous() if own in state else torch.randn(shape, generator=generator) * 0.02
    assert len(weights.keys() & {key.replace("embeddings.", "bge_embeddings.", 1) for key in state}) > 3
    path = folder / "minilm.safetensors"
    save_file(weights, path)
    return Encoder.load(
        EncoderSettings("vista-tiny", str(path), from_pretrained=str(model), device="cpu", dtype="float32")
    )


def test_texts_have_the_vectors_of_the_plain_text_model(tmp_path):
    from transformers import AutoTokenizer, BertModel

    texts = list(itertools.islice(dict.fromkeys(sentences()), SENTENCES))
    assert len(texts) == SENTENCES
    model = UNCASED  # all-MiniLM-L6-v2, a BERT of 6 layers
    ours = with_random_images(tmp_path, model).encode([Record(text) for text in texts])
    tokenizer, reference = AutoTokenizer.from_pretrained(model), BertModel.from_pretrained(model).eval()
    largest = 0.0
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # little padding
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        inputs = tokenizer(
            [texts[at] for at in some], return_tensors="pt", padding=True, truncation=True, max_length=512
        )
        with torch.no_grad():
            expected = torch.nn.functional.normalize(reference(**inputs).last_hidden_state[:, 0]).numpy()
        largest = max(largest, float(np.abs(ours[some] - expected).max()))
    print(f"\n{len(texts):,} sentences, largest difference of an element {largest:.1e}")
    assert largest <= TOLERANCE
