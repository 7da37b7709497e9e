"""Entry points: parse the command line, call one pipeline, print its summary, return the exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from pipelines.failures import explained
from pipelines.run_config import parse
from vista_core import VistaError


def run_job(kind: type, pipeline: Callable[[Any], object]) -> int:
    """Run `pipeline` on a `kind` from the command line, print what it returns, and return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    try:
        print(pipeline(parse(kind)))
    except (VistaError, OSError, ValueError) as error:
        if (message := explained(error)) is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return error.exit_code if isinstance(error, VistaError) else 1
    return 0
