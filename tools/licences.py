"""Lists what vista needs to run, with licences: `python -m tools.licences > docs/licences.md`.

Taken from the metadata of the installed packages, over all dependencies of dependencies.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError

from packaging.requirements import Requirement

ROOT = "vista"
OF_CUDA = re.compile(r"nvidia-|cuda-|triton$")  # which the CUDA build of torch brings on Linux; other builds don't
HEAD = """# Licences

What vista needs to run, as `python -m tools.licences` found it. All of these allow commercial use; certifi and tqdm
(Mozilla Public License 2.0) ask that changes to their own files be published. The CUDA build of torch also brings
NVIDIA's libraries (`nvidia-*`), under NVIDIA's own licence, and triton (MIT). The released weights of Visualized-BGE
have the licence of their authors (MIT).

| package | licence |
|---|---|
"""


def name_of(name: str) -> str:
    """The normal form of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(root: str = ROOT) -> dict[str, Distribution]:
    """The installed packages that `root` needs, by name, without itself and without CUDA's."""
    found, waiting = dict[str, Distribution](), [(root, frozenset[str]())]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            package = importlib.metadata.distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        found[name_of(name)] = package
        for each in map(Requirement, package.requires or ()):
            environments = [{"extra": extra} for extra in (*extras, "")]
            asked = (name_of(each.name), frozenset(each.extras))
            if asked in seen or not (each.marker is None or any(map(each.marker.evaluate, environments))):
                continue
            seen.add(asked)
            waiting.append(asked)
    return {name: found[name] for name in sorted(found) if name != root and not OF_CUDA.match(name)}


def licence(package: Distribution) -> str:
    """The licence as the package's metadata have it; empty if they have none."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [each for each in about.get_all("Classifier") or () if each.startswith("License :: OSI Approved :: ")]
    named = "; ".join(each.rpartition(" :: ")[2] for each in classifiers)
    return named or (about.get("License") or "").split("\n")[0].strip()


def page() -> str:
    """The content of docs/licences.md."""
    rows = (f"| {name} | {licence(package)} |\n" for name, package in needed().items())
    return HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(page())
