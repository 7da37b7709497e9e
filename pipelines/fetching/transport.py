"""What fetches the images of a URI scheme: a disk, an object store or a web client."""

from __future__ import annotations

from typing import Protocol

from pipelines.fetching.disk import Disk
from pipelines.fetching.locations import WEB_PORTS, FetchRules, Location
from pipelines.fetching.store import open_store
from pipelines.fetching.web import open_web


class Transport(Protocol):
    """Fetches images of one scheme, one attempt a call, in bounded time and memory. Thread-safe.

    Raises FetchError if the image can't be fetched, and SourceError if none can, such as with expired credentials.
    """

    def version(self, location: Location) -> str | None:
        """A string that changes when the image does; None if only its content can tell."""

    def content(self, location: Location) -> bytes:
        """The image."""


def open_transport(scheme: str, rules: FetchRules) -> Transport:
    """The transport for a scheme. Raises SourceError if its driver is not installed."""
    if scheme in WEB_PORTS:
        return open_web(rules)
    return Disk(rules) if scheme == "file" else open_store(scheme, rules)
