"""The images of rows: as they are stored in the table, or fetched from their URIs within what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.fetching.locations import FetchError, FetchRules, Location, absolute_uri, allowed_location
from pipelines.records import OBJECT
from pipelines.search.pinned import PinnedTable
from pipelines.search.rows import addresses_of, take
from pipelines.tables.dataset import without_source


def images_of(table: PinnedTable, ids: Sequence[str | int], rules: FetchRules | None) -> dict[str | int, bytes]:
    """The images of some rows, by id, as far as there are any.

    What a table says of its images is data: without `rules` no URI is looked at.
    """
    addresses = addresses_of(table, ids)
    names = [name for name in (table.image, table.image_uri if rules else None) if name is not None]
    if not addresses or not names:
        return {}
    named_in = [OBJECT] if OBJECT in table.dataset.schema.names else []
    rows = take(table, list(addresses.values()), [*names, *named_in]).to_pylist()
    stored, uris = {}, {}
    for key, row in zip(addresses, rows, strict=True):
        if table.image and row[table.image] is not None:
            stored[key] = row[table.image]
        elif rules and table.image_uri and row[table.image_uri]:
            uris[key] = (row[table.image_uri], without_source(row.get(OBJECT) or ""))
    return stored | (fetched(uris, rules) if rules and uris else {})


def fetched(uris: dict[str | int, tuple[str, str]], rules: FetchRules) -> dict[str | int, bytes]:
    """The images at some URIs, each with the file that named it, as far as they are allowed and can be fetched."""
    from pipelines.fetching.fetcher import shared_fetcher  # imports the clients of stores and web servers

    locations: dict[str | int, Location] = {}
    for key, (uri, named_in) in uris.items():
        try:
            locations[key] = allowed_location(absolute_uri(uri, named_in, rules), rules.allowed)
        except FetchError:
            continue
    contents = shared_fetcher(rules).contents(locations.values()) if locations else {}
    return {key: content for key, at in locations.items() if isinstance(content := contents[at], bytes)}
