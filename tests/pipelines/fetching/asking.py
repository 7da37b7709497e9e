"""How the tests of this folder ask for images."""

from __future__ import annotations

from pipelines.fetching.fetcher import shared_fetcher
from pipelines.fetching.locations import (
    FetchError,
    FetchLimits,
    FetchRules,
    Location,
    absolute_uri,
    allowed_location,
)
from pipelines.reasons import Reject

FILE = "/data/catalog/day.parquet"


def rules(*allowed: str, root=None, max_bytes=100_000, seconds=10.0, **limits) -> FetchRules:
    """Rules of a test; other limits than the product's by their names."""
    return FetchRules(allowed, root, max_bytes, seconds, "version", FetchLimits(**limits))


def located(uri: str, given: FetchRules, named_in: str = FILE) -> Location | Reject:
    """The location of an image that a file names, or the reject of its record."""
    absolute = absolute_uri(uri, named_in, given)
    try:
        return allowed_location(absolute, given.allowed)
    except FetchError as error:
        return error.reject(absolute)


def fetched(uris, given: FetchRules, named_in: str = FILE) -> list[bytes | Reject]:
    """The content of each image, or the reject of its record."""
    return results(shared_fetcher(given).contents, [located(uri, given, named_in) for uri in uris])


def identified(uris, given: FetchRules, named_in: str = FILE) -> list[str | bytes | Reject]:
    """The identity of each image, or its content if that is its identity, or the reject of its record."""
    return results(shared_fetcher(given).identities, [located(uri, given, named_in) for uri in uris])


def results(ask, locations) -> list:
    """The result for each location; those that are rejects already stay so."""
    found = ask(each for each in locations if isinstance(each, Location))
    return [found[each] if isinstance(each, Location) else each for each in locations]


def reasons(results) -> list[str | None]:
    """The reason of each reject, and None for all other results."""
    return [result.reason if isinstance(result, Reject) else None for result in results]
