"""The options of the command `backfill`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from pipelines.fetching.locations import check_typed
from pipelines.options import ABOVE_0, AT_LEAST_0, AT_LEAST_1, NAME, SHARE, Device, check_options
from pipelines.report.destination import check_option
from pipelines.tables.dataset import table_uri
from pipelines.tables.encoder_choice import EncoderOptions
from vista_core import UsageError

NOTHING = "-"  # stands for "default" among several values


@dataclass(frozen=True)
class BackfillConfig:
    """Fill the vector column --column of the LanceDB table --db/--table, whoever made it, from its own columns of text
    and images: a new column, or what is missing or out of date of one. Other columns, indexes, tags and readers are not
    touched, and others may write meanwhile. Exit code: 0 the column is complete (with --where: filled), 1 failed, 2
    wrong usage, 3 a gate failed, 130 or 143 stopped by SIGINT or SIGTERM. What was committed stays, and the same
    command continues from there."""

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table. Rejected rows go to NAME_rejects; NAME_runs has a row for each run."""
    column: tuple[str, ...]
    """The vector column; several are filled in one pass over the rows, in which each image is decoded once."""
    model: tuple[str, ...]
    """The model of each column: bge-visualized-base-en-v1.5, bge-visualized-m3, vista-tiny, or a model folder: a path,
    an s3:// URI, or OWNER/NAME of the Hugging Face hub."""
    weights: tuple[str, ...] = ()
    """The weights of each column's model (`-`: the default): a released .pth or a converted .safetensors file, as a
    path or s3:// URI; default: those that the column names or, for a new one, those on the Hugging Face hub. A model
    folder has its own."""
    from_pretrained: tuple[str, ...] = ()
    """For each column (`-`: the default) a local folder with the text tower's config.json and tokenizer; default: as
    for --weights."""
    text_column: tuple[str, ...] | None = None
    """Column with the text, or several, whose values are joined in this order; default: as the column was filled
    before, else `text` of a table that vista made, else one named `text`, `caption`, `title` or similar."""
    image_column: str | None = None
    """Column with image bytes, or with paths or URIs of images; default: likewise."""
    where: str | None = None
    """Fill only the rows that pass this SQL filter on the table's columns. The column stays incomplete until a run
    without it."""
    image_root: str | None = None
    """Folder to which relative image paths refer; default: that of the source file of the row, else that of the
    table."""
    allow_prefix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Allow to fetch images whose URI starts with this, such as https://img.example.com/ or s3://other-bucket/;
    default: only those in the table's own bucket or database folder. A web server whose name leads to an address that
    is not public needs that address, or its network, as well: 10.1.2.3 or 10.1.0.0/16."""
    image_identity: Literal["version", "content", "uri"] | None = None
    """What tells that an external image changed: its `version` (the etag, or size and time), its `content`, or its
    `uri` (for URIs whose image never changes); default: as the column was filled before, else version."""
    max_image_mb: Annotated[float, ABOVE_0] = 20.0
    """Reject external images larger than this."""
    fetch_timeout: Annotated[float, ABOVE_0] = 30.0
    """Seconds that one attempt to fetch an image may take."""
    read_all: bool = False
    """Look at every row again, also in fragments that are finished and unchanged: external images may have changed."""
    alpha: Literal["drop", "white"] | None = None
    """Transparent images: `drop` the alpha channel, or composite them on `white`; default: as in the existing column,
    else drop, or what a model folder says."""
    resize: Literal["fast", "exact"] | None = None
    """Resize images `fast`, or `exact` as the reference does; default: as in the existing column, else fast."""
    max_tokens: int | None = None
    """Truncate texts to this many tokens; default: as in the existing column, else what the model can take."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision in which the model computes; `auto`: that of the existing column, else what is fastest here."""
    device: Device = "auto"
    """Where the model runs. `cuda` without a GPU is an error; `auto` uses GPUs if the cluster has any."""
    num_actors: Annotated[int | None, AT_LEAST_1] = None
    """Number of encoders of each column; default: one for each GPU or, without GPUs, one for each node."""
    transport_rows: Annotated[int | None, AT_LEAST_1] = None
    """Rows that an encoder gets at once; default: 1,024 for a GPU, 64 for a CPU."""
    inference_tokens: int | None = None
    """Tokens that go through the model at once; default: 65,536 on a GPU, 2,048 on a CPU."""
    max_reject_rate: Annotated[float, SHARE] = 0.05
    """Fail if more than this share of the rows is rejected."""
    commit_seconds: Annotated[float, AT_LEAST_0] = 60.0
    """Commit or keep what is encoded at least this often, in seconds."""
    report: str | None = None
    """Where the report of the run goes, an HTML page: a file that each run replaces (a path or s3:// URI that ends in
    .html), or `none`; default: DB/TABLE_reports/RUN.html, of which the last 90 are kept."""
    take_over: bool = False
    """Start although another run holds the table, because that run is dead."""
    plan: bool = False
    """Only print what a run would do, how long that would take, and what it would cost. Writes nothing."""
    price_per_hour: Annotated[float | None, AT_LEAST_0] = None
    """Cost of the machines for one hour, for the forecast of --plan."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        check_typed(self.allow_prefix)
        check_option(self.report)
        if len(set(self.column)) < len(self.column):
            raise UsageError(f"--column {' '.join(self.column)}: a column is named twice")
        for option in ("model", "weights", "from_pretrained"):
            values = getattr(self, option)
            if len(values) not in ((len(self.column),) if option == "model" else (0, len(self.column))):
                name = f"--{option.replace('_', '-')}"
                raise UsageError(f"{name}: {len(values)} for {len(self.column)} columns. Give one for each --column")
        for number in range(len(self.column)):
            self.encoder(number).settings(self.device)  # checks the options that it takes

    @property
    def table_uri(self) -> str:
        """The URI of the table."""
        return table_uri(self.db, self.table)

    def side_table(self, name: str) -> str:
        """The URI of `TABLE_name`, such as that of the rejects."""
        return table_uri(self.db, f"{self.table}_{name}")

    def encoder(self, number: int) -> EncoderOptions:
        """The options that determine the vectors of one of the columns."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(EncoderOptions)}
        for name in ("model", "weights", "from_pretrained"):
            values[name] = given(values[name], number)
        return EncoderOptions(**values)


def given(values: tuple[str, ...], number: int) -> str | None:
    """The value for one of the columns, if there is one."""
    return values[number] if values and values[number] != NOTHING else None
