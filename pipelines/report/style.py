"""The looks of a report, light and dark. Plots and diagrams take their colours from the same variables."""

from pathlib import Path
from typing import Final

STYLE: Final = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
COLOURS: Final = ("ink", "faint", "line", "grey", "teal", "blue", "red", "amber")  # variables that plots may use


def variable(colour: str) -> str:
    """A colour of the page, as an attribute of SVG names it."""
    return f"var(--{colour})"
