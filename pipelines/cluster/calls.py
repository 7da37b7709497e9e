"""Calls of functions that may run on workers: who needs them is told how, and so can do without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Calls a function with each of some argument lists. Yields the number of each call that is done, and its result.
Workers = Callable[[Callable[..., Any], Sequence[tuple]], Iterator[tuple[int, Any]]]


def in_this_process(function: Callable[..., Any], calls: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
    """Workers that are this process."""
    for number, arguments in enumerate(calls):
        yield number, function(*arguments)


def one(workers: Workers, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function once, on a worker."""
    [(_, result)] = workers(function, [arguments])
    return result
