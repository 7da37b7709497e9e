"""Warnings that a stage logs on a worker follow its rows through the stream, and so reach the driver's log."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import pyarrow as pa

from pipelines.batch_stats import BatchStats
from pipelines.cluster.logs import reporting

P = ParamSpec("P")


def reports_warnings(stage: Callable[P, pa.Table]) -> Callable[P, pa.Table]:
    """`stage`, whose result ends with a row of batch statistics if it logged warnings."""

    @functools.wraps(stage)
    def reported(*args: P.args, **kwargs: P.kwargs) -> pa.Table:
        rows, warnings = reporting(stage)(*args, **kwargs)
        return pa.concat_tables([rows, BatchStats(warnings=warnings).row(rows.schema)]) if warnings else rows

    return reported
