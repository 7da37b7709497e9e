"""A report as one HTML page that needs nothing else: no script, no font, no image from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.report.markup import Markup, joined, tag
from pipelines.report.style import STYLE


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    body: Markup
    note: str = ""  # a sentence below the title


@dataclass(frozen=True)
class Page:
    """What a page shows, from top to bottom."""

    title: str
    subtitle: str
    passed: bool
    verdict: str  # how the run ended, in a few words
    explanation: Sequence[str]  # sentences on that, a paragraph each
    tiles: Sequence[tuple[str, str]]  # the figures that matter most, with their labels
    sections: Sequence[Section | None]  # None is a section without content


def render(page: Page) -> str:
    """The page as HTML."""
    style = Markup(STYLE)  # the digest in the policy is of exactly this text
    head = joined(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy(style)),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="referrer", content="no-referrer"),
            tag("meta", name="robots", content="noindex"),
            tag("title", f"{page.title}: {page.verdict}"),
            tag("style", style),
        ]
    )
    top = [tag("h1", page.title), tag("p", page.subtitle, class_="faint"), verdict(page), tiles(page)]
    written = f"Written by vista on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    body = joined(
        [
            tag("header", *top),
            tag("main", *(section(each) for each in page.sections if each is not None)),
            tag("footer", tag("p", written)),
        ]
    )
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def policy(style: str) -> str:
    """The content security policy: the page's own style, pictures that are part of it, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def verdict(page: Page) -> Markup:
    """How the run ended."""
    words = [tag("strong", page.verdict), *(tag("p", sentence) for sentence in page.explanation)]
    return tag("div", *words, class_=f"verdict {'good' if page.passed else 'bad'}", role="status")


def tiles(page: Page) -> Markup:
    """The most important figures."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in page.tiles), class_="tiles")


def section(part: Section) -> Markup:
    """A section with its title."""
    return tag("section", tag("h2", part.title), tag("p", part.note, class_="faint") if part.note else None, part.body)
