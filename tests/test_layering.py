"""The rules of the architecture: who imports whom, and how large things get."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("vista_core", "pipelines", "jobs")  # each may import those before it
# The rooms of `pipelines`, from the ground up: each may import those before it, and itself. Rooms of one line are
# independent of each other.
ROOMS = (
    ("reasons",),
    ("records",),
    ("current_run", "terminal", "events", "signals", "options", "fingerprint", "batch_stats", "pictures"),
    ("storage",),
    ("cluster", "log_lines", "notify"),
    ("tables",),
    ("sources",),
    ("fetching",),
    ("stages",),
    ("ingest",),
    ("progress", "run_metrics"),
    ("forecast",),
    ("report",),
    ("index",),  # a command as well, whose parts keep an index up to date in `embed`
    ("quality",),
    ("gates",),
    ("drawings",),
    ("sample_catalog",),
    ("embed", "backfill", "search", "rollback", "switch", "drop_column"),  # the commands
    ("serve", "evaluate", "finetune"),  # which search, and embed
)
WITHOUT_RAY = (
    "pipelines.search.run",
    "pipelines.serve.run",
    "pipelines.rollback",
    "pipelines.switch",
    "pipelines.drop_column",
    "pipelines.tables.dataset",
    "pipelines.storage.errors",
)
NOT_IN_THE_MODEL = {"ray", "lance", "lancedb", "lance_ray", "s3fs", "fsspec", "pyarrow", "duckdb", "boto3", "botocore"}
TAKES_PIXELS_BY_ARROW = Path("vista_core/image.py")  # from Pillow, which hands them over without a copy
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "misc", "processor", "tools"}
PARAMETERS = 5
LINES = 350
OF_THE_REFERENCE = {"vista_core/drop_in.py"}  # its constructor has the parameters of the class it stands in for


def sources(*folders: str) -> list[Path]:
    found = [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; a relative import is of its own package."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(path.parts[: len(path.parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, [module, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def room(name: str) -> str:
    """The room that `pipelines.ROOM.whatever` is in."""
    return name.split(".")[1]


def floor(of: str) -> int:
    found = [number for number, rooms in enumerate(ROOMS) if of in rooms]
    assert found, f"pipelines/{of} has no place among the rooms of tests/test_layering.py"
    return found[0]


@pytest.mark.parametrize("path", sources(*LAYERS), ids=str)
def test_imports_go_from_jobs_to_pipelines_to_the_model(path):
    above = set(LAYERS[LAYERS.index(path.parts[0]) + 1 :])
    assert not above & packages(path), f"{path} imports what is built on it"
    assert not {"tests", "benchmarks", "tools"} & packages(path)


@pytest.mark.parametrize("path", [path for path in sources("pipelines") if len(path.parts) > 1], ids=str)
def test_imports_inside_pipelines_go_to_the_rooms_below(path):
    here = path.parts[1].removesuffix(".py")
    if here == "__init__":
        assert not {name for name in imports(path) if name.startswith("pipelines.")}
        return
    for name in imports(path):
        if name.startswith("pipelines.") and room(name) != here:
            assert floor(room(name)) < floor(here), f"{path} imports {name}, which is not in a room below"


def test_no_file_imports_itself_by_way_of_others():
    files = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in sources(*LAYERS)}
    ties = {}
    for module, path in files.items():
        named = set(imports(path))
        ties[module] = {name for name in files if name != module and (name in named or in_module(name, named))}
    while leaves := [module for module, needed in ties.items() if not needed & ties.keys()]:
        for module in leaves:
            del ties[module]
    assert not ties, f"import circles among {sorted(ties)}"


def in_module(module: str, named: set[str]) -> bool:
    """True if one of the imported names is defined in `module`."""
    return any(name.rpartition(".")[0] == module for name in named)


@pytest.mark.parametrize("module", WITHOUT_RAY)
def test_what_runs_without_ray_does_not_import_it(module):
    program = f"import sys, {module}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", sources("vista_core"), ids=str)
def test_the_model_knows_neither_ray_nor_lance_nor_object_storage(path):
    allowed = {"pyarrow"} if path == TAKES_PIXELS_BY_ARROW else set()
    assert not (NOT_IN_THE_MODEL - allowed) & packages(path)


@pytest.mark.parametrize("path", sources("jobs"), ids=str)
def test_an_entry_point_is_short(path):
    assert len((ROOT / path).read_text().splitlines()) < 60


@pytest.mark.parametrize("path", sources(*LAYERS), ids=str)
def test_a_file_is_short_and_named_by_its_subject(path):
    assert not {path.stem, path.parent.name} & NAMES_THAT_SAY_NOTHING
    assert len((ROOT / path).read_text().splitlines()) <= LINES


@pytest.mark.parametrize("path", sources(*LAYERS), ids=str)
def test_no_function_has_more_than_five_parameters(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if path.as_posix() in OF_THE_REFERENCE and node.name == "__init__":
                continue
            if any(ast.unparse(decorator) == "triton.jit" for decorator in node.decorator_list):
                continue  # a kernel takes pointers, sizes and strides
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            own = [name for name in names if name not in ("self", "cls")]
            assert len(own) <= PARAMETERS, f"{path}:{node.lineno} {node.name}({', '.join(own)})"
