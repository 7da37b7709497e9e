"""The command `search`: opens the table, searches once, and prints what was found."""

from __future__ import annotations

from pipelines.search.config import SearchConfig
from pipelines.search.encoder import EncoderChoice
from pipelines.search.results import Results
from pipelines.search.searcher import Searcher


def search(config: SearchConfig) -> Results:
    """The best rows. Raises UsageError if there is no such table, or the query can't be encoded."""
    query = config.query
    choice = EncoderChoice(config.model, config.weights, config.from_pretrained, config.device)
    searcher = Searcher.open(
        config.db,
        config.table,
        column=config.column,
        version=config.version,
        encoder=choice if query.needs_encoder else None,
    )
    return Results(searcher.search_many([query])[0], config.json, searcher.model)
