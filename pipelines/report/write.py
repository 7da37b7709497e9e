"""A report is made and written without ever costing the run that it is about: what goes wrong is a warning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

from pipelines.report.destination import Destination
from pipelines.report.gather import gather
from pipelines.report.page import Page, Section, render
from pipelines.report.sections import failed_section
from pipelines.signals import stopped_by
from pipelines.storage.errors import cause_of, without_rust_location

WRITE_SECONDS: Final = 15.0

log = logging.getLogger(__name__)


def write_report(destination: Destination | None, make: Callable[[], Page]) -> str | None:
    """Write the page that `make` makes, and return its URI; None if none is wanted, or it can't be written."""
    if destination is None:
        return None
    try:
        html = render(make())
        got(gather({"write": lambda: destination.write(html)}, WRITE_SECONDS), "write")
    except Exception as error:  # noqa: BLE001 (the run itself is what counts)
        log.warning("the report could not be written to %s: %s", destination.uri, in_words(error))
        return None
    try:
        got(gather({"remove": destination.remove_oldest}, WRITE_SECONDS), "remove")
    except Exception as error:  # noqa: BLE001 (as above)
        log.warning("old reports could not be removed from %s: %s", destination.folder, in_words(error))
    return destination.uri


def made(title: str, make: Callable[[], Section | None]) -> Section | None:
    """A section, or one that says why it is missing: the others are worth the page."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 (as above)
        log.warning("a section of the report is missing, %s: %s", title, in_words(error))
        return failed_section(title, in_words(error))


def got(found: Mapping[str, Any], name: str) -> Any:
    """What `gather` found under a name; raises what came instead."""
    if isinstance(found[name], BaseException):
        raise found[name]
    return found[name]


def in_words(error: BaseException) -> str:
    """An error on one line."""
    cause, message = cause_of(error)
    return f"{type(cause).__name__}: {without_rust_location(message)}"


class Report(Protocol):
    """What a command reports on a run of its own."""

    def write(self, error: BaseException | None = None) -> str | None:
        """Write the page of the run, which `error` ended if it failed, and return its URI; None if there is none."""


AReport = TypeVar("AReport", bound=Report)


@contextmanager
def reporting(report: AReport) -> Iterator[AReport]:
    """If a run fails in this context, write its report when it has let go of the table.

    A run that a signal ends has none, since it has to end soon. The error that ended a run is raised in any case.
    """
    try:
        yield report
    except BaseException as error:
        if stopped_by(error) is None:
            try:
                if uri := report.write(error):
                    log.info("report: %s", uri)
            except KeyboardInterrupt:
                log.warning("the report of the run was not written")
        raise


def write_at_the_end(report: Report, done: str) -> str | None:
    """Write the report of a run that succeeded. If a signal comes meanwhile, KeyboardInterrupt says what is `done`."""
    try:
        return report.write()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{done}, only the report is missing") from None
