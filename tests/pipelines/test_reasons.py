"""The table of reject reasons is complete: documentation and code know the same ones, with the same consequences."""

import ast
from pathlib import Path

import pytest

from pipelines.reasons import LONGEST_MESSAGE, OBJECT_UNREADABLE, REASONS, Reject, markdown_table
from vista_core import REJECT_REASONS

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = [path for path in sorted((ROOT / "pipelines").rglob("*.py")) if path.name != "reasons.py"]


def test_the_documentation_has_every_reason_with_its_consequences():
    assert markdown_table() in (ROOT / "docs" / "rejects.md").read_text()


def test_reasons_that_the_model_raises_are_in_the_table():
    assert set(REJECT_REASONS) <= REASONS.keys()


def test_every_reason_is_used():
    names = {name for path in PRODUCT for node in ast.walk(ast.parse(path.read_text())) for name in named(node)}
    constants = {reason.name.upper() for reason in REASONS.values()}
    assert constants - names <= {name.upper() for name in REJECT_REASONS}


def named(node: ast.AST) -> list[str]:
    return [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_reason_is_spelled_out_elsewhere(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Constant) and node.value in REASONS), f"{path}:{node.lineno} {node.value}"


def test_a_reject_has_its_reasons_stage_and_a_bounded_message():
    assert OBJECT_UNREADABLE.reject("x" * 1000) == Reject("read", "object_unreadable", "x" * LONGEST_MESSAGE)
    assert OBJECT_UNREADABLE.reject("x", stage="decode").stage == "decode"


@pytest.mark.parametrize("reason", REASONS.values(), ids=lambda reason: reason.name)
def test_a_row_that_stays_belongs_to_a_record_that_is_tried_again(reason):
    """Otherwise it would stay for ever without anybody looking at its record again."""
    assert reason.removes_row or reason.retryable
