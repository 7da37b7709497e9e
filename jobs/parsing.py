"""The options of a command line, or its help."""

from __future__ import annotations

import sys
from typing import TypeVar

from pipelines.options import parse
from pipelines.terminal import discard

Config = TypeVar("Config")


def parsed(kind: type[Config], arguments: list[str] | None = None, program: str | None = None) -> Config:
    """The options of a command. Whoever reads its help may stop early, as `head` does."""
    try:
        return parse(kind, arguments, program)
    except BrokenPipeError:
        discard(sys.stdout)
        raise SystemExit(0) from None
