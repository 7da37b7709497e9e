"""The options of the command `search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.fetching.locations import check_typed
from pipelines.options import AT_LEAST_1, NAME, Device, check_options
from pipelines.search.query import Mode, Query


@dataclass(frozen=True)
class SearchConfig:
    """Search --db/--table by text, image, both, or words. By default it searches the version that is published, with
    the encoder that filled its vectors."""

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table."""
    text: str | None = None
    """The text to search with."""
    image: str | None = None
    """The image file to search with."""
    k: Annotated[int, AT_LEAST_1] = 10
    """Number of results."""
    where: str | None = None
    """Search only the rows that pass this SQL filter on the table's columns, such as "price < 10"."""
    mode: Mode = "vector"
    """Search by `vector`, by the words of `text` (BM25), or by both (`hybrid`: reciprocal rank fusion)."""
    column: str | None = None
    """The vector column; default: `vector`, unless `vista switch` named another one, or the only one that there is."""
    allow_incomplete: bool = False
    """Search also a column that a backfill has not filled yet: rows without a vector are not found."""
    version: str | None = None
    """A version of the table: its number, or a tag; default: the one that is published."""
    exact: bool = False
    """Compare with every vector, also if there is an index."""
    json: bool = False
    """Print JSON lines: id, score and the row's other columns."""
    html: str | None = None
    """Write a page with the results and their images to this file."""
    allow_prefix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Fetch images for the page whose URI starts with this, such as https://img.example.com/; default: only images that
    are stored in the table are shown."""
    model: str | None = None
    """The model of the vectors, for a column that doesn't name it, or its model folder, if that is no longer where the
    table says; default: the one that is stored with the table."""
    weights: str | None = None
    """The model's weights, if they are no longer where the table says."""
    from_pretrained: str | None = None
    """The folder with config.json and tokenizer, if it is no longer where the table says."""
    device: Device = "auto"
    """Where the model runs."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        check_typed(self.allow_prefix)
        self.query  # noqa: B018  # checks the options that it takes

    @property
    def query(self) -> Query:
        """What is searched for."""
        return Query(self.text, self.image, k=self.k, where=self.where, mode=self.mode, exact=self.exact)
