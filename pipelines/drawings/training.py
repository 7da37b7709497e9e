"""Training records of drawn scenes, in the layout of VISTA-S2."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, Final

from pipelines.drawings.pen import draw
from pipelines.drawings.scenes import (
    ATTRIBUTES,
    COMBINATION,
    Scene,
    differences,
    neighbours,
    random_scene,
    simple_scene,
)
from pipelines.drawings.words import SAMPLE, caption, instruction

FAMILY: Final = 12  # scenes: one, and its neighbours
SIMPLE: Final = 0.15  # the share of families around a scene as in the sample catalog
NAMED: Final = {  # how often a caption names an attribute
    **{"shape": 0.97, "colour": 0.97, "pattern": 0.7, "size": 0.5, "number": 0.6, "place": 0.5, "background": 0.6}
}
LIKE_SAMPLE: Final = 0.1  # the share of captions that name what those of the sample catalog name
PER_SCENE: Final = 2  # records of each kind in which a scene is the query or the positive
TWO_CHANGES: Final = 0.25  # the share of such edits
EDIT_NEGATIVES: Final = 3
CAPTION_NEGATIVES: Final = 3
Record = dict[str, Any]


def write_training(folder: Path, scenes: int, seed: int) -> None:
    """Write records and images of at most `scenes` scenes (at least FAMILY) into a folder that is made here."""
    random = Random(f"drawings for training {seed}")
    families = [family(random) for _ in range(scenes // FAMILY)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("t2i", described), ("edit_image", edits), ("t2it", captioned)):
        records = list(chain.from_iterable(make(each, random) for each in families))
        random.shuffle(records)
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    write_images(folder / "images.tar.part00", dict.fromkeys(chain.from_iterable(families)))


def write_images(path: Path, scenes: Iterable[Scene]) -> None:
    """Write a tar of PNGs, the same bytes each time."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for scene in scenes:
            png = draw(scene)
            header = tarfile.TarInfo(image_path(scene))  # no time, no owner
            header.size = len(png)
            tar.addfile(header, io.BytesIO(png))


def image_path(scene: Scene) -> str:
    """How records name the picture of a scene."""
    return f"images/{scene.name}.png"


def family(random: Random) -> list[Scene]:
    """A scene, and neighbours: one for each attribute, then any. None is held out."""
    while True:
        first = simple_scene(random) if random.random() < SIMPLE else random_scene(random)
        others = [each for each in neighbours(first) if not each.held_out]
        random.shuffle(others)
        by_attribute = {differences(first, each): each for each in others}
        if not first.held_out and len(by_attribute) == len(ATTRIBUTES):
            chosen = list(by_attribute.values())
            rest = [each for each in others if each not in chosen]
            return [first, *chosen, *rest[: FAMILY - 1 - len(chosen)]]


def described(scenes: Sequence[Scene], random: Random) -> Iterator[Record]:
    """Records of a family: a caption of all attributes, or of many, finds an image."""
    for scene in scenes:
        for named in (set(ATTRIBUTES), set(COMBINATION) | random_attributes(random)):
            yield {
                "query": caption(scene, named, random),
                "positive": image_path(scene),
                "q_type": "text",
                "c_type": "image",
            }


def edits(scenes: Sequence[Scene], random: Random) -> Iterator[Record]:
    """Records of a family: an image and an instruction find another image of the family."""
    for scene in scenes:
        for _ in range(PER_SCENE):
            changes = 2 if scene != scenes[0] and random.random() < TWO_CHANGES else 1
            target = random.choice([each for each in scenes if len(differences(scene, each)) == changes])
            negatives = edit_negatives(scene, target, random.sample(scenes, len(scenes)))
            yield {
                "query": [image_path(scene), instruction(scene, target, random)],
                "positive": image_path(target),
                "hard_negative": [image_path(each) for each in negatives],
                "q_type": "mm_it",
                "c_type": "image",
            }


def edit_negatives(scene: Scene, target: Scene, candidates: Collection[Scene]) -> list[Scene]:
    """The scene itself, the candidate that is most like the target, and another edit of the scene."""
    others = [each for each in candidates if each not in (scene, target)]
    like_target = min(others, key=lambda each: len(differences(each, target)))
    edited = sorted(others, key=lambda each: len(differences(each, scene)))
    return list(dict.fromkeys([scene, like_target, *edited]))[:EDIT_NEGATIVES]


def captioned(scenes: Sequence[Scene], random: Random) -> Iterator[Record]:
    """Records of a family: a caption finds an image, with or without a text."""
    for scene in scenes:
        for _ in range(PER_SCENE):
            near = [each for each in scenes if len(differences(scene, each)) == 1]
            named = random_attributes(random) | set(differences(scene, random.choice(near)))
            wrong = [each for each in near if differences(scene, each)[0] in named]
            candidates = [scene, *random.sample(wrong, min(len(wrong), random.randint(1, CAPTION_NEGATIVES)))]
            texts = candidate_texts(candidates, random)
            positive, *negatives = ([image_path(each), text] for each, text in zip(candidates, texts, strict=True))
            yield {
                "query": caption(scene, named, random),
                "positive": positive,
                "hard_negative": negatives,
                "q_type": "text",
                "c_type": "mm_it",
            }


def random_attributes(random: Random) -> set[str]:
    """What a caption names."""
    if random.random() < LIKE_SAMPLE:
        return set(SAMPLE)
    return {name for name, share in NAMED.items() if random.random() < share}


def candidate_texts(candidates: Sequence[Scene], random: Random) -> list[str]:
    """The texts of the candidates of a record: empty, true of all of them, or each one's own caption."""
    kind = random.random()
    if kind < 0.5:
        return [""] * len(candidates)
    if kind < 0.75:
        differing = {name for each in candidates for name in differences(each, candidates[0])}
        named = random_attributes(random) - differing
        return [caption(candidates[0], named, random)] * len(candidates)
    return [caption(each, random_attributes(random), random) for each in candidates]
