"""Damaged variants of valid files, as hypothesis draws and shrinks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

# Numbers at which counts, sizes and offsets go wrong.
EDGES = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
PLACES = 1 << 20  # a place is a fraction of the file in millionths, so that an edit fits files of any size


@dataclass(frozen=True)
class Edit:
    """One change of a file at a place."""

    kind: Literal["set", "number", "cut", "repeat", "insert", "end"]
    place: int
    length: int
    value: bytes

    def apply(self, data: bytes) -> bytes:
        """The file with this change."""
        start = self.place * len(data) // PLACES
        end = start + self.length
        match self.kind:
            case "set" | "number":
                return data[:start] + self.value + data[start + len(self.value) :]
            case "cut":
                return data[:start] + data[end:]
            case "repeat":
                return data[:end] + data[start:]
            case "insert":
                return data[:start] + self.value + data[start:]
            case _:
                return data[:start]


def numbers() -> st.SearchStrategy[bytes]:
    """An edge number in one of its usual spellings."""
    return st.builds(
        lambda value, width, order: (value % (1 << 8 * width)).to_bytes(width, order),
        st.sampled_from(EDGES),
        st.sampled_from((1, 2, 4, 8)),
        st.sampled_from(("little", "big")),
    )


def edits() -> st.SearchStrategy[Edit]:
    """Any edit."""
    places, lengths = st.integers(0, PLACES), st.integers(1, 512)
    return st.one_of(
        st.builds(Edit, st.just("set"), places, st.just(0), st.binary(min_size=1, max_size=8)),
        st.builds(Edit, st.just("number"), places, st.just(0), numbers()),
        st.builds(Edit, st.sampled_from(("cut", "repeat")), places, lengths, st.just(b"")),
        st.builds(Edit, st.just("insert"), places, st.just(0), st.binary(min_size=1, max_size=64)),
        st.builds(Edit, st.just("end"), places, st.just(0), st.just(b"")),
    )


def damaged(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the files with up to four edits, often with only one: most decoders stop at the first."""

    def apply(data: bytes, changes: list[Edit]) -> bytes:
        for change in changes:
            data = change.apply(data)
        return data

    changes = st.one_of(edits().map(lambda edit: [edit]), st.lists(edits(), min_size=2, max_size=4))
    return st.builds(apply, st.sampled_from(seeds), changes)
