"""What a record's fingerprint depends on, and the checksums of rows."""

from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.fingerprint import fingerprint

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
