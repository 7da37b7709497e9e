"""What a record's fingerprint depends on, and the checksums of rows."""

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.fingerprint import fingerprint, row_checksums

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


@given(st.lists(st.tuples(st.none() | st.binary(min_size=16, max_size=16), st.none() | st.sampled_from("ab"))))
def test_the_checksum_of_a_row_depends_on_this_row_alone(rows):
    def checksums(some):
        columns = zip(*some, strict=True) if some else ((), ())
        kinds = zip(columns, (pa.binary(16), pa.string()), strict=True)
        return row_checksums(*(pa.chunked_array([pa.array(column, kind)]) for column, kind in kinds)).tolist()

    assert checksums(rows) == [number for row in rows for number in checksums([row])]


def test_a_checksum_is_the_same_in_each_version():
    """Another value would have every file read again."""
    row = (pa.chunked_array([pa.array([b"0123456789abcdef"], pa.binary(16))]), pa.chunked_array([["run-1"]]))
    assert row_checksums(*row).tolist() == [7632481751020107000]
