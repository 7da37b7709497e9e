"""Commands: parse the options, call one function, print its summary, return the exit code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from jobs.output import logging_to_stderr
from pipelines.options import parse
from pipelines.signals import stopped_by, stopping_in_order
from pipelines.storage.errors import cause_of, explained
from pipelines.storage.home import ensure_home
from pipelines.terminal import show
from vista_core import VistaError

Config = TypeVar("Config")
log = logging.getLogger(__name__)


def run_job(
    kind: type[Config],
    function: Callable[[Config], object],
    arguments: list[str] | None = None,
    program: str | None = None,
) -> int:
    """Call `function` with its options, a `kind` that is read from `arguments` (default: the command line).

    Prints what it returns to standard output, and errors to standard error. Returns the exit code: 130 or 143 if SIGINT
    or SIGTERM ended the job.
    """
    return run(lambda: show(str(function(parse(kind, arguments, program))), sys.stdout))


def run(job: Callable[[], object]) -> int:
    """Call `job`, which may be stopped by a signal, and explain how it ended. Returns the exit code."""
    ensure_home()
    with logging_to_stderr(), stopping_in_order():
        try:
            job()
        except BaseException as error:
            if (by := stopped_by(error)) is not None:
                log.warning("%s", message_of_stop(error, by))
                return 128 + by
            if not isinstance(error, Exception) or (message := explained(error)) is None:
                raise
            log.error("%s", message)
            return error.exit_code if isinstance(error, VistaError) else 1
    return 0


def message_of_stop(error: BaseException, by: signal.Signals) -> str:
    """How far the job came, if it said so in a KeyboardInterrupt; else what the signal made of it."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or f"stopped by {by.name}"
    return f"stopped by {by.name}: {explained(error) or cause_of(error)[1]}"
