"""What is known of a host: whether it answers, asks for a pause, or fails for every image."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from pipelines.fetching.locations import WEB_PORTS, FetchError, FetchLimits, HostError, Location
from pipelines.reasons import FETCH_FAILED, FETCH_FORBIDDEN, FETCH_NOT_FOUND, FETCH_TIMEOUT, FETCH_TOO_LARGE
from pipelines.storage.errors import SourceError
from pipelines.storage.uris import redacted_text

ANSWERS = (FETCH_NOT_FOUND, FETCH_FORBIDDEN, FETCH_TOO_LARGE)  # of a host that works


class Host:
    """Whether a host answers. Thread-safe.

    One that fails for a few images in a row is down, and left alone for a minute: to try a million images takes weeks.
    A host that is busy and says for how long is waited for by all of its threads together.
    """

    def __init__(self, limits: FetchLimits) -> None:
        self.limits = limits
        self.lock = threading.Lock()
        self.answered = False
        self.failed: set[Location] = set()  # in a row
        self.waited: set[Location] = set()  # as the host asked for
        self.resume_at = self.down_since = self.down_until = 0.0
        self.error = HostError(FETCH_FAILED, "", "")

    def wait(self) -> None:
        """Wait as long as the host asked for, unless it is down."""
        if not self.is_down:
            time.sleep(max(0.0, self.resume_at - time.monotonic()))

    @property
    def is_down(self) -> bool:
        """True while the host is not asked."""
        return time.monotonic() < self.down_until

    def check(self, location: Location) -> None:
        """Raise FetchError while the host is down."""
        if self.is_down:
            number, seconds = self.limits.failed_images, self.down_until - self.down_since
            what = "did not answer in time" if self.error.reason is FETCH_TIMEOUT else "failed"
            cause = f"{location.host} {what} for {number} images in a row, the last time: {self.error.cause}"
            raise FetchError(self.error.reason, f"{cause}. It counts as down and is not asked again for {seconds:g} s")

    def record_failure(self, location: Location, error: HostError) -> None:
        """Count an image that the host failed for, once however often it was tried.

        A host that asks for a pause, and gets it, has not failed yet.
        """
        with self.lock:
            now = time.monotonic()
            if error.after and error.after <= self.limits.longest_retry_after:
                self.resume_at = max(self.resume_at, now + error.after)
                if location not in self.waited:
                    self.waited.add(location)
                    return
            self.error = error
            if len(self.failed) < self.limits.failed_images:
                self.failed.add(location)
            if len(self.failed) == self.limits.failed_images:
                self.down_since, self.down_until = now, now + max(self.limits.down_seconds, error.after)

    def record_answer(self) -> None:
        """Start counting from zero: the host works."""
        with self.lock:
            self.answered = True
            self.waited.clear()
        self.forget_failures()

    def forget_failures(self) -> None:
        """Ask again."""
        with self.lock:
            self.failed.clear()
            self.down_until = 0.0


def all_fail(hosts: dict[str, Host], allowed: Iterable[Location]) -> SourceError | None:
    """The error that ends a run: a host is down, and none has ever answered in this process; None if there is hope.

    `allowed`: the prefixes. As long as one of their hosts has not been asked, its images may still be had: a unit may
    have images of one host alone.
    """
    down = [name for name, host in hosts.items() if host.is_down]
    if not down or any(host.answered for host in hosts.values()):
        return None
    failing = {server(name) for name, host in hosts.items() if host.failed}
    on_the_web = server(down[0]).is_web
    if {found for each in allowed if (found := server(each.host)).name and found.is_web == on_the_web} - failing:
        return None
    error = hosts[down[0]].error
    return SourceError(
        f"{down[0]}: it fails for every image, and no image was fetched from elsewhere: {redacted_text(error.cause)}. "
        f"{error.cure}. Then run the same command again: it goes on with what is committed"
    )


class Server(NamedTuple):
    """What is up or down as a whole: a web server by whatever scheme, or all buckets of a store."""

    is_web: bool
    name: str


def server(host: str) -> Server:
    """The server of a location's `host`; without a name for the files of this machine."""
    scheme, _, authority = host.partition("://")
    return Server(scheme in WEB_PORTS, authority if scheme in WEB_PORTS else authority and scheme)
