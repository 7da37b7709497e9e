"""Where files of one's own go if there is no home directory, or one that can't be written to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os
from pipelines.storage.home import cache_folder, ensure_home
ensure_home()
print(os.environ["HOME"], cache_folder())
"""


def home_and_cache(temporary: Path) -> list[Path]:
    """In a process whose home is `temporary`/home, and whose temporary files are in `temporary`."""
    environment = os.environ | {"HOME": str(temporary / "home"), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    return [Path(path) for path in done.stdout.decode().split()]


@pytest.fixture
def private(tmp_path) -> Path:
    """The folder that stands in for the home."""
    return tmp_path / f"vista-{os.getuid()}"


def test_a_home_that_is_there_is_used(tmp_path):
    (tmp_path / "home").mkdir()
    assert home_and_cache(tmp_path) == [tmp_path / "home", tmp_path / "home" / ".cache" / "vista"]


def test_a_home_that_is_not_there_is_replaced_by_a_private_folder(tmp_path, private):
    assert home_and_cache(tmp_path) == [private, private / ".cache" / "vista"]
    assert private.stat().st_mode & 0o777 == 0o700
    assert home_and_cache(tmp_path)[0] == private, "the next run finds what this one kept"


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, private):
    private.mkdir()
    private.chmod(0o777)
    assert private not in home_and_cache(tmp_path)


def test_a_link_that_somebody_else_may_have_made_is_not_followed(tmp_path, private):
    (tmp_path / "elsewhere").mkdir()
    private.symlink_to(tmp_path / "elsewhere")
    home, _ = home_and_cache(tmp_path)
    assert home.resolve() not in (private, tmp_path / "elsewhere")
