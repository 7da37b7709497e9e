"""Training records of drawn scenes."""

import io
import json
import tarfile
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from pipelines.drawings.pen import SIZE
from pipelines.drawings.scenes import ATTRIBUTES, Scene, differences
from pipelines.drawings.training import edit_negatives, write_training
from tests.pipelines.drawings.said import said, said_by_caption

SCENES = 600


def scene_of(path: str) -> Scene:
    """The scene whose picture a record names."""
    folder, _, name = path.partition("/")
    assert folder == "images"
    number, size, pattern, colour, shape, place, _, background = name.removesuffix(".png").split("-")
    return Scene(shape, colour, background, pattern, size, number, place)


def records(folder, name):
    """The records of a file."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def edits(training):
    return records(training, "edit_image")


@pytest.fixture(scope="module")
def captioned(training):
    return records(training, "t2it")


@pytest.fixture(scope="module")
def described(training):
    return records(training, "t2i")


def paths(edits, captioned):
    """All pictures that records with hard negatives name."""
    for record in edits:
        yield from (record["query"][0], record["positive"], *record["hard_negative"])
    for record in captioned:
        yield from (path for path, _ in (record["positive"], *record["hard_negative"]))


def fits(scene: Scene, text: str) -> bool:
    """True if a caption describes a scene."""
    return all(getattr(scene, name) == value for name, value in said_by_caption(text).items())


def test_there_are_two_records_of_each_kind_for_each_scene(edits, captioned, described):
    assert len(edits) == len(captioned) == len(described) == 2 * SCENES
    assert {(record["q_type"], record["c_type"]) for record in described} == {("text", "image")}
    assert {(record["q_type"], record["c_type"]) for record in edits} == {("mm_it", "image")}
    assert {(record["q_type"], record["c_type"]) for record in captioned} == {("text", "mm_it")}


def test_no_record_shows_or_describes_a_combination_that_is_held_out(edits, captioned, described):
    shown = [*paths(edits, captioned), *(record["positive"] for record in described)]
    assert not [path for path in shown if scene_of(path).held_out]
    texts = [record["query"] for record in (*captioned, *described)]
    texts += [text for record in captioned for _, text in (record["positive"], *record["hard_negative"])]
    described = [said_by_caption(text) for text in texts]
    full = [each for each in described if each.keys() >= {"shape", "colour", "pattern"}]
    assert len(full) > SCENES / 2
    assert not [each for each in full if Scene(each["shape"], each["colour"], "none", each["pattern"]).held_out]


def test_captions_that_find_a_picture_alone_are_true_and_half_of_them_name_every_attribute(described):
    named = [said_by_caption(record["query"]) for record in described]
    assert all(fits(scene_of(record["positive"]), record["query"]) for record in described)
    assert all(each.keys() >= {"shape", "colour", "pattern"} for each in named)
    assert 0.5 <= sum(each.keys() == set(ATTRIBUTES) for each in named) / len(named) < 0.6


def test_the_target_of_an_edit_differs_in_exactly_what_the_instruction_names(edits):
    changes = Counter()
    for record in edits:
        path, text = record["query"]
        scene, target = scene_of(path), scene_of(record["positive"])
        assert said(text) == {name: getattr(target, name) for name in differences(scene, target)}, record
        changes[len(differences(scene, target))] += 1
    assert set(changes) == {1, 2}
    assert 0.1 < changes[2] / len(edits) < 0.3


def test_hard_negatives_of_an_edit_are_the_query_and_scenes_that_are_like_query_and_target(edits):
    for record in edits:
        path, _ = record["query"]
        negatives = record["hard_negative"]
        assert negatives[0] == path
        assert len({record["positive"], *negatives}) == 4
        assert min(len(differences(scene_of(record["positive"]), scene_of(each))) for each in negatives) == 1
        assert all(len(differences(scene_of(path), scene_of(each))) in (1, 2) for each in negatives[1:])


def test_hard_negatives_of_an_edit_are_those_that_are_hardest():
    scene = Scene("star", "red", "blue")
    target = replace(scene, colour="green")
    like_target, edit = replace(scene, colour="yellow"), replace(scene, number="two")
    far = Scene("moon", "white", "black", "dotted", "small")
    farther = replace(far, number="four")
    assert edit_negatives(scene, target, [farther, far, edit, scene, like_target, target]) == [scene, like_target, edit]
    assert edit_negatives(scene, target, [farther, edit, scene, far, target]) == [scene, edit, far]


def test_hard_negatives_of_a_caption_differ_in_one_attribute_that_it_names(captioned):
    for record in captioned:
        positive = scene_of(record["positive"][0])
        assert fits(positive, record["query"])
        assert 1 <= len(record["hard_negative"]) <= 3
        for path, _ in record["hard_negative"]:
            assert len(differences(positive, scene_of(path))) == 1
            assert not fits(scene_of(path), record["query"])


def test_texts_of_candidates_are_empty_or_true_and_half_are_empty(captioned):
    kinds = Counter()
    for record in captioned:
        candidates = [record["positive"], *record["hard_negative"]]
        texts = {text for _, text in candidates}
        assert all(fits(scene_of(path), text) for path, text in candidates)
        everywhere = all(fits(scene_of(path), text) for path, _ in candidates for text in texts)
        kinds["empty" if texts == {""} else "of all" if everywhere else "own"] += 1
    assert 0.4 < kinds["empty"] / len(captioned) < 0.6
    assert kinds["of all"] > 0.15 * len(captioned)
    assert kinds["own"] > 0.1 * len(captioned)


def test_the_tar_has_exactly_the_pictures_that_records_name_and_nothing_of_the_machine(
    training, edits, captioned, described
):
    with tarfile.open(training / "images.tar.part00") as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        assert len(set(names)) == len(names) <= SCENES
        assert set(names) == {*paths(edits, captioned), *(record["positive"] for record in described)}
        assert {(each.mtime, each.uid, each.gid, each.uname, each.mode) for each in members} == {(0, 0, 0, "", 0o644)}
        for member in members[:50]:
            image = Image.open(io.BytesIO(tar.extractfile(member).read()))
            assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
    files = ["edit_image.jsonl", "images.tar.part00", "t2i.jsonl", "t2it.jsonl"]
    assert sorted(path.name for path in training.iterdir()) == files


def test_another_seed_gives_other_records(training, tmp_path):
    write_training(tmp_path / "other", scenes=24, seed=1)
    other = records(tmp_path / "other", "t2it")
    assert len(other) == 48
    assert not {each["query"] + each["positive"][0] for each in other} & {
        each["query"] + each["positive"][0] for each in records(training, "t2it")
    }
