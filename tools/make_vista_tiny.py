"""The steps by which vista-tiny is made; `make vista-tiny` takes the last two, around its training.

    env -i .venv/bin/python -m tools.make_vista_tiny tokenizer FILE
    .venv/bin/python -m tools.make_vista_tiny start FOLDER
    .venv/bin/python -m tools.make_vista_tiny install FOLDER

The tokenizer is trained on Python's documentation and its table of characters. `env -i` empties the environment, whose
variables would otherwise be part of the input, since the documentation of `cgi` contains them.
"""

import argparse
import pydoc
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vista_core.assemble import random_tensor
from vista_core.checkpoint import open_checkpoint, released_shapes
from vista_core.config import MODELS
from vista_core.hub import BUILT_IN
from vista_core.model_folder import ModelFolder
from vista_core.tokenizer import read_tokenizer

NAME, CARD, SEED = "vista-tiny", "README.md", 0
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


def write_start(folder: Path) -> None:
    """Write a model folder with the built-in tokenizer and random weights, from which vista-tiny is trained."""
    config = MODELS[NAME]
    state = {key: random_tensor(key, shape, SEED) for key, shape in released_shapes(config).items()}
    tokenizer = read_tokenizer(BUILT_IN / NAME)
    ModelFolder(folder, f"{NAME}-start", config, {"recipe": "tools/make_vista_tiny.py: random weights"}).write(
        tokenizer, state
    )


def install(folder: Path) -> None:
    """Put a trained model in the place of the built-in one, with its weights in float16, and with its card."""
    trained, target = ModelFolder.open(folder), BUILT_IN / NAME
    checkpoint = open_checkpoint(trained.weights)
    state = {key: checkpoint.read(key).half() for key in released_shapes(trained.config)}
    ModelFolder(target, NAME, trained.config, trained.made_by).write(read_tokenizer(folder), state)
    (target / CARD).write_text((folder / CARD).read_text(encoding="utf-8"), encoding="utf-8")


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_vista_tiny", description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=("tokenizer", "start", "install"))
    parser.add_argument("path", type=Path, help="the file or folder to write or, of install, to take")
    given = parser.parse_args()
    if given.step == "tokenizer":
        given.path.write_text(train_tokenizer(MODELS[NAME].text.vocab_size).to_str(), encoding="utf-8")
    elif given.step == "start":
        write_start(given.path)
    else:
        install(given.path)


if __name__ == "__main__":
    main()
