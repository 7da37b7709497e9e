"""`vista_core` is the model and nothing around it."""

import ast
import subprocess
import sys
from pathlib import Path

import vista_core

FORBIDDEN = {"ray", "lance", "lancedb", "fsspec", "s3fs", "boto3", "pyarrow", "pipelines", "jobs"}


def imported(path: Path) -> set[str]:
    """Top-level names of the packages a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_no_ray_no_lance_no_object_storage():
    for path in Path(vista_core.__file__).parent.rglob("*.py"):
        assert not imported(path) & FORBIDDEN, path


def test_importing_it_does_not_import_transformers():
    code = "import sys, vista_core; print([m for m in ('transformers', 'timm', 'ray', 'lance') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_preparing_records_does_not_import_torch():
    code = "import sys; from vista_core import Preprocessor, EncoderIdentity; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_is_public_is_there():
    assert all(hasattr(vista_core, name) for name in vista_core.__all__)
