"""Commands: parse the options, call one function, print its summary, return the exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from jobs.output import logging_to_stderr
from pipelines.options import parse
from pipelines.storage.errors import explained
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

    Prints what it returns to standard output, and errors to standard error. Returns the exit code.
    """
    with logging_to_stderr():
        try:
            show(str(function(parse(kind, arguments, program))), sys.stdout)
        except (VistaError, OSError, ValueError) as error:
            if (message := explained(error)) is None:
                raise
            log.error("%s", message)
            return error.exit_code if isinstance(error, VistaError) else 1
    return 0
