"""A look at the first bytes finds the same rows as a look at the whole values."""

import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.beginnings import beginnings
from pipelines.sources.casting import BEGINS_VISIBLE, VISIBLE, texts

KINDS = [pa.binary(), pa.large_binary()]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(values=st.lists(st.none() | st.binary(max_size=20)), cut=st.tuples(st.integers(0, 5), st.integers(0, 20)))
def test_a_beginning_has_the_first_eight_bytes(values, cut, kind):
    start, length = cut
    part = pa.array(values, kind).slice(min(start, len(values)), length)
    column = pa.chunked_array([part, part.slice(0, 0), part], kind)
    found = beginnings(column).tolist()
    assert len(found) == len(column)
    for number, value in zip(found, column.to_pylist(), strict=True):
        assert value is None or number.to_bytes(8, "little") == value[:8].ljust(8, b"\0")


def test_no_character_is_blank_whose_first_byte_is_taken_for_visible():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    by_first_byte = BEGINS_VISIBLE[beginnings(pa.array(characters)) & 0xFF]
    by_pattern = pc.match_substring_regex(pa.array(characters), VISIBLE).to_numpy(zero_copy_only=False)
    assert not (by_first_byte & ~by_pattern).any()
    assert by_first_byte.mean() > 0.9  # else nothing is gained


def test_texts_without_blanks_are_not_copied():
    column = pa.chunked_array([["red shoes", "Ложка", "鞋"]])
    found, rejects = texts([column])
    assert not rejects
    assert [buffer.address for buffer in found.chunk(0).buffers()[1:]] == [
        buffer.address for buffer in column.chunk(0).buffers()[1:]
    ]


def test_a_blank_text_between_others_is_found():
    found, _ = texts([pa.array(["a", "\u3000", "", None, "\u3042", " b"])])
    assert found.to_pylist() == ["a", None, None, None, "\u3042", " b"]
