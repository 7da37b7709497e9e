"""The proof of published similarities: synthetic weights go the way of released ones, what is missing is named."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.sample_catalog import draw
from tests.vista_core.test_drop_in import BASE, UNCASED, text_folder, write_repetitive
from vista_core import MODELS, Encoder, EncoderSettings, Record, UsageError
from vista_core.config import hugging_face_config
from vista_core.prove import CASES, TOLERANCE, Options, main, prove


@pytest.fixture(scope="module")
def brought(tmp_path_factory) -> Path:
    """A folder as somebody brings it: weights with the released keys, the text model's files, the images."""
    folder = tmp_path_factory.mktemp("brought")
    text = replace(MODELS[BASE].text, vocab_size=30522, width=64, layers=2, heads=4, mlp_width=128)
    (folder / "model").mkdir()
    tokenizer = text_folder(folder / "model", BASE, (UNCASED / "tokenizer.json").read_text())
    (tokenizer / "config.json").write_text(json.dumps(hugging_face_config(text)))
    tokenizer.rename(folder / "bge-base-en-v1.5")
    write_repetitive(replace(MODELS[BASE], text=text), folder / "Visualized_base_en_v1.5.pth")
    (folder / "imgs").mkdir()
    sides = [side for case in CASES for side in (case.query, *(candidate for candidate, _ in case.candidates))]
    for number, name in enumerate(sorted({side.image for side in sides if side.image})):
        (folder / "imgs" / name).write_bytes(draw("star", ("red", "blue", "green", "black", "white")[number], "yellow"))
    return folder


def of_base():
    return [case for case in CASES if case.model == BASE]


def computed_apart(folder: Path):
    """The cases of base, with the similarities that the encoder gives for each pair alone."""
    weights = str(folder / "Visualized_base_en_v1.5.pth")
    settings = EncoderSettings(BASE, weights, str(folder / "bge-base-en-v1.5"), dtype="float32", resize="exact")
    encoder = Encoder.load(settings)

    def vector(side):
        return encoder.encode([Record(side.text, side.image and str(folder / "imgs" / side.image))])[0]

    return settings, [
        replace(case, candidates=[(side, float(vector(case.query) @ vector(side))) for side, _ in case.candidates])
        for case in of_base()
    ]


def test_weights_in_the_released_layout_are_proved_from_a_folder(brought, capsys):
    _, cases = computed_apart(brought)
    assert main(Options(brought), cases) == 0
    assert capsys.readouterr().out.count("equal") == 5
    # The published similarities are those of other weights.
    assert main(Options(brought)) == 1
    shown = capsys.readouterr().out
    assert shown.count("DIFFERS") >= 4 and "published 0.8750" in shown
    assert "bge-visualized-m3  not proved" in shown


def test_a_difference_above_the_tolerance_is_one(brought):
    settings, [case, _] = computed_apart(brought)
    side, value = case.candidates[0]
    for more, holds in ((0.9 * TOLERANCE, True), (1.1 * TOLERANCE, False)):
        [outcome] = prove(dataclasses.replace(case, candidates=[(side, value + more)]), settings, brought / "imgs")
        assert outcome.holds == holds


def test_what_is_missing_is_named(brought, tmp_path):
    with pytest.raises(UsageError, match=r"Bring Visualized_base_en_v1\.5\.pth and bge-base-en-v1\.5/, Visualized_m3"):
        main(Options(tmp_path))
    (tmp_path / "Visualized_m3.pth").touch()
    with pytest.raises(UsageError, match=r"bge-m3 is missing\. Bring Visualized_m3\.pth of https://huggingface\.co/"):
        main(Options(tmp_path))
    with pytest.raises(UsageError, match=r"cir_query\.png is missing: an image of https://github\.com/FlagOpen"):
        main(Options(brought, images=tmp_path))


def test_the_command_says_what_to_bring(tmp_path):
    command = [sys.executable, "-m", "vista_core.prove", "--weights", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has the files of no model" in done.stderr and "Traceback" not in done.stderr
