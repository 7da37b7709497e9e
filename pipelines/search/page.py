"""What a search found, as a page: one file with its images, which loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from pipelines.pictures import picture_of_image
from pipelines.records import ID, TEXT
from pipelines.search.pinned import SCORE
from pipelines.search.query import Query
from pipelines.search.results import Results, json_value, shortened
from pipelines.terminal import one_line
from vista_core import UsageError

SIZE: Final = 256  # pixels of a thumbnail's longer side
MOST_IMAGES: Final = 500  # on one page, about 5 MB
LONGEST_VALUE: Final = 500  # characters of a value that are shown
STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif }
body { margin: 1.5rem auto; padding: 0 1rem; max-width: 80rem }
h1 { font-size: 1.25rem }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
ol { padding: 0; list-style: none }
li { border: 1px solid #8886; border-radius: .5rem; padding: .75rem; overflow-wrap: anywhere }
img { display: block; max-width: 100%; max-height: 16rem; margin: 0 auto .5rem; background: #8882 }
h2 { font-size: 1rem; margin: 0 }
p { margin: .25rem 0 }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .5rem; margin: .5rem 0 0; font-size: .85rem }
dt { opacity: .75 }
dd { margin: 0 }
"""
STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Page:
    """A page of results. What comes from the table is text on it, and never markup."""

    title: str  # which table and version was searched, by which model
    query: Query
    results: Results
    images: Mapping[str | int, bytes]  # as they are stored, by id

    def write(self, file: str) -> None:
        """Write the page. Raises UsageError, which names the option, if the file can't be written."""
        try:
            Path(file).write_text(self.html(), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {file}: {error.strerror or error}") from error

    def html(self) -> str:
        """The page."""
        items = "\n".join(map(self.item, self.results.found.to_pylist()))
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{safe(self.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{safe(self.title)}</h1>
{self.asked()}
<ol>
{items}
</ol>
</body>
</html>
"""

    def asked(self) -> str:
        """The query."""
        said = {"text": self.query.text, "filter": self.query.where, "mode": self.query.mode}
        image = self.query.image
        if isinstance(image, str):
            said["image"] = Path(image).name
        lines = [f"<p>{name}: <bdi>{safe(value)}</bdi></p>" for name, value in said.items() if value]
        content = Path(image).read_bytes() if isinstance(image, str) else None
        return "\n".join([*lines, picture(content, "the image that was searched with"), self.count()])

    def count(self) -> str:
        """How many results there are."""
        return f"<p>{len(self.results.found)} results, best first</p>"

    def item(self, row: dict[str, Any]) -> str:
        """One result."""
        key, score, text = row.pop(ID), row.pop(SCORE), row.pop(TEXT, None)
        values = {name: value for name, value in row.items() if value is not None}
        rest = "".join(
            f"<dt>{safe(name)}</dt><dd><bdi>{safe(shown(value))}</bdi></dd>" for name, value in values.items()
        )
        return (
            f"<li>{picture(self.images.get(key), f'image of {key}')}<h2><bdi>{safe(key)}</bdi></h2>"
            f"<p>score {score:.3f}</p><p><bdi>{safe('' if text is None else shown(text))}</bdi></p><dl>{rest}</dl></li>"
        )


def picture(content: bytes | None, what: str) -> str:
    """An image in the page itself; nothing for what can't be shown."""
    drawn = None if content is None else picture_of_image(content, SIZE)
    if drawn is None:
        return ""
    data = base64.b64encode(drawn).decode()
    return f'<img src="data:image/webp;base64,{data}" alt="{safe(what)}">'


def shown(value: Any) -> str:
    """A value as text, cut if it is long."""
    return shortened(str(json_value(value)), LONGEST_VALUE)


def safe(value: Any) -> str:
    """Text that is no markup, and doesn't hide or reverse what follows."""
    return escape(one_line(str(value)))
