"""Commands: parse the options, call one function, print its summary, return the exit code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from jobs.parsing import parsed
from pipelines.log_lines import logging_to_stderr
from pipelines.notify import notify
from pipelines.signals import stopped_by, stopping_in_order
from pipelines.storage.errors import cause_of, explained
from pipelines.storage.home import ensure_home
from pipelines.terminal import show
from vista_core import VistaError

Config = TypeVar("Config")
log = logging.getLogger(__name__)


def run_job(kind: type[Config], function: Callable[[Config], object], arguments: list[str] | None = None) -> int:
    """Print what `function` returns for options read from `arguments`. Returns the exit code, as `run` does."""
    return run(lambda: show(str(function(parsed(kind, arguments))), sys.stdout))


def run(job: Callable[[], object]) -> int:
    """Call `job`, which a signal may stop, and explain how it ended, also to VISTA_NOTIFY. Returns the exit code."""
    ensure_home()
    with logging_to_stderr(), stopping_in_order():
        try:
            job()
        except BaseException as error:
            if (by := stopped_by(error)) is not None:
                log.warning("%s", far := message_of_stop(error, by))
                if by != signal.SIGINT:  # somebody sits there
                    notify(128 + by, far)
                return 128 + by
            if not isinstance(error, Exception) or (message := explained(error)) is None:
                if not isinstance(error, SystemExit) or error.code:  # 0 after --help
                    code = getattr(error, "code", 1)
                    notify(code if isinstance(code, int) else 1, f"{type(error).__name__}: {error}")
                raise
            log.error("%s", message)
            exit_code = error.exit_code if isinstance(error, VistaError) else 1
            notify(exit_code, message)
            return exit_code
    return 0


def message_of_stop(error: BaseException, by: signal.Signals) -> str:
    """How far the job came, if it said so in a KeyboardInterrupt; else what the signal made of it."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or f"stopped by {by.name}"
    return f"stopped by {by.name}: {explained(error) or cause_of(error)[1]}"
