"""Every third-party module that is imported directly is a declared dependency."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("vista_core", "pipelines", "jobs")
# the extras whose dependencies each folder may import, besides those of the product
EXTRAS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PRODUCT, ()),
    "pipelines": ("delta",),  # imported only for a table of Delta Lake
    "benchmarks": ("bench", "dev"),
    "tools": ("dev",),
    "tests": ("dev", "mteb"),
    "examples": ("mteb",),
}
BROUGHT_BY_TORCH = ("triton",)  # which pins its version, wherever it is built for GPUs
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = packages_distributions()


def normalised(name: str) -> str:
    """The name of a distribution in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(folder: str) -> set[str]:
    """Names of the distributions that files in `folder` may import."""
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(line for extra in EXTRAS[folder] for line in extras[extra])]
    names = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {normalised(name[0]) for name in names if name} | set(BROUGHT_BY_TORCH)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every absolute import in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or "").partition(".")[0]


def distributions(module: str) -> set[str]:
    """Distributions that install a module; for a module that isn't installed, the distribution of the same name."""
    return {normalised(name) for name in DISTRIBUTIONS.get(module, [module])}


def undeclared(folder: str) -> list[str]:
    """Imports of third-party modules that none of the declared dependencies installs."""
    allowed = declared(folder)
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module} of {' or '.join(sorted(distributions(module)))}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, module in imported(path)
        if module not in sys.stdlib_module_names and module not in EXTRAS and not distributions(module) & allowed
    ]


@pytest.mark.parametrize("folder", EXTRAS)
def test_every_third_party_import_is_a_declared_dependency(folder: str):
    missing = undeclared(folder)
    assert not missing, "\n".join(["add these distributions to pyproject.toml:", *missing])


def test_imports_are_found_and_mapped_to_distributions():
    """The check above would pass if it found nothing."""
    found = {module for path in (ROOT / "vista_core").rglob("*.py") for _, module in imported(path)}
    assert {"torch", "numpy", "PIL", "transformers"} <= found, "transformers is imported inside a function"
    assert distributions("PIL") == {"pillow"}
    assert distributions("lance") == {"pylance"}
    assert {"torch", "ray", "huggingface-hub"} <= declared("pipelines")
    assert "pytest" in declared("tests") - declared("jobs")
