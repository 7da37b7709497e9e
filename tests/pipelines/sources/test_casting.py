"""Values keep what they are in whatever type they come: ids, texts, and columns that pass through."""

import datetime
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.casting import cast, ids, texts
from pipelines.sources.types import as_plain, merged, plain

UUIDS = [uuid.UUID(int=number) for number in (1, 1 << 127)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", "", None, "007"]), ["a", None, None, "007"]),
        (pa.array([1, None], pa.uint64()), ["1", None]),
        (pa.array([1.0, None, float("nan"), 3.0]), ["1", None, None, "3"]),
        (pa.array([Decimal(101), Decimal(0)], pa.decimal128(38, 0)), ["101", "0"]),
        (pa.array([Decimal("7.00"), Decimal("7.50"), Decimal(100)], pa.decimal128(10, 2)), ["7", "7.5", "100"]),
        (pa.array([each.bytes for each in UUIDS], pa.uuid()), [str(each) for each in UUIDS]),
        (pa.array([b"\1\2", None], pa.binary(2)), ["0102", None]),
        (pa.array([b"sku-1", b"\xff", b""]), ["sku-1", "ff", None]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
        (pa.array(["x"], pa.string_view()), ["x"]),
        (pa.nulls(2), [None, None]),
    ],
    ids=str,
)
def test_ids_are_written_as_people_write_them(column, expected):
    found, rejects = ids(column)
    assert (found.to_pylist(), found.type, rejects) == (expected, pa.string(), {})


@pytest.mark.parametrize("value", [1.5, float("inf"), 2.0**53 + 2])
def test_a_float_that_is_no_exact_whole_number_is_no_id(value):
    _, rejects = ids(pa.array([1.0, value]))
    assert [rejects[1].reason, *rejects] == ["id_invalid", 1]


@given(st.lists(st.none() | st.integers(-(1 << 53), 1 << 53)))
def test_whole_numbers_are_the_same_ids_in_every_type(values):
    kinds = [pa.int64(), pa.float64(), pa.decimal128(20, 0), pa.decimal128(24, 4)]
    found = [
        ids(pa.array([None if v is None else Decimal(v) for v in values], pa.decimal128(20, 0)).cast(k))[0]
        for k in kinds
    ]
    assert all(each.to_pylist() == [None if value is None else str(value) for value in values] for each in found)


def test_texts_are_joined_in_order_without_blank_parts():
    columns = [
        pa.array(["Shoe", None, " ", "\u00a0"]),
        pa.array(["Acme", "Acme", None, "\u200b\ufeff"]),
        pa.array([1, 2, None, None]),
    ]
    assert texts(columns)[0].to_pylist() == ["Shoe\nAcme\n1", "Acme\n2", None, None]
    assert texts(columns[:1])[0].to_pylist() == ["Shoe", None, None, None]
    assert texts([pa.array(["  keeps its blanks "])])[0].to_pylist() == ["  keeps its blanks "]


@given(st.lists(st.none() | st.text()))
def test_a_text_is_kept_or_nothing_can_be_seen_of_it(values):
    found = texts([pa.array(values, pa.string())])[0].to_pylist()
    zero_width = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))
    assert found == [
        value if value and not value.translate(zero_width).isspace() and value.translate(zero_width) else None
        for value in values
    ]


@pytest.mark.parametrize(
    ("column", "kind", "expected", "misfits"),
    [
        (pa.array([3.0, float("nan"), 20.5]), pa.int64(), [3, None, None], {2: "20.5 is no int64"}),
        (pa.array([1, 2**53 + 1]), pa.float64(), [1.0, None], {1: "9007199254740993 is no double"}),
        (
            pa.array(["12", "012", "n/a"]),
            pa.int64(),
            [12, None, None],
            {1: "'012' is no int64", 2: "'n/a' is no int64"},
        ),
        (pa.array([1, None]), pa.string(), ["1", None], {}),
        (pa.array(["a"], pa.large_string()), pa.string(), ["a"], {}),
        (pa.array([[1], None], pa.list_(pa.int32())), pa.list_(pa.int64()), [[1], None], {}),
        (pa.array([1000], pa.timestamp("us")), pa.timestamp("ms"), [datetime.datetime(1970, 1, 1, 0, 0, 0, 1000)], {}),
        (pa.array([{"a": 1}, None]), pa.string(), [None, None], {0: "{'a': 1} is no string"}),
    ],
    ids=str,
)
def test_a_value_fits_a_column_if_nothing_of_it_is_lost(column, kind, expected, misfits):
    found, unfit = cast(column, kind)
    assert (found.to_pylist(), found.type, unfit) == (expected, kind, misfits)


VALUES = {
    pa.int8(): st.integers(-128, 127),
    pa.uint32(): st.integers(0, (1 << 32) - 1),
    pa.int64(): st.integers(-(1 << 53), 1 << 53),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.decimal128(9, 3): st.decimals(-999999, 999999, places=3),
    pa.date32(): st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1)),
    pa.timestamp("us"): st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
    pa.timestamp("s"): st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)).map(
        lambda d: d.replace(microsecond=0)
    ),
    pa.string(): st.text(),
}
KINDS = st.sampled_from([*VALUES])


@given(st.data(), KINDS, KINDS, st.booleans())
def test_a_merged_type_holds_the_values_of_both(data, one, other, in_list):
    wrap = pa.list_ if in_list else lambda kind: kind
    found = merged(wrap(one), wrap(other))
    assert found == merged(wrap(other), wrap(one)) or pa.types.is_timestamp(found)
    if found is None or pa.types.is_decimal(one) or pa.types.is_decimal(other):
        return
    for kind in (one, other):
        values = data.draw(st.lists(st.none() | VALUES[kind], max_size=5))
        column = pa.array([[value] for value in values] if in_list else values, wrap(kind))
        assert cast(column, found)[1] == {}, "nothing is lost"
        assert cast(cast(column, found)[0], wrap(kind))[0].to_pylist() == column.to_pylist()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.large_list(pa.string_view()), pa.list_(pa.string())),
        (pa.map_(pa.string(), pa.float16()), pa.list_(pa.struct([("key", pa.string()), ("value", pa.float32())]))),
        (pa.struct([("a", pa.dictionary(pa.int8(), pa.large_string()))]), pa.struct([("a", pa.string())])),
        (pa.json_(), pa.string()),
        (pa.bool8(), pa.bool_()),
        (pa.decimal32(5, 2), pa.decimal128(5, 2)),
    ],
    ids=str,
)
def test_the_plain_type_says_what_values_mean_and_not_how_they_are_stored(kind, expected):
    assert plain(kind) == expected
    assert as_plain(pa.nulls(3, kind)).type == expected
