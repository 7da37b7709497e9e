"""The options of the command `index`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.options import NAME, SHARE_ABOVE_0, check_options
from pipelines.report.destination import check_option
from pipelines.tables.dataset import table_uri

Kind = Literal["IVF_RQ", "IVF_PQ", "IVF_HNSW_SQ"]


@dataclass(frozen=True)
class IndexConfig:
    """Build the indexes of the LanceDB table --db/--table, whoever made it: one on a column of vectors, one for full
    text, one on the id. The first is measured against exact search, and the cheapest setting that reaches --recall is
    stored with the table. If the table is published, so is the new version. Exit code: 0 built, 1 failed, 2 wrong
    usage, 3 recall not reached, 130 or 143 stopped by SIGINT or SIGTERM. Unless it is 0, searches use the index that
    they had."""

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table."""
    column: str | None = None
    """The column of vectors; default: that which is searched by default, or the only one that there is."""
    kind: Literal["auto", "IVF_RQ", "IVF_PQ", "IVF_HNSW_SQ"] = "auto"
    """Kind of the vector index; `auto` chooses by rows, dimension and place, and builds none for few rows."""
    recall: Annotated[float, SHARE_ABOVE_0] = 0.95
    """The share of the 10 nearest rows that a search has to find (recall@10)."""
    json: bool = False
    """Print the result as JSON."""
    report: str | None = None
    """Where the report of the run goes, an HTML page: a file that each run replaces (a path or s3:// URI that ends in
    .html), or `none`; default: DB/TABLE_reports/RUN.html, of which the last 90 are kept."""
    take_over: bool = False
    """Start although another run holds the table, because that run is dead."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        check_option(self.report)

    @property
    def table_uri(self) -> str:
        """The URI of the table."""
        return table_uri(self.db, self.table)

    def side_table(self, name: str) -> str:
        """The URI of `TABLE_name`, such as that of the runs."""
        return table_uri(self.db, f"{self.table}_{name}")
