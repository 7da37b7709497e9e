"""Fetches many images side by side: threads for each host, retries, and the end where nothing can be fetched."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from pipelines.fetching.hosts import ANSWERS, Host, all_fail
from pipelines.fetching.locations import FetchError, FetchRules, HostError, Location, parse_prefixes
from pipelines.fetching.transport import Transport, open_transport
from pipelines.reasons import FETCH_FAILED, Reject
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

    An image that can't be fetched becomes a reject. Raises SourceError if a store's credentials don't work, or if every
    host fails for every image.
    """

    def __init__(self, rules: FetchRules, transports: dict[str, Transport]) -> None:
        self.rules, self.transports = rules, transports
        self.free_threads = threading.BoundedSemaphore(rules.limits.threads)
        self.hosts: dict[str, Host] = {}
        self.retrying = Retrying(
            stop=stop_after_attempt(rules.limits.attempts),
            wait=wait_exponential_jitter(0.2, 2.0, jitter=0.2),
            retry=retry_if_exception(self.may_pass),
            reraise=True,
        )

    def identities(self, locations: Iterable[Location]) -> dict[Location, str | bytes | Reject]:
        """URI and version of each image; or its content, where that alone tells whether it changed."""
        return self.fetch_all(self.identity, locations)

    def contents(self, locations: Iterable[Location]) -> dict[Location, bytes | Reject]:
        """The content of each image."""
        return self.fetch_all(self.content, locations)

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
        host.wait()  # without one of the threads that other hosts need
        with self.free_threads:
            host.check(location)  # outside of `try`: an image that is not requested must not keep its host down
            try:
                result = call(location)
            except HostError as error:
                host.record_failure(location, error)
                raise
            except FetchError as error:
                if error.reason in ANSWERS:
                    host.record_answer()
                raise
            except VistaError:
                raise
            except Exception as error:
                raise FetchError(FETCH_FAILED, f"{type(error).__name__}: {error}") from error
        host.record_answer()
        return result

    def may_pass(self, error: BaseException) -> bool:
        """True if another attempt may succeed."""
        if isinstance(error, HostError) and error.after > self.rules.limits.longest_retry_after:
            return False
        return isinstance(error, FetchError) and error.retry

    def fetch_all(self, call: Callable[[Location], T], locations: Iterable[Location]) -> dict[Location, T | Reject]:
        """The result of `call` for each location, called once however many records name it.

        Raises SourceError if no image can be fetched at all, also after some seconds. A dead host among others that
        work costs only its own images.
        """
        wanted = list(dict.fromkeys(locations))
        results = self.side_by_side(call, wanted)
        prefixes = parse_prefixes(self.rules.allowed)
        if all_fail(self.hosts, prefixes) is not None:
            time.sleep(self.rules.limits.second_look_seconds)
            for host in self.hosts.values():
                host.forget_failures()
            results = self.side_by_side(call, wanted)
            if (error := all_fail(self.hosts, prefixes)) is not None:
                raise error
        return results

    def side_by_side(self, call: Callable[[Location], T], locations: list[Location]) -> dict[Location, T | Reject]:
        """The result of `call` for each location."""

        def result_or_reject(location: Location) -> T | Reject:
            try:
                return call(location)
            except FetchError as error:
                return error.reject(location.uri)

        with ExitStack() as stack:
            pools: dict[str, ThreadPoolExecutor] = {}  # one a host, so that a slow host holds up no other
            futures = {}
            for location in locations:
                if location.host not in pools:
                    threads = self.rules.limits.threads_per_host(location.scheme)
                    pools[location.host] = ThreadPoolExecutor(threads, "fetch")
                    # A SourceError ends the run: then no further image needs to be requested.
                    stack.callback(pools[location.host].shutdown, cancel_futures=True)
                futures[location] = pools[location.host].submit(result_or_reject, location)
            return {location: future.result() for location, future in futures.items()}
