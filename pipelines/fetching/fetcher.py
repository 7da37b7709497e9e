"""Fetches many images side by side: threads for each host, retries, and hosts that don't answer."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from pipelines.fetching.locations import FetchError, FetchLimits, FetchRules, Location, parse_prefixes
from pipelines.fetching.transport import Transport, open_transport
from pipelines.reasons import FETCH_FAILED, FETCH_TIMEOUT, Reject
from vista_core import VistaError

T = TypeVar("T")


@functools.lru_cache(maxsize=2)
def shared_fetcher(rules: FetchRules) -> Fetcher:
    """One fetcher a worker process, so that its connections, and what it knows of hosts, outlive a batch.

    Raises SourceError if the driver of an allowed store is not installed.
    """
    schemes = dict.fromkeys(prefix.scheme for prefix in parse_prefixes(rules.allowed))
    return Fetcher(rules, {scheme: open_transport(scheme, rules) for scheme in schemes})


class Fetcher:
    """Fetches from many hosts side by side, each with threads of its own. Thread-safe.

    An image that can't be fetched becomes a reject. Raises SourceError if a store's credentials don't work.
    """

    def __init__(self, rules: FetchRules, transports: dict[str, Transport]) -> None:
        self.rules, self.transports = rules, transports
        self.free_threads = threading.BoundedSemaphore(rules.limits.threads)
        self.hosts: dict[str, Host] = {}
        self.retrying = Retrying(
            stop=stop_after_attempt(rules.limits.attempts),
            wait=self.pause,
            retry=retry_if_exception(is_transient),
            reraise=True,
        )

    def identities(self, locations: Iterable[Location]) -> dict[Location, str | bytes | Reject]:
        """URI and version of each image; or its content, where that alone tells whether it changed."""
        return self.side_by_side(self.identity, locations)

    def contents(self, locations: Iterable[Location]) -> dict[Location, bytes | Reject]:
        """The content of each image."""
        return self.side_by_side(self.content, locations)

    def identity(self, location: Location) -> str | bytes:
        """URI and version of an image, or its content."""
        version = None
        if self.rules.identity == "version":
            version = self.retrying(self.attempt, self.transports[location.scheme].version, location)
        return self.content(location) if version is None else f"{location.uri}\0{version}"

    def content(self, location: Location) -> bytes:
        """The content of an image."""
        return self.retrying(self.attempt, self.transports[location.scheme].content, location)

    def attempt(self, call: Callable[[Location], T], location: Location) -> T:
        """Call once, unless the host is down. Whatever goes wrong is a FetchError, or a SourceError.

        An answer can make a client library raise what it doesn't document. That costs the image, and not the run.
        """
        host = self.hosts.setdefault(location.host, Host(self.rules.limits))
        with self.free_threads:
            host.check(location)  # outside of `try`: an image that is not requested must not keep its host down
            try:
                result = call(location)
            except FetchError as error:
                if error.reason is FETCH_TIMEOUT:
                    host.record_silence(location)
                raise
            except VistaError:
                raise
            except Exception as error:
                raise FetchError(FETCH_FAILED, f"{type(error).__name__}: {error}") from error
        host.record_answer()
        return result

    def side_by_side(self, call: Callable[[Location], T], locations: Iterable[Location]) -> dict[Location, T | Reject]:
        """The result of `call` for each location, called once however many records name it."""

        def result_or_reject(location: Location) -> T | Reject:
            try:
                return call(location)
            except FetchError as error:
                return error.reject(location.uri)

        with ExitStack() as stack:
            pools: dict[str, ThreadPoolExecutor] = {}  # one a host, so that a slow host holds up no other
            futures = {}
            for location in dict.fromkeys(locations):
                if location.host not in pools:
                    threads = self.rules.limits.threads_per_host(location.scheme)
                    pools[location.host] = ThreadPoolExecutor(threads, "fetch")
                    # A SourceError ends the run: then no further image needs to be requested.
                    stack.callback(pools[location.host].shutdown, cancel_futures=True)
                futures[location] = pools[location.host].submit(result_or_reject, location)
            return {location: future.result() for location, future in futures.items()}

    def pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: a growing few tenths, or what the server asked for, up to a limit."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, FetchError) else 0.0
        backoff = wait_exponential_jitter(0.2, 2.0, jitter=0.2)(state)
        return max(backoff, min(asked, self.rules.limits.longest_retry_after))


class Host:
    """Whether a host answers. One that is down is left alone for a minute: waiting for a million images takes weeks."""

    def __init__(self, limits: FetchLimits) -> None:
        self.limits = limits
        self.lock = threading.Lock()
        self.silent: set[Location] = set()
        self.down_until = 0.0

    def check(self, location: Location) -> None:
        """Raise FetchError while the host counts as down."""
        if time.monotonic() < self.down_until:
            cause = f"{location.host} did not answer in time for {self.limits.silent_images} images in a row"
            pause = f"{self.limits.down_seconds:g} s"
            raise FetchError(FETCH_TIMEOUT, f"{cause}, so it counts as down and is not asked again for {pause}")

    def record_silence(self, location: Location) -> None:
        """Count an image that did not arrive in time, once however often it was tried."""
        with self.lock:
            if len(self.silent) < self.limits.silent_images:
                self.silent.add(location)
            if len(self.silent) == self.limits.silent_images:
                self.down_until = time.monotonic() + self.limits.down_seconds

    def record_answer(self) -> None:
        """Start counting from zero: the host is up."""
        with self.lock:
            self.silent.clear()
            self.down_until = 0.0


def is_transient(error: BaseException) -> bool:
    """True if another attempt may succeed."""
    return isinstance(error, FetchError) and error.retry
