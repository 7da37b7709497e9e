"""Training data in the layout of VISTA-S2."""

from __future__ import annotations

import json

import pytest

from pipelines.finetune.images import ImageBytes
from pipelines.finetune.layout import read_layout
from pipelines.finetune.prepared import Prepared
from tests.pipelines.finetune.drawn import (
    NAMES,
    as_cut_tar,
    caption_lines,
    edit_lines,
    name_of,
    picture,
    write_data,
    write_lines,
)
from vista_core import UsageError


def images_by_name(prepared: Prepared) -> dict[str, bytes]:
    reader = ImageBytes(prepared.images)
    return {name: reader.read(number) for number, name in enumerate(prepared.images["name"].to_pylist())}


@pytest.fixture
def folder(tmp_path):
    return write_data(tmp_path / "train")


def test_pairs_and_images_of_loose_files(folder):
    prepared = read_layout(str(folder))
    assert [(task.name, len(task.pairs), task.edits) for task in prepared.tasks] == [
        ("edit_image", len(edit_lines()), True),
        ("t2it", len(caption_lines()), False),
    ]
    first, names = prepared.tasks[0].pairs.slice(0, 1).to_pylist()[0], prepared.images["name"].to_pylist()
    line = edit_lines()[0]
    assert (names[first["query"]["image"]], first["query"]["text"]) == tuple(line["query"])
    assert (names[first["positive"]["image"]], first["positive"]["text"]) == (line["positive"], None)
    assert [names[each["image"]] for each in first["negatives"]] == line["hard_negative"]
    text_query = prepared.tasks[1].pairs.slice(0, 1).to_pylist()[0]["query"]
    assert text_query == {"text": caption_lines()[0]["query"], "image": None}
    assert images_by_name(prepared) == {name_of(*each): picture(*each) for each in NAMES}


@pytest.mark.parametrize("parts", [1, 2, 7, 40])  # in 40 parts, images and headers are cut
def test_a_tar_in_parts_holds_the_same(folder, parts):
    loose = read_layout(str(folder))
    images = images_by_name(loose)
    as_cut_tar(folder, parts)
    cut = read_layout(str(folder))
    assert images_by_name(cut) == images
    assert [task.pairs for task in cut.tasks] == [task.pairs for task in loose.tasks]


def test_a_missing_part_is_an_error_that_says_so(folder):
    as_cut_tar(folder, 7)
    (folder / "images.tar.part03").unlink()
    with pytest.raises(UsageError, match="is one missing"):
        read_layout(str(folder))


def test_what_is_written_is_read_again(folder, tmp_path):
    prepared, there = read_layout(str(folder)), str(tmp_path / "prepared")
    assert Prepared.open(there) is None
    prepared.write(there)
    again = Prepared.open(there)
    assert again is not None
    assert [(task.name, task.pairs, task.edits) for task in again.tasks] == [
        (task.name, task.pairs, task.edits) for task in prepared.tasks
    ]
    assert images_by_name(again) == images_by_name(prepared)
    assert again.facts == prepared.facts


def test_pairs_whose_image_is_missing_are_left_out_and_counted(folder, caplog):
    gone = name_of("star", "red")
    (folder / gone).unlink()
    prepared = read_layout(str(folder))
    lines = edit_lines() + caption_lines()
    without = [line for line in lines if gone not in (*line["query"], line["positive"], line["positive"][0])]
    assert prepared.count == len(without) < len(lines)
    assert gone not in prepared.images["name"].to_pylist()
    assert f"{len(lines) - len(without)} pairs left out, as images are not there: {gone}" in caplog.text
    assert prepared.facts["pairs left out, as their images are missing"] == len(lines) - len(without)


def test_images_outside_of_the_folder_are_not_there(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture("star", "red"))
    for name in ("../secret.png", str(tmp_path / "secret.png"), "images/../../secret.png"):
        line = {"query": "a star", "positive": name, "q_type": "text", "c_type": "image"}
        write_lines(folder / "t2it.jsonl", [*caption_lines(), line])
        assert read_layout(str(folder)).tasks[1].pairs.num_rows == len(caption_lines())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: Expecting"),
        ("[1]", "line 2"),
        ('{"query": "x", "q_type": "text", "c_type": "text"}', "'positive' is missing"),
        ('{"query": "x", "positive": "y", "q_type": "text", "c_type": "sound"}', "'sound' is none of text, image"),
        ('{"query": 3, "positive": "y", "q_type": "text", "c_type": "text"}', "3 is not of the kind text"),
        ('{"query": ["a.png"], "positive": "y", "q_type": "mm_it", "c_type": "text"}', "line 2"),
        ('{"query": "", "positive": "y", "q_type": "text", "c_type": "text"}', "neither text nor image"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(folder, line, said):
    good = json.dumps({"query": "x", "positive": "y", "q_type": "text", "c_type": "text"})
    (folder / "other.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UsageError, match=r"other\.jsonl, line 2") as error:
        read_layout(str(folder))
    assert said in str(error.value)


def test_folders_without_pairs(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        read_layout(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"neither NAME\.jsonl with the pairs of a task nor"):
        read_layout(str(tmp_path))
    write_lines(tmp_path / "t2it.jsonl", caption_lines())
    with pytest.raises(UsageError, match="no pair is left"):
        read_layout(str(tmp_path))
