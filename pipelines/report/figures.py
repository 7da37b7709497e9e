"""Plots as SVG that belongs to the page: its colours are the page's, light or dark, and its texts are text."""

from __future__ import annotations

import io
import logging
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from pipelines.report.markup import Markup, shortened
from pipelines.report.style import COLOURS, variable
from pipelines.storage.home import cache_folder
from pipelines.terminal import one_line

WIDTH: Final = 780.0  # of a plot, in points; the page scales it
LONGEST_LABEL: Final = 1_000
SVG: Final = "{http://www.w3.org/2000/svg}"
LINK: Final = "{http://www.w3.org/1999/xlink}href"
# matplotlib wants colours; these stand for the variables of the page's style, and are exchanged in the SVG.
STAND_IN: Final = {name: f"#0000{number:02x}" for number, name in enumerate(COLOURS, 1)}
SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # texts stay texts
    "text.parse_math": False,  # a dollar is a dollar
    "font.size": 9.0,
    "axes.edgecolor": STAND_IN["line"],
    "axes.labelcolor": STAND_IN["faint"],
    "axes.titlecolor": STAND_IN["ink"],
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": STAND_IN["line"],
    "grid.linewidth": 0.6,
    "text.color": STAND_IN["ink"],
    "xtick.color": STAND_IN["line"],
    "xtick.labelcolor": STAND_IN["faint"],
    "ytick.color": STAND_IN["line"],
    "ytick.labelcolor": STAND_IN["faint"],
    "ytick.major.size": 0.0,
    "legend.frameon": False,
}


def words(text: str, characters: int = 60) -> str:
    """Text as a plot can have it: of a bounded length, without control characters, for which no font has a shape."""
    return one_line(shortened(text, characters))


@dataclass
class Drawing:
    """A figure that is drawn on, and what became of it."""

    figure: Any  # matplotlib.figure.Figure
    svg: Markup = field(default_factory=Markup)


def import_matplotlib() -> tuple[Any, Any, Any]:
    """matplotlib, its Figure and its canvas for SVG. It takes a second to import, and only a report needs it.

    It caches a list of fonts where this process may write, and would warn on each night in a container where it can't.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    return matplotlib, Figure, FigureCanvasSVG


@contextmanager
def drawing(name: str, height: float, label: str) -> Iterator[Drawing]:
    """A figure of WIDTH x `height` points; when the context ends, `svg` is what was drawn on it.

    `name` tells its ids from those of other plots on the page; `label` says what it shows to who can't see it.
    """
    matplotlib, Figure, FigureCanvasSVG = import_matplotlib()  # noqa: N806 (two are classes)
    with matplotlib.rc_context(SETTINGS | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        FigureCanvasSVG(figure)
        result = Drawing(figure)
        yield result
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    result.svg = as_part_of_page(file.getvalue(), label)


def as_part_of_page(svg: str, label: str) -> Markup:
    """matplotlib's SVG file as an element of a page whose policy forbids inline styles."""
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{SVG}style" or (child.tag == f"{SVG}defs" and not len(child)):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        attributes = dict(element.attrib)
        element.attrib.clear()
        for name, value in (properties(attributes.pop("style", "")) | attributes).items():
            element.set("href" if name == LINK else name, value)
        if element.tag == "g":
            element.attrib.pop("id", None)  # only what is referred to needs one
        element.tail = element.tail and element.tail.strip()
        element.text = element.text and element.text.strip()
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", words(label, LONGEST_LABEL))
    root.set("stroke-linejoin", "round")
    text = ET.tostring(root, encoding="unicode")
    for name, colour in STAND_IN.items():
        text = text.replace(f'"{colour}"', f'"{variable(name)}"')
    return Markup(text)


def properties(style: str) -> dict[str, str]:
    """The properties of a style attribute as attributes of SVG; the font family is the page's."""
    pairs = (each.partition(":") for each in style.split(";") if each.strip())
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip() != "font-family"}
