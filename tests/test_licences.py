"""What vista needs to run may be used and passed on, and docs/licences.md lists it."""

from __future__ import annotations

import re
from pathlib import Path

from tools.licences import licence, needed

LISTED = Path(__file__).resolve().parents[1] / "docs/licences.md"
ALLOWED = re.compile(
    r"(MIT|MIT-0|MIT-CMU|MIT License|Apache(-| |, Version |Software License|\d|\.|License| )*(WITH LLVM-exception)?"
    r"|BSD License|(3-Clause )?BSD(-\d-Clause)?( License)?|0BSD|ISC License \(ISCL\)|Zlib|CC0-1\.0|BSL-1\.0|CNRI-Python"
    r"|PSF-2\.0|Python Software Foundation License|MPL-2\.0|Mozilla Public License 2\.0 \(MPL 2\.0\))"
)


def test_every_licence_is_known_and_allowed():
    found = {name: licence(package) for name, package in needed().items()}
    assert len(found) > 50
    strange = {
        name: text
        for name, text in found.items()
        if not text or not all(ALLOWED.fullmatch(part.strip()) for part in re.split(r" AND | OR |;", text))
    }
    assert strange == {}


def test_the_list_has_every_package():
    listed = set(re.findall(r"^\| ([\w.-]+) \|", LISTED.read_text(), re.MULTILINE)) - {"package"}
    assert needed().keys() <= listed, "python -m tools.licences > docs/licences.md"
