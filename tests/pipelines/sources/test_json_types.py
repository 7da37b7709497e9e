"""JSON values are converted to the type of a column, or rejected."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.json_types import converted


@given(st.permutations([1, 2.0, True, 1.5, "x", None, [1], {"a": 1}, 1 << 70]))
def test_the_conversion_of_a_value_does_not_depend_on_its_neighbours(values):
    array, rejects = converted(pa.field("f", pa.float64()), values)
    assert [value for value in array.to_pylist() if value is not None] == [
        value for value in values if value in (1, 2.0, 1.5, 1 << 70) and value is not True
    ]
    assert all((row in rejects) == (array[row].as_py() is None and values[row] is not None) for row in range(9))
