"""What must hold of every page, whatever is on it: it is complete in itself, and nothing in it runs."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"img", "meta", "br"}
ELSEWHERE = re.compile(r"\burl\((?!#)|@import|<!ENTITY|<!DOCTYPE(?! html>)", re.I)
HOSTILE = '</title></style></svg><script>alert(1)</script><img src=x onerror="a()">\'"&\x00\x1b[31m\u202e\u2028\ud800'


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text. Fails if they are not nested as they should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check(html: str) -> Elements:
    """Fails if a page has a script, refers to anything outside of itself, or has styles that its policy forbids."""
    html.encode()  # no surrogates
    page = Elements(html)
    style = html.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = [values["content"] for name, values in page.found if "http-equiv" in values]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert not ELSEWHERE.search(html)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\u2028]", html.replace("\n", ""))
    ids = [values["id"] for _, values in page.found if "id" in values]
    assert len(ids) == len(set(ids))
    for name, values in page.found:
        assert name not in {"script", "link", "iframe", "object", "embed", "base", "form", "use" if not ids else ""}
        assert not {key for key in values if key.startswith("on") or key in {"style", "srcset", "action", "xlink:href"}}
        assert (values.get("src") or "data:image/webp;base64,").startswith("data:image/webp;base64,")
        assert (values.get("href") or "#").startswith("#")
    return page
