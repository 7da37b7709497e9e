"""Filters for the page, made of a table's columns: a range for numbers and times, a choice for few-valued columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import ID, IMAGE, IMAGE_URI, OBJECT, RUN, TEXT, TRUNCATED
from pipelines.serve.config import ServeLimits
from pipelines.serve.values import plain

LONGEST_CHOICE = 80  # characters of a value that a person can choose from a list
NOT_FILTERED = (ID, IMAGE, IMAGE_URI, OBJECT, RUN, TEXT, TRUNCATED)
MOST_FACETS = 12
BATCH_ROWS = 8_192
FRAGMENTS = 32  # that are read at least, of a table with more


@dataclass(frozen=True)
class Facet:
    """A filter on one column."""

    column: str
    kind: Literal["range", "choice"]
    type: Literal["number", "date", "datetime", "string", "boolean"]
    low: Any = None  # of a range: the least and the greatest value that was seen
    high: Any = None
    choices: list[tuple[Any, int]] = field(default_factory=list)  # value and rows, the most frequent first


@dataclass(frozen=True)
class Facets:
    """The filters of a version of a table; `counted` of its `rows` were looked at."""

    rows: int
    counted: int
    facets: list[Facet]


@dataclass
class Seen:
    """What was seen of a column so far."""

    type: Literal["number", "date", "datetime", "string", "boolean"]
    counts: Counter[Any] | None
    low: Any = None
    high: Any = None

    def add(self, values: pa.Array, most: int) -> None:
        """Count more values."""
        values = values.drop_null()
        if self.type == "number" and pa.types.is_floating(values.type):
            values = values.filter(pc.is_finite(values))
        if self.type in ("number", "date", "datetime"):
            extremes = pc.min_max(values).as_py()
            self.low = least(self.low, extremes["min"], min)
            self.high = least(self.high, extremes["max"], max)
        elif self.counts is not None:
            for each in pc.value_counts(values).to_pylist():
                self.counts[each["values"]] += each["counts"]
            if len(self.counts) > most or any(len(str(value)) > LONGEST_CHOICE for value in self.counts):
                self.counts = None  # no list of choices, and no need to keep more

    @property
    def is_open(self) -> bool:
        """True if further values may change the filter."""
        return self.type in ("number", "date", "datetime") or self.counts is not None

    def facet(self, column: str) -> Facet | None:
        """The filter; None if there is nothing to choose from."""
        if self.counts is not None and len(self.counts) > 1:
            ordered = sorted(self.counts.items(), key=lambda each: (-each[1], str(each[0])))
            return Facet(column, "choice", self.type, choices=ordered)
        if self.low is None or self.low == self.high:
            return None
        return Facet(column, "range", self.type, plain(self.low), plain(self.high))


def least(one: Any, other: Any, choose: Any) -> Any:
    """The smaller (or, with `max`, the larger) of two values of which either may be None."""
    return other if one is None else one if other is None else choose(one, other)


def kind_of(kind: pa.DataType) -> Literal["number", "date", "datetime", "string", "boolean"] | None:
    """What sort of filter a column of an Arrow type can have; None for none."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind):
        return "datetime"
    if pa.types.is_date(kind):
        return "date"
    return "string" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def count_facets(table: lance.LanceDataset, limits: ServeLimits) -> Facets:
    """The filters that suit the columns of a version of a table.

    At most `facet_rows` rows are read, from the beginnings of fragments all over the table, and of these only columns
    that may have a filter: so the cost is bounded, however large the table is.
    """
    seen = {}
    for column in table.schema:
        if column.name not in NOT_FILTERED and (kind := kind_of(column.type)) is not None and plain_name(column.name):
            seen[column.name] = Seen(kind, Counter() if kind in ("string", "boolean") else None)
    rows, counted = table.count_rows(), 0
    fragments = table.get_fragments()
    fragments = fragments[:: max(1, len(fragments) // FRAGMENTS)]
    share = limits.facet_rows if rows <= limits.facet_rows else limits.facet_rows // max(1, len(fragments))
    for fragment in fragments:
        for start in range(0, min(share, fragment.count_rows()), BATCH_ROWS):
            columns = [name for name, each in seen.items() if each.is_open]  # texts, which are long, soon drop out
            batch = fragment.to_table(columns=columns, offset=start, limit=min(BATCH_ROWS, share - start))
            counted += len(batch)
            for name in columns:
                seen[name].add(batch[name].combine_chunks(), limits.facet_values)
    facets = [facet for name, each in seen.items() if (facet := each.facet(name)) is not None]
    return Facets(rows, counted, facets[:MOST_FACETS])


def plain_name(column: str) -> bool:
    """True if a column can be named in SQL, between backticks."""
    return "`" not in column and "." not in column
