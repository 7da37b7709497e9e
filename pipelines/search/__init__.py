"""Search: a table's version, pinned with the encoder of its vectors. Needs no Ray.

from pipelines.search import Searcher

Searcher.open("s3://bucket/vectors", "products").search(text="a lamp", k=5)  # an Arrow table, best first
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.search.encoder import EncoderChoice
    from pipelines.search.query import Query
    from pipelines.search.searcher import Searcher

__all__ = ["EncoderChoice", "Query", "Searcher"]

# Imported when they are first used: the command reads its options before it loads Lance.
_MODULES = {"EncoderChoice": "encoder", "Query": "query", "Searcher": "searcher"}


def __getattr__(name: str) -> Any:
    """Import one of the names above when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
