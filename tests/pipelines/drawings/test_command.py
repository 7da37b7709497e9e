"""The command `python -m pipelines.drawings`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def run(folder: Path, *options: str, hash_seed: str = "0") -> subprocess.CompletedProcess:
    """The command, as a process of its own."""
    command = [sys.executable, "-m", "pipelines.drawings", str(folder), *options]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for name, hash_seed in (("one", "1"), ("two", "2")):
        found = run(tmp_path / name, "--train", "60", hash_seed=hash_seed)
        assert (found.returncode, found.stdout) == (0, f"{tmp_path / name}\n"), found.stderr
    written = contents(tmp_path / "one")
    assert written == contents(tmp_path / "two")
    parts = ("corpus", "qrels", "queries", "queries_meta")
    assert set(written) == {
        *(f"train/{name}" for name in ("edit_image.jsonl", "t2i.jsonl", "t2it.jsonl", "images.tar.part00")),
        *(f"eval/{task}/{part}.parquet" for task in ("cir", "t2i") for part in parts),
    }


def test_fewer_scenes_than_a_family_are_refused(tmp_path):
    found = run(tmp_path / "none", "--train", "11")
    assert found.returncode == 2
    assert "--train 11: scenes come in families of 12" in found.stderr
    assert not (tmp_path / "none").exists()
