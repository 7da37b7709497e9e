"""What can be drawn: scenes, how they differ, and which combinations are held out of training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
NUMBERS: Final = ("one", "two", "three", "four")
ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "heart", "arrow", "moon", "house"),
    "colour": COLOURS,
    "background": COLOURS,
    "pattern": ("plain", "striped", "dotted", "checked"),
    "size": ("large", "small"),
    "number": NUMBERS,
    "place": ("centre", "left", "right", "top", "bottom"),
}
COMBINATION: Final = ("shape", "colour", "pattern")  # of which one in HELD_OUT is never seen in training
HELD_OUT: Final = 5


@dataclass(frozen=True)
class Scene:
    """One to four equal objects on a background. The fields are ATTRIBUTES, in their order."""

    shape: str
    colour: str
    background: str
    pattern: str = "plain"
    size: str = "large"
    number: str = "one"
    place: str = "centre"

    @property
    def name(self) -> str:
        """An id that is legible, and a file's name."""
        front = (self.number, self.size, self.pattern, self.colour, self.shape, self.place)
        return f"{'-'.join(front)}-on-{self.background}"

    @property
    def fits(self) -> bool:
        """True if the scene can be drawn: its objects are visible, and have room at their place."""
        roomy = self.size == "small" or self.place == "centre" or self.number in ("one", "two")
        return self.colour != self.background and roomy

    @property
    def held_out(self) -> bool:
        """True if no training record may show this combination of shape, colour and pattern."""
        combination = " ".join(self.values(COMBINATION))
        return int(hashlib.sha256(combination.encode()).hexdigest()[:8], 16) % HELD_OUT == 0

    def values(self, named: Iterable[str]) -> tuple[str, ...]:
        """The values of these attributes."""
        return tuple(getattr(self, name) for name in named)


def differences(scene: Scene, other: Scene) -> tuple[str, ...]:
    """The attributes in which two scenes differ."""
    return tuple(name for name in ATTRIBUTES if getattr(scene, name) != getattr(other, name))


def neighbours(scene: Scene) -> Iterator[Scene]:
    """All scenes that differ from this one in one attribute."""
    for name, values in ATTRIBUTES.items():
        for value in values:
            changed = replace(scene, **{name: value})
            if changed != scene and changed.fits:
                yield changed


def random_scene(random: Random) -> Scene:
    """A scene, each attribute drawn evenly, as far as the scene fits."""
    while True:
        scene = Scene(*map(random.choice, ATTRIBUTES.values()))
        if scene.fits:
            return scene


def simple_scene(random: Random) -> Scene:
    """One large plain object in the centre, as in the sample catalog."""
    colour, background = random.sample(COLOURS, 2)
    return Scene(random.choice(ATTRIBUTES["shape"]), colour, background)
