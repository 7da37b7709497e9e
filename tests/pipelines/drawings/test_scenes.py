"""Scenes: pictures in which every attribute is visible, and texts that are true."""

import io
from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.drawings.pen import SIZE, draw
from pipelines.drawings.scenes import ATTRIBUTES, COMBINATION, HELD_OUT, Scene, differences, neighbours
from pipelines.drawings.words import caption, instruction
from tests.pipelines.drawings.said import said, said_by_caption

SEEN_BY_VISTA_TINY = 64  # pixels
SCENES = st.builds(Scene, *map(st.sampled_from, ATTRIBUTES.values())).filter(lambda scene: scene.fits)
RANDOM = st.randoms(use_true_random=False)


def pixels(scene: Scene, size: int = SIZE) -> np.ndarray:
    """The picture of a scene."""
    image = Image.open(io.BytesIO(draw(scene)))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.int16)


@given(SCENES)
@settings(max_examples=40, deadline=None)
def test_a_change_of_any_attribute_is_visible_at_the_size_that_the_model_sees(scene):
    before = pixels(scene, SEEN_BY_VISTA_TINY)
    for other in neighbours(scene):
        changed = np.abs(pixels(other, SEEN_BY_VISTA_TINY) - before).max(axis=2) > 40
        assert changed.sum() >= 12, other.name


@given(SCENES)
@settings(max_examples=40, deadline=None)
def test_objects_are_whole_and_apart(scene):
    """Small objects cover as many pixels as the same number of single ones. Several large ones are smaller than one."""
    covered, alone = silhouette(scene), silhouette(Scene(scene.shape, "black", "white", size="small"))
    count = ATTRIBUTES["number"].index(scene.number) + 1
    if scene.size == "small":
        assert covered.sum() == count * alone.sum()
    else:
        assert covered.sum() > 2 * count * alone.sum()
    assert not covered[[0, -1]].any()
    assert not covered[:, [0, -1]].any()
    if scene.place != "centre":
        axis, sign = {"left": (1, -1), "right": (1, 1), "top": (0, -1), "bottom": (0, 1)}[scene.place]
        moved = [np.argwhere(each).mean(axis=0)[axis] for each in (covered, silhouette(replace(scene, place="centre")))]
        assert (moved[0] - moved[1]) * sign > 4


def silhouette(scene: Scene) -> np.ndarray:
    """Which pixels the objects of a scene cover."""
    return (pixels(replace(scene, colour="black", background="white", pattern="plain")) < 128).all(axis=2)


def test_combinations_that_are_held_out_are_about_one_in_five_and_leave_every_value_to_training():
    every = [
        Scene(shape, colour, "none", pattern) for shape, colour, pattern in product(*map(ATTRIBUTES.get, COMBINATION))
    ]
    assert 0.7 / HELD_OUT < sum(scene.held_out for scene in every) / len(every) < 1.3 / HELD_OUT
    for one, other in (("shape", "colour"), ("shape", "pattern"), ("colour", "pattern")):
        seen = {scene.values((one, other)) for scene in every if not scene.held_out}
        assert len(seen) == len(ATTRIBUTES[one]) * len(ATTRIBUTES[other])


@given(SCENES)
def test_neighbours_are_the_scenes_that_differ_in_one_attribute(scene):
    found = list(neighbours(scene))
    assert len(set(found)) == len(found)
    assert all(len(differences(scene, each)) == 1 and each.fits for each in found)
    possible = sum(len(values) - 1 for values in ATTRIBUTES.values())
    assert possible - 12 <= len(found) <= possible


@given(SCENES, st.sets(st.sampled_from(list(ATTRIBUTES))), RANDOM)
def test_a_caption_says_what_it_names_and_nothing_else(scene, named, random):
    text = caption(scene, named, random)
    assert said_by_caption(text) == {name: getattr(scene, name) for name in named}, text


@given(SCENES, SCENES, RANDOM)
def test_an_instruction_says_what_changes_and_nothing_else(scene, target, random):
    text = instruction(scene, target, random)
    assert said(text) == {name: getattr(target, name) for name in differences(scene, target)}, text


def test_captions_are_worded_as_in_the_sample_catalog_among_others():
    scene, random = Scene("star", "orange", "blue"), Random(0)
    texts = {caption(scene, {"shape", "colour", "background", "number"}, random) for _ in range(60)}
    assert {"a orange star on a blue background", "one orange star on blue"} < texts
    texts = {caption(scene, {"shape", "colour"}, random) for _ in range(60)}
    assert texts == {"orange star"}
