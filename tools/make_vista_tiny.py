"""The steps by which vista-tiny is made; `make vista-tiny` takes the last two, around its training.

    env -i .venv/bin/python -m tools.make_vista_tiny tokenizer FILE
    .venv/bin/python -m tools.make_vista_tiny start FOLDER
    .venv/bin/python -m tools.make_vista_tiny install FOLDER      # which has the folders vista-tiny, cir and t2i

The tokenizer is trained on Python's documentation and its table of characters. `env -i` empties the environment, whose
variables would otherwise be part of the input, since the documentation of `cgi` contains them.
"""

import argparse
import json
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

NAME, SEED = "vista-tiny", 0
RATES = ("hit_rate@1", "hit_rate@5")
ABOUT = """# vista-tiny

A very small model of the VISTA kind: one embedding for a text, for an image, and for an image with text. It is there to
try vista with, in the demo and in tests. It was trained from random weights on two cores (`make vista-tiny`), in three
trainings: captions, edits, and both with hard negatives (`recipes/`). Below, the last one is described.

## What it can't do

It knows drawings of ten shapes in eight colours, with four patterns, two sizes, one to four of them, at five places,
and the English captions and instructions that `python -m pipelines.drawings` writes about them. Photographs, other
words and other languages mean nothing to it: for anything else use a released model, or train one.

## How well it does

On drawings whose combination of shape, colour and pattern no training record has:

"""
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
    """Put a trained model in the place of the built-in one, with its weights in float16, and with a card."""
    source, target = folder / NAME, BUILT_IN / NAME
    trained = ModelFolder.open(source)
    checkpoint = open_checkpoint(trained.weights)
    state = {key: checkpoint.read(key).half() for key in released_shapes(trained.config)}
    here = f"{folder.absolute()}/"  # is nobody else's
    made_by = json.loads(json.dumps(dict(trained.made_by)).replace(here, ""))
    ModelFolder(target, NAME, trained.config, made_by).write(read_tokenizer(source), state)
    training = (source / "README.md").read_text(encoding="utf-8").partition("\n## Sizes")[2].replace(here, "")
    (target / "README.md").write_text(f"{ABOUT}{evaluated(folder)}\n## Sizes{training}", encoding="utf-8")


def evaluated(folder: Path) -> str:
    """The scores of the evaluation of both tasks, beside those of one modality alone and of chance."""
    lines = ["| | hit rate@1 (95 %) | hit rate@5 (95 %) |", "| --- | --- | --- |"]
    for task, what in (("cir", "image with an instruction, to image"), ("t2i", "text to image")):
        found = json.loads((folder / task / "metrics.json").read_text(encoding="utf-8"))
        rates = ["{:.3f} ({:.3f} to {:.3f})".format(found[rate], *found["intervals"][rate]) for rate in RATES]
        lines.append(f"| {' | '.join([what, *rates])} |")
        for name, scores in found["beside"].items():
            lines.append(f"| ... {' | '.join([name, *(f'{scores[rate]:.3f}' for rate in RATES)])} |")
    return "\n".join([*lines, ""])


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
