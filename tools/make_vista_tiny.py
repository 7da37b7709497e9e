"""Write the files of vista-tiny: a tokenizer trained on Python's own documentation, and synthetic weights.

    env -i .venv/bin/python -m tools.make_vista_tiny [FOLDER]

The input is Python's documentation and its table of characters. `env -i` empties the environment, whose variables would
otherwise be part of the input, since the documentation of `cgi` contains them. The same Python version then always
writes the same files.
"""

import pydoc
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vista_core.checkpoint import released_shapes
from vista_core.config import MODELS
from vista_core.hub import BUILT_IN
from vista_core.model_folder import ModelFolder
from vista_core.synthetic import synthetic_checkpoint

NAME = "vista-tiny"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SKIPPED = ("antigravity", "this", "idlelib", "turtledemo", "lib2to3", "__phello__", "test")  # imports with effects
NAMES_REPEATED = 8  # weight of character names (red apple, grinning face), which resemble captions more than docs do


def corpus() -> Iterator[str]:
    """Lines to train on: documentation of the standard library, then names of Unicode characters."""
    for module in sorted(sys.stdlib_module_names):
        if not module.startswith(("_", *SKIPPED)):
            yield from _documentation(module)
    names = [unicodedata.name(chr(code), "").lower() for code in range(0x20, 0x1FC00)]
    spoken = [name for name in names if name and not re.search(r"\d|syllable|ideograph", name)]
    for _ in range(NAMES_REPEATED):
        yield from spoken


def _documentation(module: str) -> list[str]:
    """The lines of a module's documentation, without what differs between machines and runs."""
    try:
        text = pydoc.plain(pydoc.render_doc(module))
    except (ImportError, pydoc.ErrorDuringImport):  # a module of another platform
        return []
    prose = re.split(r"\n(?:DATA|FILE)\n", text)[0]  # values and paths depend on the machine
    return re.sub(r"0x[0-9a-f]+", "", prose).splitlines()  # so do memory addresses on the run


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer with lower-cased NFKC; no text has an unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ends = [(token, SPECIALS.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def main(folder: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors to `folder`."""
    config = MODELS[NAME]
    checkpoint = synthetic_checkpoint(config)
    state = {key: checkpoint.read(key).half() for key in released_shapes(config)}
    made_by = {"recipe": "tools/make_vista_tiny.py: synthetic weights, untrained"}
    ModelFolder(folder, NAME, config, made_by).write(train_tokenizer(config.text.vocab_size).to_str(), state)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else BUILT_IN / NAME)
