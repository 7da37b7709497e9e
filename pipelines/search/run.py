"""The command `search`: opens the table, searches once, and prints what was found."""

from __future__ import annotations

import logging

from pipelines.fetching.addresses import is_network
from pipelines.fetching.locations import FetchLimits, FetchRules
from pipelines.records import ID
from pipelines.search.config import SearchConfig
from pipelines.search.encoder import EncoderChoice
from pipelines.search.page import MOST_IMAGES, Page
from pipelines.search.query import Query
from pipelines.search.results import Results
from pipelines.search.searcher import Searcher
from pipelines.storage.uris import absolute

log = logging.getLogger(__name__)


def search(config: SearchConfig) -> Results | str:
    """The best rows, or where the page with them is.

    Raises UsageError if there is no such table, or the query can't be encoded.
    """
    query = config.query
    choice = EncoderChoice(config.model, config.weights, config.from_pretrained, config.device)
    searcher = Searcher.open(
        config.db,
        config.table,
        column=config.column,
        version=config.version,
        allow_incomplete=config.allow_incomplete,
        encoder=choice if query.needs_encoder else None,
    )
    if searcher.advice and query.mode != "text" and not query.exact:
        log.warning("%s", searcher.advice)
    results = Results(searcher.search_many([query])[0], config.json, searcher.model if query.needs_encoder else None)
    return results if config.html is None else write_page(config, searcher, query, results)


def write_page(config: SearchConfig, searcher: Searcher, query: Query, results: Results) -> Results | str:
    """Write the page; what is to be printed."""
    assert config.html is not None
    images = searcher.image_bytes(results.found[ID].to_pylist()[:MOST_IMAGES], fetch_rules(config))
    title = f"{config.table}, version {searcher.version}"
    if query.needs_encoder:
        title = f"{title}, {searcher.model}"
    Page(title, query, results, images).write(config.html)
    return results if config.json else f"{config.html}: {len(results.found)} results, {len(images)} images"


def fetch_rules(config: SearchConfig) -> FetchRules | None:
    """What may be fetched for the page; None: nothing. A person waits for it, so each image is tried once."""
    if not config.allow_prefix:
        return None
    return FetchRules(
        allowed=tuple(each if "://" in each or is_network(each) else absolute(each) for each in config.allow_prefix),
        timeout_seconds=10.0,
        identity="uri",
        limits=FetchLimits(attempts=1, second_look_seconds=0.0),
    )
