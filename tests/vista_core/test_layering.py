"""`vista_core` imports only what it needs, and its modules do not import each other in circles."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import vista_core

PACKAGE = Path(vista_core.__file__).parent
MODULES = {f"vista_core.{path.stem}": path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def printed(code: str) -> str:
    """The output of a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_does_not_import_transformers_timm_ray_or_lance():
    code = "import sys, vista_core; print([m for m in ('transformers', 'timm', 'ray', 'lance') if m in sys.modules])"
    assert printed(code) == "[]\n"


def test_preparing_records_and_comparing_identities_do_not_import_torch():
    code = "import sys; from vista_core import Preprocessor, EncoderIdentity; print('torch' in sys.modules)"
    assert printed(code) == "False\n"


def test_all_public_names_exist():
    assert all(hasattr(vista_core, name) for name in vista_core.__all__)


def imported_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert "vista_core" not in found, f"{path.name} imports the package that imports it"
    return found & MODULES.keys()


def test_no_module_imports_itself_through_others():
    imports = {name: imported_modules(path) for name, path in MODULES.items()}
    assert imports["vista_core.encoder"] >= {"vista_core.identity", "vista_core.model"}
    list(TopologicalSorter(imports).static_order())  # CycleError names the modules of a circle
