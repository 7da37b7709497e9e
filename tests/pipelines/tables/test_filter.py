"""Filters: one expression each, of bounded depth and length."""

import re

import lance
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.tables.filter import DEEPEST, MOST_TERMS, enclosed
from vista_core import UsageError


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> lance.LanceDataset:
    rows = pa.table({"price": range(10), "name": [f"a{i}" for i in range(10)]})
    return lance.write_dataset(rows, tmp_path_factory.mktemp("filter") / "t.lance")


@pytest.mark.parametrize("where", [None, "", " \n"])
def test_an_empty_filter_is_none(where):
    assert enclosed(where) is None


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("price = 1 -- ends in a comment (", 1),
        ("name = 'a)1' OR name = 'it''s (' OR price < 2", 2),
        ("`price` < 3 /* ) */", 3),
        ("name = 'a\"1'", 0),
        ("price IN (" + ", ".join(map(str, range(1_500))) + ")", 10),
        ("name IN (" + ", ".join(f"'a{i}'" for i in range(1_000)) + ")", 10),
        ("price = 1" + " + 1" * (MOST_TERMS - 2), 0),
        (" OR ".join(f"price = {i}" for i in range(60)), 10),
        ("coalesce(" * DEEPEST + "price" + ", 1)" * DEEPEST + " = 1", 1),
    ],
)
def test_filters_that_people_type_are_used(table, where, rows):
    assert table.count_rows(enclosed(where)) == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("price = 1) UNION SELECT (1", "parentheses don't match"),
        ("true) OR (true", "parentheses don't match"),
        ("((price = 1)", "parentheses don't match"),
        ("price = 1 -- ) \n)", "parentheses don't match"),
        ("name = E'\\' ( ' ) OR true OR name = (' '", "write strings as"),
        ("\"name\" = 'a1'", "write columns as they are or as `name`"),
        ('name = "a1"', "and strings as 'it'"),
        ("$$ ( $$ = name) OR (true", "write strings as"),
        # These end the process, or take minutes, if Lance gets them.
        ("price = 1" + " + 1" * 1_000, "1002 names and operators; at most 200"),
        ("price" + "::int" * 1_000 + " = 1", "names and operators"),
        ("coalesce(" * 20 + "price" + ", 1)" * 20 + " = 1", "at most 10 parentheses can be inside each other"),
        ("CAST(" * 100 + "price" + " AS int)" * 100 + " = 1", "inside each other"),
        ("x" * 10_001, "--where has 10,001 characters; at most 10,000"),
    ],
)
def test_what_could_break_out_or_do_harm_is_refused(where, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        enclosed(where)


FOLLOWED = ["price = 1; DROP TABLE t", "price = 1 LIMIT 1", "price = 1 UNION SELECT 1", "price, 1"]


@pytest.mark.parametrize("where", FOLLOWED)
def test_nothing_can_follow_the_expression(table, where):
    with pytest.raises(OSError, match=r"sql parser error|not supported"):
        table.count_rows(enclosed(where))


PIECES = [
    "(",
    ")",
    "'",
    "''",
    "--",
    "/*",
    "*/",
    "\n",
    "`",
    '"',
    "\\",
    ";",
    "price",
    "=",
    "1",
    "OR",
    "true",
    "E'",
    "$$",
    "$",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
@example("true /* ' */ OR true")
@example("'a' = 'a")
def test_an_expression_keeps_its_place_in_a_larger_one(table, where):
    try:
        text = enclosed(where)
        rows = 0 if text is None else table.count_rows(f"false AND {text}")
    except (UsageError, OSError):
        return
    assert rows == 0
