"""Tasks of drawn scenes, in the layout of MTEB: their queries have combinations that training never shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings.pen import draw
from pipelines.drawings.scenes import ATTRIBUTES, COMBINATION, Scene, differences, neighbours, random_scene
from pipelines.drawings.words import caption, instruction

SCENES: Final = 80  # that are edited
NEAR: Final = 24  # scenes in the corpus that are like each of them
EDITS: Final = 8  # of each of them
TWO_CHANGES: Final = 2  # of these
CAPTIONS: Final = SCENES * EDITS
NAMED_TOO: Final = 0.45  # how often a caption names an attribute that isn't of the combination

IMAGE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ITEMS: Final = pa.schema([("id", pa.string()), ("text", pa.string()), ("image", IMAGE)])
QRELS: Final = pa.schema([("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.int32())])
META: Final = pa.schema([("id", pa.string()), ("kind", pa.string())])


@dataclass(frozen=True)
class Query:
    """A text, alone or with the picture of a scene. `kind` is what scores are broken down by.

    All scenes are relevant that have the values of `wanted` in the attributes `matched`.
    """

    text: str
    scene: Scene | None
    wanted: Scene
    matched: tuple[str, ...]
    kind: str


def write_evaluation(folder: Path, seed: int) -> None:
    """Write both tasks into folders that are made here."""
    random = Random(f"drawings for evaluation {seed}")
    edited = {scene: targets(scene, random) for scene in held_out_scenes(random)}
    near = [each for scene, found in edited.items() for each in [scene, *with_neighbours(scene, found, random)]]
    corpus = sorted(set(near), key=lambda scene: scene.name)
    pictures = {scene: {"bytes": draw(scene), "path": f"{scene.name}.png"} for scene in corpus}
    for name, queries in (("cir", edits(edited, random)), ("t2i", captions(corpus, random))):
        write_task(folder / name, queries, pictures)


def held_out_scenes(random: Random) -> list[Scene]:
    """SCENES different scenes, of all combinations that are held out."""
    combinations = list(product(*(ATTRIBUTES[name] for name in COMBINATION)))
    random.shuffle(combinations)
    found: dict[Scene, None] = {}
    while True:
        for values in combinations:
            scene = replace(random_scene(random), **dict(zip(COMBINATION, values, strict=True)))
            if scene.held_out and scene.fits:
                found[scene] = None
            if len(found) == SCENES:
                return list(found)


def targets(scene: Scene, random: Random) -> list[Scene]:
    """EDITS held-out scenes that differ from a scene: each attribute alone, where possible, and some two at once."""
    near = [each for each in shuffled(neighbours(scene), random) if each.held_out]
    first_of_each = {differences(scene, each): each for each in near}
    one = list(dict.fromkeys([*first_of_each.values(), *near]))[: EDITS - TWO_CHANGES]
    two = {
        each: None
        for halfway in shuffled(neighbours(scene), random)
        for each in shuffled(neighbours(halfway), random)[:1]
        if each.held_out and len(differences(scene, each)) == 2
    }
    return [*one, *list(two)[:TWO_CHANGES]]


def with_neighbours(scene: Scene, edited: Sequence[Scene], random: Random) -> list[Scene]:
    """Edits of a scene, what lies between it and those that change two attributes, and neighbours: NEAR in all."""
    halfway = [
        replace(scene, **{name: getattr(each, name)})
        for each in edited
        for name in differences(scene, each)
        if len(differences(scene, each)) == 2
    ]
    between = [each for each in halfway if each.fits]
    return list(dict.fromkeys([*edited, *between, *shuffled(neighbours(scene), random)]))[:NEAR]


def edits(edited: Mapping[Scene, Sequence[Scene]], random: Random) -> list[Query]:
    """Instructions from each scene to its edits. The edit is the one scene that is relevant."""
    return [
        Query(instruction(scene, target, random), scene, target, tuple(ATTRIBUTES), kind_of(differences(scene, target)))
        for scene, found in edited.items()
        for target in found
    ]


def kind_of(changed: Sequence[str]) -> str:
    """What an edit changes."""
    return changed[0] if len(changed) == 1 else "two attributes"


def captions(corpus: Sequence[Scene], random: Random) -> list[Query]:
    """Different captions of held-out scenes. Each names shape, colour and pattern."""
    subjects = [scene for scene in corpus if scene.held_out]
    found: dict[str, Query] = {}
    while len(found) < CAPTIONS:
        scene = random.choice(subjects)
        named = tuple(name for name in ATTRIBUTES if name in COMBINATION or random.random() < NAMED_TOO)
        text = caption(scene, named, random)
        found.setdefault(text, Query(text, None, scene, named, f"{len(named)} attributes"))
    return list(found.values())


def shuffled(scenes: Any, random: Random) -> list[Scene]:
    """The scenes in random order."""
    found = list(scenes)
    random.shuffle(found)
    return found


def relevant(queries: Sequence[Query], corpus: Sequence[Scene]) -> list[list[Scene]]:
    """For each query all scenes of the corpus that fit it."""
    having: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Scene]] = {}
    for matched, scene in product({query.matched for query in queries}, corpus):
        having.setdefault((matched, scene.values(matched)), []).append(scene)
    return [having[query.matched, query.wanted.values(query.matched)] for query in queries]


def write_task(folder: Path, queries: Sequence[Query], pictures: Mapping[Scene, Any]) -> None:
    """Write corpus, queries, judgements, and the kind of each query."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"{folder.name}-{number:05}": query for number, query in enumerate(queries)}
    corpus = [{"id": scene.name, "text": None, "image": picture} for scene, picture in pictures.items()]
    asked = [
        {"id": name, "text": query.text, "image": None if query.scene is None else pictures[query.scene]}
        for name, query in named.items()
    ]
    judged = [
        {"query-id": name, "corpus-id": scene.name, "score": 1}
        for name, scenes in zip(named, relevant(queries, list(pictures)), strict=True)
        for scene in scenes
    ]
    kinds = [{"id": name, "kind": query.kind} for name, query in named.items()]
    for part, rows, schema in (
        ("corpus", corpus, ITEMS),
        ("queries", asked, ITEMS),
        ("qrels", judged, QRELS),
        ("queries_meta", kinds, META),
    ):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{part}.parquet")
