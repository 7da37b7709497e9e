"""The run that this process does, or did last: for log lines, and for what is said of it when it has ended."""

from __future__ import annotations


class CurrentRun:
    """Its id; None before the process has a table."""

    id: str | None = None


CURRENT = CurrentRun()
