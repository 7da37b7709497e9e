"""What is said about scenes: captions, and instructions that turn one scene into another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from random import Random
from typing import Final

from pipelines.drawings.scenes import Scene, differences

ADJECTIVES: Final = {"large": ("large", "big"), "small": ("small", "little")}
WITH_PATTERN: Final = {"striped": "with stripes", "dotted": "with dots", "checked": "with checks"}
PLACES: Final = {
    "centre": ("in the centre", "in the middle"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
OPENINGS: Final = ("", "", "", "", "", "", "a picture of ", "show me ")  # each as likely as any other
SAMPLE: Final = frozenset({"shape", "colour", "background", "number"})  # what a caption of the sample catalog names
FRAMES: Final = ("{}", "{}", "but {}", "this but {}", "the same but {}", "{} instead")


def caption(scene: Scene, named: Collection[str], random: Random) -> str:
    """A description of a scene that names these attributes, and no others."""
    if set(named) == SAMPLE and scene.number == "one" and random.random() < 0.5:
        return f"a {scene.colour} {scene.shape} on a {scene.background} background"
    front: list[str] = []
    behind: list[str] = []
    if "size" in named:
        front.append(random.choice(ADJECTIVES[scene.size]))
    if "pattern" in named:
        as_adjective = scene.pattern == "plain" or random.random() < 0.7
        (front if as_adjective else behind).append(scene.pattern if as_adjective else WITH_PATTERN[scene.pattern])
    if "colour" in named:
        front.append(scene.colour)
    front.append(noun(scene.shape if "shape" in named else "shape", scene.number if "number" in named else "one"))
    if "number" in named:
        front.insert(0, counted(scene.number, front[0], random))
    if "place" in named:
        behind.append(random.choice(PLACES[scene.place]))
    if "background" in named:
        behind.append(random.choice(on_background(scene.background)))
    opening = random.choice(OPENINGS) if "number" in named else ""
    return opening + " ".join([*front, *behind])


def noun(shape: str, number: str) -> str:
    """A shape, in the plural if there are several."""
    if number == "one":
        return shape
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def article(word: str) -> str:
    """The indefinite article in front of a word."""
    return "an" if word[0] in "aeiou" else "a"


def counted(number: str, word: str, random: Random) -> str:
    """What says how many there are, in front of a word."""
    return random.choice((article(word), article(word), "one", "a single")) if number == "one" else number


def on_background(colour: str) -> tuple[str, ...]:
    """Ways to say which colour the background has."""
    full = f"{article(colour)} {colour} background"
    return (f"on {full}", f"on {full}", f"with {full}", f"on {colour}")


def instruction(scene: Scene, target: Scene, random: Random) -> str:
    """What has to be changed in a scene to get the target: all that differs, and nothing else."""
    changed = list(differences(scene, target))
    random.shuffle(changed)
    as_command = random.random() < 0.5
    ways = commands(target, "it" if scene.number == "one" else "them") if as_command else phrases(target)
    frame = "{}" if as_command else random.choice(FRAMES)
    return frame.format(" and ".join(random.choice(ways[name]) for name in changed))


def phrases(target: Scene) -> Mapping[str, tuple[str, ...]]:
    """Ways to name each attribute of the target."""
    shape = objects(target)
    return {
        "shape": (f"as {shape}", shape),
        "colour": (f"in {target.colour}", target.colour),
        "background": on_background(target.background),
        "pattern": (target.pattern, WITH_PATTERN.get(target.pattern, "without a pattern")),
        "size": ("smaller", "small") if target.size == "small" else ("larger", "bigger", "large"),
        "number": ("only one", "just one") if target.number == "one" else (f"{target.number} of them", target.number),
        "place": PLACES[target.place],
    }


def commands(target: Scene, it: str) -> Mapping[str, tuple[str, ...]]:
    """Ways to ask for each attribute of the target. `it` stands for what is changed: "it" or "them"."""
    shape, colour, background, number = objects(target), target.colour, target.background, target.number
    pattern = WITH_PATTERN.get(target.pattern, "no pattern").removeprefix("with ")
    sizes = (f"make {it} smaller", f"shrink {it}"), (f"make {it} larger", f"make {it} bigger")
    return {
        "shape": (f"make {it} {shape}", f"turn {it} into {shape}", f"change {it} to {shape}"),
        "colour": (f"make {it} {colour}", f"paint {it} {colour}", f"change the colour to {colour}"),
        "background": (f"make the background {background}", f"change the background to {background}"),
        "pattern": (f"make {it} {target.pattern}", f"give {it} {pattern}"),
        "size": sizes[0] if target.size == "small" else sizes[1],
        "number": (f"show {'only one' if number == 'one' else f'{number} of them'}", f"change the number to {number}"),
        "place": (f"move {it} to the {target.place}", f"put {it} {PLACES[target.place][0]}"),
    }


def objects(scene: Scene) -> str:
    """The objects of a scene, with an article if there is only one: "a star", "stars"."""
    word = noun(scene.shape, scene.number)
    return f"{article(word)} {word}" if scene.number == "one" else word
