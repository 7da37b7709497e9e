"""Entry points: parse the command line, call one pipeline, print its summary, return the exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayTaskError

from pipelines.run_config import parse
from vista_core import VistaError


def run_job(kind: type, pipeline: Callable[[Any], object]) -> int:
    """Run `pipeline` on a `kind` from the command line, print what it returns, and return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    try:
        print(pipeline(parse(kind)))
    except VistaError as error:
        # One that a worker raised comes in Ray's wrapping, whose text is a traceback.
        cause = error.cause if isinstance(error, RayTaskError) else error
        print(f"error: {cause}", file=sys.stderr)
        return error.exit_code
    return 0
