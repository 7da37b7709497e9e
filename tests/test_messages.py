"""Messages name only what exists: options, commands and files of this repository."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.vista import COMMANDS, load

ROOT = Path(__file__).resolve().parents[1]
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)")
COMMAND = re.compile(r"\bvista ([a-z-]+) --")
FILE = re.compile(r"(?<![/\w])((?:jobs|pipelines|vista_core|docs|benchmarks|tools)/[\w/]+\.\w+)")
MODULE = re.compile(r"python -m ([\w.]+)")
OF_OTHER_PROGRAMS = {
    *("help", "config"),  # of each command
    "hard-dereference",  # of tar
    "repo-type",  # of hf
    "local-dir",
    "seed",  # of pipelines.drawings
    "train",
    "option",  # stands for any
    *("vision", "name", "seed"),  # of vista_core.assemble
}


def literals() -> Iterator[tuple[str, str]]:
    """All text in the product's source, docstrings included, as messages and help have it; f-strings with holes."""
    for folder in ("pipelines", "jobs", "vista_core"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                    yield place, "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield place, node.value


LITERALS = list(literals())


def files_of(module: Path) -> tuple[Path, Path]:
    """What `python -m` may run: a file, or that of a package."""
    return module.with_suffix(".py"), module / "__main__.py"


def options() -> set[str]:
    """The options of all commands."""
    configs = [load(command.config) for command in COMMANDS.values()]
    return {field.name.replace("_", "-") for config in configs for field in dataclasses.fields(config)}


@pytest.mark.parametrize(
    ("pattern", "exists"),
    [
        (OPTION, lambda name: name in options() | OF_OTHER_PROGRAMS),
        (COMMAND, lambda name: name in COMMANDS),
        (FILE, lambda name: (ROOT / name).is_file()),
        (MODULE, lambda name: any(file.is_file() for file in files_of(ROOT / name.replace(".", "/")))),
    ],
    ids=["options", "commands", "files", "modules"],
)
def test_what_a_message_names_exists(pattern, exists):
    wrong = [
        f"{place}: {name[0]}" for place, text in LITERALS for name in pattern.finditer(text) if not exists(name[1])
    ]
    assert not wrong, "\n".join(wrong)


def test_names_are_found():
    """The check above would pass if it found nothing."""
    found = {name for _, text in LITERALS for name in OPTION.findall(text)}
    assert {"source", "allow-prefix", "text-column", "source-kind", "reembed"} <= found
