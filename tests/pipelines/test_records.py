"""What a record's fingerprint depends on, and how a record is rejected."""

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.records import (
    DECODED_FIELDS,
    FLOW_FIELDS,
    MESSAGE,
    READ_FIELDS,
    REASON,
    RESERVED,
    STAGE,
    TALLY,
    TALLY_TYPE,
    Reject,
    alive,
    fingerprint,
    replace_column,
    table_schema,
    with_rejects,
)

CONTENTS = st.tuples(
    st.none() | st.text(alphabet="a\x00\x01é", max_size=4),
    st.none() | st.lists(st.sampled_from([b"a", b"\x00", b"\x01", b"\xc3"]), max_size=4).map(b"".join),
)


@given(CONTENTS, CONTENTS)
@example(("a", b"\x01b"), ("a\x01", b"b"))
@example(("", b"\x01"), ("\x01", b""))
@example(("a", None), ("a", b""))
@example((None, b""), ("", b""))
@example(("", None), (None, None))
def test_fingerprints_are_equal_if_and_only_if_text_and_image_are(one, other):
    same = ((one[0] or ""), one[1]) == ((other[0] or ""), other[1])
    assert (fingerprint(*one) == fingerprint(*other)) == same


@given(st.binary(min_size=2, max_size=12).filter(bytes.isascii), st.data())
def test_moving_bytes_from_the_text_to_the_image_changes_the_fingerprint(content, data):
    first, second = (data.draw(st.integers(0, len(content))) for _ in range(2))
    one, other = (fingerprint(content[:at].decode(), content[at:]) for at in (first, second))
    assert (one == other) == (first == second)


def test_a_fingerprint_is_the_same_in_each_version():
    """Another value would have every table embedded anew."""
    assert fingerprint("a red star", b"png").hex() == "e07a7e2aac6b89c0fd0ac53ae0df4731"
    assert fingerprint(None, None).hex() == "be637bf2e7ab4aec17dbb924bfd111e6"


def records(*ids: str) -> pa.Table:
    table = pa.table({"id": list(ids)})
    for field in FLOW_FIELDS:
        table = table.append_column(field, pa.nulls(len(ids), field.type))
    return table


def test_a_rejected_row_keeps_its_first_reason():
    table = with_rejects(records("a", "b", "c"), {1: Reject("read", "text_not_utf8", "first")})
    table = with_rejects(table, {1: Reject("decode", "image_truncated", "second"), 2: Reject("decode", "r", "m")})
    assert table[REASON].to_pylist() == [None, "text_not_utf8", "r"]
    assert table[STAGE].to_pylist() == [None, "read", "decode"]
    assert table[MESSAGE].to_pylist() == [None, "first", "m"]


def test_neither_rejects_nor_tallies_are_alive():
    table = with_rejects(records("a", "b", "c"), {0: Reject("read", "r", "m")})
    table = replace_column(table, TALLY, pa.array([None, {"read": 1}, None], TALLY_TYPE))
    assert alive(table) == [False, False, True]


def test_a_replaced_column_stays_where_it_was():
    table = pa.table({"a": [1], "b": [2]})
    assert replace_column(table, "a", pa.array([3])).to_pydict() == {"a": [3], "b": [2]}
    assert replace_column(table, "c", pa.array([3])).column_names == ["a", "b", "c"]


def test_a_source_cannot_bring_a_column_that_the_flow_or_the_table_adds():
    added = {field.name for field in (*READ_FIELDS, *FLOW_FIELDS, *DECODED_FIELDS)}
    made = set(table_schema(pa.schema([]), 4, image_uri=True, store_images=True).names)
    assert added | made <= RESERVED


@pytest.mark.parametrize(("image_uri", "store_images"), [(False, False), (True, True)])
def test_a_table_has_the_columns_that_were_asked_for(image_uri, store_images):
    extra = pa.schema([("price", pa.float64())])
    schema = table_schema(extra, 8, image_uri=image_uri, store_images=store_images)
    assert schema.field("vector").type == pa.list_(pa.float16(), 8)
    assert schema.field("price").type == pa.float64()
    assert ("image_uri" in schema.names, "image" in schema.names) == (image_uri, store_images)
