"""What a table stores of a few columns: in files of their own, in files that others share, and in their indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lance
import pyarrow as pa


@dataclass(frozen=True)
class ColumnSize:
    """Bytes at one version of a table."""

    own: int  # of files that hold only these columns: measured
    shared: int  # in files that other columns share: estimated, by rows and width
    indexes: int | None  # None if Lance doesn't tell the size of one

    def __str__(self) -> str:
        """For people."""
        parts = []
        if self.own or not self.shared:
            parts.append(f"{in_units(self.own)} of vectors in files of their own")
        if self.shared:
            parts.append(
                f"about {in_units(self.shared)} of vectors (estimated) in files that they share with other columns, "
                "once these are written anew"
            )
        if self.indexes is None:
            parts.append("the index, whose size is not known")
        elif self.indexes:
            parts.append(f"{in_units(self.indexes)} of the index")
        return ", ".join(parts)


def column_size(table: lance.LanceDataset, names: Sequence[str]) -> ColumnSize:
    """What a version of the table stores of some columns, which are not nested."""
    numbers = {each.id() for each in table.lance_schema.fields() if each.name() in names}
    widths = {each.id(): width(table.schema.field(each.name()).type) for each in table.lance_schema.fields()}
    own = shared = 0
    for fragment in table.get_fragments():
        stored = fragment.metadata.to_json()
        for file in stored["files"]:
            held = numbers & set(file["fields"])
            size = file["file_size_bytes"] if {each for each in file["fields"] if each >= 0} <= numbers else None
            if held and size is not None:
                own += size
            else:
                shared += stored["physical_rows"] * sum(widths[each] for each in held)
    sizes = [each.total_size_bytes for each in table.describe_indices() if set(each.field_names) <= set(names)]
    known = [size for size in sizes if size is not None]
    return ColumnSize(own, shared, sum(known) if len(known) == len(sizes) else None)


def width(kind: pa.DataType) -> int:
    """Bytes of a value of a type that has a fixed width; 0 for others."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * width(kind.value_type)
    try:
        return int(kind.byte_width)
    except ValueError:
        return 0


def in_units(size: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"
