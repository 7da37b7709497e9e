"""Values of a table as JSON has them, none of them changed silently."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

EXACT = 2**53 - 1  # JavaScript's numbers are exact up to this; greater ones travel as strings


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table of results as JSON can have them, without columns of bytes."""
    kept = [each.name for each in table.schema if not holds_bytes(each.type)]
    return [{name: plain(value) for name, value in row.items()} for row in table.select(kept).to_pylist()]


def holds_bytes(kind: pa.DataType) -> bool:
    """True for bytes, which are no text."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def plain(value: Any) -> Any:
    """A value of Arrow as JSON can have it: NaN and infinities, exact integers, decimals and times become strings."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -EXACT <= value <= EXACT else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    return value
