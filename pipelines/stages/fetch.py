"""Fetch images that a record only names, by URI or path, from where the user allows it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from pipelines.records import IMAGE, IMAGE_URI, OBJECT, Reject, alive, replace_column, with_rejects
from pipelines.sources.objects import printable
from pipelines.stages.places import FetchError, FetchRules, Place, absolute_uri, allowed_place, prefixes
from pipelines.stages.servers import SHARES, THREADS, Way, way

ATTEMPTS = 3
RETRY_AFTER_SECONDS = 10.0
SILENT_IMAGES = 5  # without an answer in time, in a row: then the host counts as down
DOWN_SECONDS = 60.0

T = TypeVar("T")


def identify(
    records: pa.Table, rejects: dict[int, Reject], rules: FetchRules
) -> tuple[pa.Table, dict[int, Reject], list[str | None]]:
    """Before select: what stands for the content of each image that is elsewhere, in the fingerprint.

    None where the image's bytes are there, now if not before. Raises SourceError if a store's credentials don't work.
    """
    places, bad = named_places(records, [row for row in elsewhere(records) if row not in rejects], rules)
    identities: list[str | None] = [None] * len(records)
    contents: dict[int, bytes] = {}
    if rules.identity == "uri":
        found: dict[Place, str | bytes | Reject] = {place: place.uri for place in places.values()}
    else:
        found = fetcher(rules).identities(places.values()) if places else {}
    for row, place in places.items():
        result = found[place]
        if isinstance(result, Reject):
            bad[row] = result
        elif isinstance(result, bytes):
            contents[row] = result
        else:
            identities[row] = result
    return with_images(records, contents), bad | rejects, identities


def fetch(records: pa.Table, rules: FetchRules) -> pa.Table:
    """After select: the bytes of images that are elsewhere; one that can't be had is a reject.

    Raises SourceError if a store's credentials don't work.
    """
    live = alive(records)
    places, rejects = named_places(records, [row for row in elsewhere(records) if live[row]], rules)
    found = fetcher(rules).contents(places.values()) if places else {}
    contents: dict[int, bytes] = {}
    for row, place in places.items():
        result = found[place]
        if isinstance(result, Reject):
            rejects[row] = result
        else:
            contents[row] = result
    return with_rejects(with_images(records, contents), rejects)


def elsewhere(records: pa.Table) -> list[int]:
    """The rows whose image is named but not there."""
    there = pc.or_(pc.is_valid(records[IMAGE]), pc.is_null(records[IMAGE_URI]))
    return [row for row, is_there in enumerate(there.to_pylist()) if not is_there]


def with_images(records: pa.Table, contents: dict[int, bytes]) -> pa.Table:
    """`records` with the images of some rows filled in."""
    if not contents:
        return records
    images = records[IMAGE]
    fetched = pa.array([contents.get(row) for row in range(len(records))], images.type)
    return replace_column(records, IMAGE, fetched if images.null_count == len(images) else pc.coalesce(images, fetched))


def named_places(records: pa.Table, rows: list[int], rules: FetchRules) -> tuple[dict[int, Place], dict[int, Reject]]:
    """Where the images of `rows` are; rejects where nothing may be, or can be."""
    uris = records[IMAGE_URI].cast(pa.binary()).take(pa.array(rows, pa.int64())).to_pylist()
    objects = records[OBJECT].take(pa.array(rows, pa.int64())).to_pylist()
    places, rejects = {}, {}
    for row, uri, named_in in zip(rows, uris, objects, strict=True):
        absolute = absolute_uri(uri.decode("utf-8", "surrogateescape"), named_in or "", rules.root)
        try:
            places[row] = allowed_place(absolute, rules.allowed)
        except FetchError as error:
            rejects[row] = reject(absolute, error)
    return places, rejects


def reject(uri: str, error: FetchError) -> Reject:
    """The reject of the record that names `uri`."""
    return Reject("fetch", error.reason, printable(f"{uri[:200]}: {error.cause}")[:500])


@functools.lru_cache(maxsize=2)
def fetcher(rules: FetchRules) -> Fetcher:
    """One a worker process: connections and what is known of hosts outlive a batch."""
    return Fetcher(rules)


class Fetcher:
    """Asks many hosts side by side, each with its share of threads; gives up on those that don't answer. Thread-safe.

    Raises SourceError where the driver of an allowed store is missing.
    """

    def __init__(self, rules: FetchRules) -> None:
        self.rules = rules
        self.ways: dict[str, Way] = {}
        for prefix in prefixes(rules.allowed):
            self.ways.setdefault(prefix.scheme, way(prefix.scheme, rules))
        self.free = threading.BoundedSemaphore(THREADS)
        self.hosts: dict[str, Host] = {}
        self.attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS), wait=pause, retry=retry_if_exception(is_transient), reraise=True
        )

    def identities(self, places: Iterable[Place]) -> dict[Place, str | bytes | Reject]:
        """By place its URI and version; or its content, where that is what identifies it."""
        return self.side_by_side(self.identity, places)

    def contents(self, places: Iterable[Place]) -> dict[Place, bytes | Reject]:
        """By place its content."""
        return self.side_by_side(self.content, places)

    def identity(self, place: Place) -> str | bytes:
        """The URI and version of one, or its content."""
        version = None
        if self.rules.identity == "version":
            version = self.attempts(self.attempt, self.ways[place.scheme].version, place)
        return self.content(place) if version is None else f"{place.uri}\0{version}"

    def content(self, place: Place) -> bytes:
        """The content of one."""
        return self.attempts(self.attempt, self.ways[place.scheme].content, place)

    def attempt(self, call: Callable[[Place], T], place: Place) -> T:
        """One try, unless the host is down."""
        host = self.hosts.setdefault(place.host, Host())
        with self.free:
            host.check(place)  # outside of try: an image that isn't asked for must not keep its host down
            try:
                result = call(place)
            except FetchError as error:
                if error.reason == "fetch_timeout":
                    host.was_silent(place)
                raise
        host.answered()
        return result

    def side_by_side(self, call: Callable[[Place], T], places: Iterable[Place]) -> dict[Place, T | Reject]:
        """What `call` returns for each place, once however many records name it."""

        def settled(place: Place) -> T | Reject:
            try:
                return call(place)
            except FetchError as error:
                return reject(place.uri, error)

        with ExitStack() as stack:
            lanes: dict[str, ThreadPoolExecutor] = {}  # a host has threads of its own, so it holds up no other
            futures = {}
            for place in dict.fromkeys(places):
                if place.host not in lanes:
                    lanes[place.host] = ThreadPoolExecutor(SHARES[place.scheme], "fetch")
                    # A SourceError ends the run, so the rest needn't be asked.
                    stack.callback(lanes[place.host].shutdown, cancel_futures=True)
                futures[place] = lanes[place.host].submit(settled, place)
            return {place: future.result() for place, future in futures.items()}


class Host:
    """Whether a host answers. One that doesn't is left alone for a minute: a million of its images would take weeks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.silent: set[Place] = set()
        self.down_until = 0.0

    def check(self, place: Place) -> None:
        """Raise FetchError while the host counts as down."""
        if time.monotonic() < self.down_until:
            cause = f"{place.host} did not answer in time for {SILENT_IMAGES} images in a row"
            raise FetchError("fetch_timeout", f"{cause}, so it counts as down and is left alone for a minute")

    def was_silent(self, place: Place) -> None:
        """Count an image, once however often it was tried."""
        with self.lock:
            if len(self.silent) < SILENT_IMAGES:
                self.silent.add(place)
            if len(self.silent) == SILENT_IMAGES:
                self.down_until = time.monotonic() + DOWN_SECONDS

    def answered(self) -> None:
        """Forget the silence."""
        with self.lock:
            self.silent.clear()
            self.down_until = 0.0


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    return isinstance(error, FetchError) and error.retry


def pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: what the server asked for, within bounds, or a growing few tenths."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.after if isinstance(error, FetchError) else 0.0
    return max(wait_exponential_jitter(0.2, 2.0, jitter=0.2)(state), min(asked, RETRY_AFTER_SECONDS))
