"""What a search found, as text: a table for people, or JSON lines for programs."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.records import ID, MODALITY, TEXT, TRUNCATED
from pipelines.search.pinned import SCORE
from pipelines.sources.roles import TEXT_NAMES
from pipelines.terminal import one_line


@dataclass(frozen=True)
class Results:
    """What a search found, best first."""

    found: pa.Table
    as_json: bool
    model: str | None = None  # that encoded the query, if it was encoded

    def __str__(self) -> str:
        """JSON lines, or a table for people."""
        if self.as_json:
            return "\n".join(map(json_line, self.found.to_pylist()))
        rows = self.found.to_pylist()
        count = f"{len(rows)} results"
        return "\n".join([f"{self.model}, {count}" if self.model else count, " score  id", *map(line, rows)])


def line(row: dict[str, Any]) -> str:
    """A result for people."""
    facts = [row.get(MODALITY), "truncated" if row.get(TRUNCATED) is True else None]
    flags = ", ".join(str(each) for each in facts if each)
    text = next((row[name] for name in (TEXT, *TEXT_NAMES) if row.get(name) is not None), "")
    said = [f"[{flags}]"] if flags else []
    return f"{row[SCORE]:6.3f}  {one_line(str(row[ID]))}  {' '.join([*said, shortened(str(text))])}"


def shortened(text: str, width: int = 80) -> str:
    """`text` on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def json_line(row: dict[str, Any]) -> str:
    """A result as a line of JSON."""
    return json.dumps(json_value(row), default=str, ensure_ascii=False, allow_nan=False)


def json_value(value: Any) -> Any:
    """A value as JSON can have it: bytes in base64, and null for what is no number."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): json_value(each) for key, each in value.items()}
    return [json_value(each) for each in value] if isinstance(value, list | tuple) else value
