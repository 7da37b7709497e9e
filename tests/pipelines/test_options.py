"""What users type, and what they are told if it is wrong: the part that all commands share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import tyro

from pipelines.options import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    NAME,
    SHARE,
    SHARE_ABOVE_0,
    Constraint,
    check_options,
    parse,
)
from vista_core import UsageError


@dataclass(frozen=True)
class Order:
    """Order something to eat."""

    dish: Annotated[str, NAME]
    """What to eat."""
    servings: Annotated[int | None, AT_LEAST_1] = None
    """How many servings."""
    spice: Annotated[float, SHARE] = 0.5
    """How hot it is."""
    fill_glass: Annotated[float, SHARE_ABOVE_0] = 1.0
    """How full the glass is."""
    max_wait: Annotated[float, ABOVE_0] = 10.0
    """Minutes to wait."""
    tip: Annotated[float | None, AT_LEAST_0] = None
    """How much to add."""
    note: str = ""
    """Anything else to say."""
    table: Literal["inside", "outside"] = "inside"
    """Where to sit."""
    without: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What to leave out."""
    take_away: bool = False
    """Pack it up, please."""

    def __post_init__(self) -> None:
        check_options(self)


@pytest.fixture
def toml(tmp_path):
    """Writes a configuration file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "job.toml"
        path.write_text(text)
        return str(path)

    return write


def test_what_is_not_typed_has_its_default():
    assert parse(Order, ["--dish", "soup"]) == Order("soup")


def test_options_are_written_with_dashes_or_underscores():
    order = parse(Order, ["--dish", "soup", "--max-wait", "5", "--fill_glass", "0.5", "--take-away"])
    assert order == Order("soup", max_wait=5, fill_glass=0.5, take_away=True)


def test_help_says_what_the_command_does_and_where_else_options_can_be(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Order, ["--help"], "vista order")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: vista order")
    assert "Order something to eat." in shown
    assert "--config FILE" in shown


def test_help_shows_no_trace_of_constraints(capsys):
    with pytest.raises(SystemExit):
        parse(Order, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--spice FLOAT How hot it is. (default: 0.5)" in shown
    assert "--tip {None}|FLOAT How much to add. (default: None)" in shown
    assert "Constraint" not in shown


def test_a_file_sets_options_and_what_is_typed_overrides_it(toml):
    path = toml('dish = "file"\nservings = 2\nmax_wait = 64\nfill-glass = 0.25\ntake-away = true\n')
    order = parse(Order, ["--max-wait", "3", "--config", path])
    assert order == Order("file", servings=2, max_wait=3, fill_glass=0.25, take_away=True)


def test_the_last_of_several_files_counts(toml, tmp_path):
    second = tmp_path / "second.toml"
    second.write_text("servings = 32")
    order = parse(Order, ["--dish", "soup", f"--config={toml('servings = 64')}", f"--config={second}"])
    assert order.servings == 32


def test_a_file_can_leave_a_flag_off_and_start_a_text_with_dashes(toml):
    assert not parse(Order, ["--dish", "soup", "--config", toml("take-away = false")]).take_away
    assert parse(Order, ["--dish", "soup", "--config", toml('note = "--dark"')]).note == "--dark"


def test_an_option_may_be_given_several_times(toml):
    options = ["--dish", "soup", "--without", "nuts", "--without", "salt"]
    assert parse(Order, options).without == ("nuts", "salt")
    path = toml('without = ["nuts", "salt"]')
    assert parse(Order, ["--dish", "soup", "--config", path]).without == ("nuts", "salt")
    assert parse(Order, ["--dish", "soup"]).without == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('dihs = "t"', "no such option: dihs; known: dish, fill_glass"),
        ('[order]\ndish = "t"', "no such option: order"),
        ("dish = ", "job.toml"),
        ("spice = 2", "--spice"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_cause(toml, text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(Order, ["--dish", "soup", "--config", toml(text)])


@pytest.mark.parametrize("content", [None, b"dish = '\xff'"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "job.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--config .*job\.toml"):
        parse(Order, ["--dish", "soup", "--config", str(path)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spice": 1.5}, "--spice must be between 0 and 1, not 1.5"),
        ({"spice": -0.1}, "--spice must be between 0 and 1, not -0.1"),
        ({"spice": float("nan")}, "--spice must be between 0 and 1, not nan"),
        ({"servings": 0}, "--servings must be 1 or more, not 0"),
        ({"fill_glass": 0}, "--fill-glass must be more than 0 and at most 1, not 0"),
        ({"fill_glass": 1.1}, "--fill-glass must be more than 0 and at most 1, not 1.1"),
        ({"max_wait": 0.0}, "--max-wait must be more than 0, not 0.0"),
        ({"tip": -1.0}, "--tip must be 0 or more, not -1.0"),
        ({"tip": float("nan")}, "--tip must be 0 or more, not nan"),
        ({"dish": "a/b"}, "--dish must be a name of letters, digits, '_', '-' and '.', "),
        ({"dish": ".hidden"}, "which does not start with '.', not '.hidden'"),
        ({"dish": "naïve"}, "not 'naïve'"),
        ({"dish": ""}, "not ''"),
    ],
)
def test_a_value_that_violates_a_constraint_is_refused_with_the_option(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Order(**{"dish": "soup"} | options)


def test_values_at_the_limits_of_a_constraint_are_taken():
    assert Order("soup", servings=1, spice=0, fill_glass=1e-9, max_wait=1e-9, tip=0).spice == 0
    assert Order("soup", spice=1, fill_glass=1).spice == 1


@pytest.mark.parametrize("name", ["catalog", "catalog_2024-01.v2", "0"])
def test_a_usual_name_is_taken(name):
    assert Order(name).dish == name
    NAME.check("--table", name)


EVEN = Constraint("an even number", lambda value: value % 2 == 0)


@dataclass(frozen=True)
class Pairs:
    n: Annotated[int, "of shoes", AT_LEAST_1, EVEN]


def test_a_field_can_have_several_constraints_and_other_metadata():
    for wrong, words in ((0, "1 or more"), (3, "an even number")):
        with pytest.raises(UsageError, match=words):
            check_options(Pairs(wrong))
    check_options(Pairs(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--dish"),
        (["--dish", "soup", "--servings", "many"], "--servings"),
        (["--dish", "soup", "--table", "roof"], "--table"),
        (["--dish", "soup", "--sauce", "x"], "--sauce"),
        (["--dish", "soup", "--config"], "--config"),
    ],
    ids=["missing", "no number", "no choice", "unknown", "no file"],
)
def test_options_that_cannot_be_parsed_exit_with_2_and_are_named(options, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Order, options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
