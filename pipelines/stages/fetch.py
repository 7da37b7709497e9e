"""Fetch external images: those that a record only names, by URI or path."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fetching.fetcher import shared_fetcher
from pipelines.fetching.locations import FetchError, FetchRules, Location, absolute_uri, allowed_location
from pipelines.reasons import Reject
from pipelines.records import IMAGE, IMAGE_URI, OBJECT, embeddable, replace_column, with_rejects
from pipelines.stages.report import reports_warnings, timed
from pipelines.tables.dataset import without_source


class External(NamedTuple):
    """What stands for the image of a record that names one without having it."""

    uri: str  # absolute: it stays the same if the image changes
    identity: str | None  # changes if the image does; None if the image was fetched, so that its content tells


def identify(
    records: pa.Table, rejects: dict[int, Reject], rules: FetchRules
) -> tuple[pa.Table, dict[int, Reject], list[External | None]]:
    """Before select: what stands for each external image in the fingerprint, and in the id of a record without one.

    An identity is a URI, with the image's version where that is known. An image without a version is fetched here, so
    that `records` have its bytes. None for records that have their image, or none. Raises SourceError as the fetcher
    does: if no image can be fetched at all.
    """
    locations, bad = locate(records, [row for row in external_images(records) if row not in rejects], rules)
    identities: list[External | None] = [None] * len(records)
    contents: dict[int, bytes] = {}
    if rules.identity == "uri":
        found: dict[Location, str | bytes | Reject] = {location: location.uri for location in locations.values()}
    else:
        found = shared_fetcher(rules).identities(locations.values()) if locations else {}
    for row, location in locations.items():
        result = found[location]
        if isinstance(result, Reject):
            bad[row] = result
        elif isinstance(result, bytes):
            contents[row], identities[row] = result, External(location.uri, None)
        else:
            identities[row] = External(location.uri, result)
    return with_images(records, contents), bad | rejects, identities


@timed("fetch")
@reports_warnings
def fetch(records: pa.Table, rules: FetchRules) -> pa.Table:
    """After select: `records` with the content of external images; those that can't be fetched are rejected.

    Raises SourceError as the fetcher does.
    """
    live = embeddable(records)
    locations, rejects = locate(records, [row for row in external_images(records) if live[row]], rules)
    found = shared_fetcher(rules).contents(locations.values()) if locations else {}
    contents: dict[int, bytes] = {}
    for row, location in locations.items():
        result = found[location]
        if isinstance(result, Reject):
            rejects[row] = result
        else:
            contents[row] = result
    return with_rejects(with_images(records, contents), rejects)


def external_images(records: pa.Table) -> list[int]:
    """The rows that name an image without having it."""
    external = pc.and_(pc.is_null(records[IMAGE]), pc.is_valid(records[IMAGE_URI]))
    return [row for row, is_external in enumerate(external.to_pylist()) if is_external]


def locate(records: pa.Table, rows: list[int], rules: FetchRules) -> tuple[dict[int, Location], dict[int, Reject]]:
    """The location of the image of each of `rows`, or a reject if the URI is invalid or not allowed."""
    # As bytes, since a damaged file may have strings that are not UTF-8.
    uris = records[IMAGE_URI].cast(pa.binary()).take(pa.array(rows, pa.int64())).to_pylist()
    files = records[OBJECT].take(pa.array(rows, pa.int64())).to_pylist()
    locations, rejects = {}, {}
    for row, uri, named_in in zip(rows, uris, files, strict=True):
        folder_of = without_source(named_in or "")
        absolute = absolute_uri(uri.decode("utf-8", "surrogateescape"), folder_of, rules)
        try:
            locations[row] = allowed_location(absolute, rules.allowed)
        except FetchError as error:
            rejects[row] = error.reject(absolute)
    return locations, rejects


def with_images(records: pa.Table, contents: dict[int, bytes]) -> pa.Table:
    """`records` with the images of some rows filled in."""
    if not contents:
        return records
    images = records[IMAGE]
    fetched = pa.array([contents.get(row) for row in range(len(records))], images.type)
    return replace_column(records, IMAGE, fetched if images.null_count == len(images) else pc.coalesce(images, fetched))
