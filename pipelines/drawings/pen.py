"""Draws scenes: 96 x 96 pixels, without antialiasing, without randomness."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Final

from PIL import Image, ImageDraw

from pipelines.drawings.scenes import NUMBERS, Scene

SIZE: Final = 96
RGB: Final = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (252, 213, 53),
    "green": (42, 157, 68),
    "blue": (38, 84, 196),
    "purple": (123, 44, 191),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
Point = tuple[float, float]
CORNERS: Final[dict[str, list[Point]]] = {  # in a square of SIZE
    "triangle": [(48, 12), (86, 82), (10, 82)],
    "star": [(48, 8), (58, 37), (89, 37), (64, 56), (73, 86), (48, 68), (23, 86), (32, 56), (7, 37), (38, 37)],
    "cross": [
        *[(36, 10), (60, 10), (60, 36), (86, 36), (86, 60), (60, 60)],
        *[(60, 86), (36, 86), (36, 60), (10, 60), (10, 36), (36, 36)],
    ],
    "heart": [(16, 46), (48, 26), (80, 46), (48, 86)],  # below its two arcs
    "arrow": [(10, 38), (48, 38), (48, 14), (88, 48), (48, 82), (48, 58), (10, 58)],
    "house": [
        *[(48, 10), (88, 48), (78, 48), (78, 86), (58, 86), (58, 62)],
        *[(38, 62), (38, 86), (18, 86), (18, 48), (8, 48)],
    ],
}
BOX: Final = (12, 12, 84, 84)  # of a shape, in a square of SIZE
WIDTH: Final = BOX[2] - BOX[0]
GAP: Final = 6  # between the boxes of two objects; stars reach out of theirs
EDGE: Final = 6  # of the picture, free of boxes
TINTS: Final = {"yellow": (190, 120, 0), "white": (150, 150, 150), "orange": (150, 60, 0)}  # of bright colours: darker
LIGHTER: Final = 0.6  # the share of white in the second colour of a pattern


def draw(scene: Scene) -> bytes:
    """A PNG of a scene, SIZE x SIZE pixels."""
    image = Image.new("RGB", (SIZE, SIZE), RGB[scene.background])
    width = object_width(scene)
    side = round(SIZE * width / WIDTH)
    stencil, paint = shape_mask(scene.shape, side), pattern(scene.pattern, scene.colour, side)
    for x, y in centres(scene, width):
        image.paste(paint, (round(x - side / 2), round(y - side / 2)), stencil)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def object_width(scene: Scene) -> int:
    """The width of each object in pixels: large ones are as wide as their number and place allow."""
    if scene.size == "small":
        return 25
    return WIDTH if (scene.number, scene.place) == ("one", "centre") else 40


def centres(scene: Scene, width: int) -> list[Point]:
    """The middle of each object, in pixels: a row along its edge of the picture, or a block."""
    count = NUMBERS.index(scene.number) + 1
    if count == 4:
        grid: Sequence[Point] = [(0, 0), (1, 0), (0, 1), (1, 1)]
    elif count == 3 and scene.place == "centre":
        grid = [(0, 0), (1, 0), (0.5, 1)]
    else:
        upright = scene.place in ("left", "right")
        grid = [(0, each) if upright else (each, 0) for each in range(count)]
    pitch = width + GAP
    columns, rows = zip(*grid, strict=True)
    start_x, start_y = (start(scene.place, pitch * max(each) + width) for each in (columns, rows))
    if scene.place in ("left", "right"):
        start_y = start("centre", pitch * max(rows) + width)
    else:
        start_x = start("centre", pitch * max(columns) + width)
    return [(start_x + width / 2 + pitch * x, start_y + width / 2 + pitch * y) for x, y in grid]


def start(place: str, length: float) -> float:
    """Where objects begin that take `length` pixels along an axis."""
    if place in ("left", "top"):
        return EDGE
    return SIZE - EDGE - length if place in ("right", "bottom") else (SIZE - length) / 2


@cache
def shape_mask(shape: str, side: int) -> Image.Image:
    """A mask of a shape, `side` x `side` pixels, 0 or 255."""
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    scale = side / SIZE

    def scaled(*numbers: float) -> list[float]:
        return [number * scale for number in numbers]

    if shape == "square":
        pen.rectangle(scaled(*BOX), fill=255)
    elif shape == "ring":
        pen.ellipse(scaled(*BOX), outline=255, width=round(14 * scale))
    elif shape in ("circle", "moon"):
        pen.ellipse(scaled(*BOX), fill=255)
    else:
        pen.polygon([(x * scale, y * scale) for x, y in CORNERS[shape]], fill=255)
    if shape == "moon":
        pen.ellipse(scaled(34, 4, 96, 76), fill=0)
    if shape == "heart":
        for left in (10, 46):
            pen.ellipse(scaled(left, 14, left + 40, 54), fill=255)
    return mask


@cache
def pattern(name: str, colour: str, side: int) -> Image.Image:
    """The paint of an object, `side` x `side` pixels: its colour, and a lighter or darker one."""
    paint = Image.new("RGB", (side, side), RGB[colour])
    pen = ImageDraw.Draw(paint)
    second = TINTS.get(colour) or tuple(round(each + (255 - each) * LIGHTER) for each in RGB[colour])
    band = max(4, side // 12)  # pixels; at least 2.7 where a model sees 64 x 64
    if name == "striped":
        for top in range(band, side, 2 * band):
            pen.rectangle((0, top, side, top + band - 1), fill=second)
    elif name == "checked":
        for row in range(0, side, band):
            for left in range(row // band % 2 * band, side, 2 * band):
                pen.rectangle((left, row, left + band - 1, row + band - 1), fill=second)
    elif name == "dotted":
        middle, step, radius = side / 2, 2.5 * band, 0.75 * band
        count = round(middle / step) + 1
        for row in range(-count, count + 1):
            for column in range(-count, count + 1):
                x, y = middle + column * step, middle + row * step
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
    return paint
