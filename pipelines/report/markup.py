"""HTML that is safe by its type: what isn't `Markup` is text, and is escaped wherever it is put."""

from __future__ import annotations

import html
from collections.abc import Iterable

from pipelines.terminal import one_line

VOID = {"img", "meta", "br"}  # have no content and no end tag


class Markup(str):
    """A piece of HTML or SVG. Only this module and code that draws make it of a plain string."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Text as HTML: markup, control characters and what reverses or hides text are shown instead of obeyed."""
    return text if isinstance(text, Markup) else Markup(html.escape(one_line(str(text))))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element with its children; None and False are left out. `class_` is `class`, `aria_label` `aria-label`."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    words = "".join(
        f" {key}" if value is True else f' {key}="{escaped(value)}"'
        for key, value in given.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Markup(f"<{name}{words}>")
    return Markup(f"<{name}{words}>{joined(children)}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Pieces one behind the other; None is left out."""
    return Markup("".join(escaped(part) for part in parts if part is not None and part is not False))


def shortened(text: object, characters: int = 300) -> str:
    """`text`, of which at most so many characters are shown."""
    text = str(text)
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def table(head: Iterable[object], rows: Iterable[Iterable[object]], numbers: Iterable[int] = ()) -> Markup:
    """A table. `numbers` are the columns that are set flush right."""
    right = set(numbers)

    def cells(kind: str, values: Iterable[object]) -> Markup:
        return joined(tag(kind, value, class_="number" if at in right else None) for at, value in enumerate(values))

    top = tag("thead", tag("tr", cells("th", head)))
    body = tag("tbody", *(tag("tr", cells("td", row)) for row in rows))
    return tag("div", tag("table", top, body), class_="wide", tabindex="0")
