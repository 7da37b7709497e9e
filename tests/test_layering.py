"""The rules of the architecture: who imports whom, and how large things get."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("vista_core", "pipelines", "jobs")  # each may import those before it
NOT_IN_THE_MODEL = {"ray", "lance", "lancedb", "lance_ray", "s3fs", "fsspec", "pyarrow", "duckdb", "boto3", "botocore"}
TAKES_PIXELS_BY_ARROW = Path("vista_core/image.py")  # from Pillow, which hands them over so without a copy
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "misc", "processor", "tools"}
PARAMETERS = 5
OF_THE_REFERENCE = {"vista_core/drop_in.py"}  # its constructor has the parameters of the class it stands in for


def sources(*folders: str) -> list[Path]:
    found = [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def imports(path: Path) -> Iterator[str]:
    """The first part of every module that a file imports, wherever in it; a relative import is of its own package."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield path.parts[0] if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", sources(*LAYERS), ids=str)
def test_imports_go_from_jobs_to_pipelines_to_the_model(path):
    above = set(LAYERS[LAYERS.index(path.parts[0]) + 1 :])
    assert not above & set(imports(path)), f"{path} imports what is built on it"
    assert not {"tests", "benchmarks", "tools"} & set(imports(path))


@pytest.mark.parametrize("path", sources("vista_core"), ids=str)
def test_the_model_knows_neither_ray_nor_lance_nor_object_storage(path):
    assert not (NOT_IN_THE_MODEL - {"pyarrow" if path == TAKES_PIXELS_BY_ARROW else None}) & set(imports(path))


@pytest.mark.parametrize("path", sources("jobs"), ids=str)
def test_an_entry_point_is_short(path):
    assert len((ROOT / path).read_text().splitlines()) < 60


@pytest.mark.parametrize("path", sources(*LAYERS), ids=str)
def test_a_file_is_named_by_what_it_is_about(path):
    assert not {path.stem, path.parent.name} & NAMES_THAT_SAY_NOTHING


@pytest.mark.parametrize("path", sources(*LAYERS), ids=str)
def test_no_function_has_more_than_five_parameters(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if path.as_posix() in OF_THE_REFERENCE and node.name == "__init__":
                continue
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            own = [name for name in names if name not in ("self", "cls")]
            assert len(own) <= PARAMETERS, f"{path}:{node.lineno} {node.name}({', '.join(own)})"
