"""The choice of an index: sensible for every table, and what the user names is taken or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.index.choose import (
    FEWEST_ROWS,
    PARTITION_ROWS,
    TRAINING_BYTES,
    Vectors,
    choose,
)
from vista_core import UsageError

VECTORS = st.builds(Vectors, rows=st.integers(0, 10**10), dimension=st.integers(1, 8192), on_a_store=st.booleans())


@given(VECTORS)
def test_every_table_gets_an_index_that_can_be_built_or_none(vectors):
    choice = choose(vectors)
    assert str(choice)
    if choice.kind is None:
        assert vectors.rows < FEWEST_ROWS or 2 * vectors.rows * vectors.dimension <= 32 << 20
        return
    assert 1 <= choice.partitions <= max(1, vectors.rows // PARTITION_ROWS[choice.kind])
    assert choice.sample_rate * choice.partitions <= vectors.rows
    trained_on = 4 * choice.sample_rate * choice.partitions * vectors.dimension
    assert trained_on <= TRAINING_BYTES or choice.sample_rate == 1
    if choice.kind == "IVF_RQ":
        assert vectors.dimension % 8 == 0
        assert choice.bits in (1, 3, 5)


@given(VECTORS, st.sampled_from(["IVF_RQ", "IVF_PQ", "IVF_HNSW_SQ"]))
def test_the_kind_that_is_named_is_taken_or_refused(vectors, kind):
    try:
        choice = choose(vectors, kind)
    except UsageError as error:
        assert "--kind" in str(error)
        assert vectors.rows < FEWEST_ROWS or vectors.dimension % 8
        return
    assert choice.kind == kind
    if kind == "IVF_PQ":
        assert vectors.dimension % choice.sub_vectors == 0


@given(VECTORS)
def test_more_rows_never_lose_the_index(vectors):
    more = Vectors(vectors.rows * 2 + FEWEST_ROWS, vectors.dimension, vectors.on_a_store)
    assert choose(vectors).kind in (None, choose(more).kind)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (Vectors(20_000, 768, False), "no vector index, searches are exact: 20,000 rows of dimension 768 on a disk"),
        (Vectors(20_000, 768, True), "IVF_RQ of 5 bits, 4 partitions: 20,000 rows of dimension 768 on an object store"),
        (Vectors(10**6, 768, False), "IVF_RQ of 1 bit, 244 partitions: 1,000,000 rows of dimension 768 on a disk"),
        (Vectors(10**6, 100, False), "IVF_HNSW_SQ, 1 partitions: 1,000,000 rows of dimension 100 on a disk"),
    ],
)
def test_the_reason_is_said(vectors, said):
    assert str(choose(vectors)).startswith(said)
