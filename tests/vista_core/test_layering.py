"""`vista_core` is the model and nothing around it."""

import subprocess
import sys

import vista_core


def test_importing_it_does_not_import_transformers():
    code = "import sys, vista_core; print([m for m in ('transformers', 'timm', 'ray', 'lance') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_preparing_records_does_not_import_torch():
    code = "import sys; from vista_core import Preprocessor, EncoderIdentity; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_is_public_is_there():
    assert all(hasattr(vista_core, name) for name in vista_core.__all__)
