"""Progress of a build: a log line for each of its steps."""

from __future__ import annotations

import logging

from pipelines.events import Event, IndexMeasured, IndexTrained, SegmentBuilt, SegmentsMerged

log = logging.getLogger(__name__)


def log_step(event: Event) -> None:
    """Say which step of a build has ended. A listener of a run's events."""
    match event:
        case IndexTrained():
            log.info("the partitions are found; building segments")
        case SegmentBuilt():
            log.info("a segment of %s rows is built", f"{event.rows:,}")
        case SegmentsMerged():
            log.info("the segments are merged; measuring recall and latency")
        case IndexMeasured():
            log.info("%d settings are measured", len(event.settings))
