"""Every input that ever found a defect, once more, within the same limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run import FOUND, Result, examine
from tests.fuzz.targets import TARGETS

INPUTS = [(target, path) for target in TARGETS for path in sorted((FOUND / target.name).glob("*"))]


@pytest.mark.parametrize(("target", "path"), INPUTS, ids=[f"{target.name}/{path.name}" for target, path in INPUTS])
def test_an_input_that_found_a_defect_does_so_no_more(target, path: Path):
    examine(target, path.read_bytes(), Result())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_each_target_accepts_valid_inputs_and_refuses_others(target):
    """A target that refuses everything, or accepts everything, tests nothing."""
    assert all(map(target.run, target.valid))
    assert not target.run(
        b"\x00\x01\x02\x03" if target.name != "text" else "\ud800".encode("utf-32-le", "surrogatepass")
    )
