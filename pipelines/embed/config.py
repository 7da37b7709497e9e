"""The options of the command `embed`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from pipelines.fetching.locations import check_typed
from pipelines.options import ABOVE_0, AT_LEAST_0, AT_LEAST_1, NAME, SHARE, SHARE_ABOVE_0, Device, check_options
from pipelines.report.destination import check_option
from pipelines.sources.columns import Images
from pipelines.sources.detect import Kind
from pipelines.sources.roles import Modality
from pipelines.sources.scope import Scope
from pipelines.tables.dataset import table_uri
from pipelines.tables.encoder_choice import EncoderOptions
from vista_core import UsageError

ImageIdentity = Literal["version", "content", "uri"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EmbedConfig:
    """Embed the new and changed records of --source, and publish the table --db/--table. Exit code: 0 published, 1
    failed, 2 wrong usage, 3 a gate failed, 130 or 143 stopped by SIGINT or SIGTERM. Unless it is 0, readers keep the
    version that was published before."""

    source: str
    """What to read: Parquet, WebDataset shards, JSON lines, CSV, Arrow files, a Lance or Delta table, or a folder of
    images; a file, a folder or a glob (`s3://bucket/catalog/*.parquet`)."""
    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table. Rejected records go to NAME_rejects; NAME_runs has a row for each run."""
    model: str = "vista-tiny"
    """bge-visualized-base-en-v1.5, bge-visualized-m3, vista-tiny, or a model folder: a path, an s3:// URI, or
    OWNER/NAME of the Hugging Face hub. In a table with several vector columns, this and the other options of the
    encoder are said of the column of this model; each other column keeps its own encoder."""
    weights: str | None = None
    """The model's weights: a released .pth or a converted .safetensors file, as a path or s3:// URI; default: those on
    the Hugging Face hub. A model folder has its own."""
    from_pretrained: str | None = None
    """A local folder with the text tower's config.json and tokenizer; default: those on the Hugging Face hub."""
    id_column: str | None = None
    """Column with the record's id; default: one named `id` or similar, else the id is a hash of the content."""
    text_column: tuple[str, ...] | None = None
    """Column with the text, or several, whose values are joined in this order (title brand description); default: one
    named `text`, `caption`, `title` or similar."""
    image_column: str | None = None
    """Column with image bytes, or with paths or URIs of images; default: one named `image`, `jpg`, `image_url` or
    similar."""
    only: Modality | None = None
    """Embed only the `text` or only the `image` of each record; default: both. The other column passes through, unless
    it has one of the names that the table uses itself: `text`, `image`."""
    strict_columns: bool = False
    """Reject a record if a value that only passes through doesn't fit its column; default: the value becomes null, and
    is counted."""
    encoding: str | None = None
    """Encoding of CSV and JSON lines, such as latin-1 or cp1252; default: UTF-8, or what a byte order mark says."""
    source_kind: Kind | None = None
    """The format of the source; default: detected by file names and first bytes."""
    images: Images | None = None
    """If a record has a list of images: a row for `each` (with the ids ID#0, ID#1, ...), or only for the `first`;
    default: each."""
    image_root: str | None = None
    """Folder to which relative image paths refer; default: the folder of the file that contains them."""
    allow_prefix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Allow to fetch images whose URI starts with this, such as https://img.example.com/ or s3://other-bucket/, and
    links of the source to lead there; default: only those in the source's own bucket or folder. A web server whose name
    leads to an address that is not public needs that address, or its network, as well: 10.1.2.3 or 10.1.0.0/16."""
    image_identity: ImageIdentity | None = None
    """What tells that an external image changed: its `version` (the etag, or size and time; one request for each image
    in each run), its `content` (each image is fetched in each run), or its `uri` (for URIs whose image never
    changes); default: version."""
    max_image_mb: Annotated[float, ABOVE_0] = 20.0
    """Reject external images larger than this."""
    fetch_timeout: Annotated[float, ABOVE_0] = 30.0
    """Seconds that one attempt to fetch an image may take."""
    source_name: Annotated[str | None, NAME] = None
    """A name for this source, if several sources go into one table: each has its own ids and its own missing rows."""
    read_all: bool = False
    """Read unchanged files, too, instead of skipping them."""
    delete_missing: bool = False
    """Remove rows whose record is no longer in the source; more than a tenth of the rows only with --delete-at-most."""
    delete_at_most: Annotated[int | None, AT_LEAST_1] = None
    """Remove up to this many rows whose record is no longer in the source, even if they are more than a tenth."""
    limit: Annotated[int | None, AT_LEAST_1] = None
    """Read only the first records, this many, for a first try."""
    sample: Annotated[float, SHARE_ABOVE_0] = 1.0
    """Read only this share of the records, always the same ones, for a first try."""
    alpha: Literal["drop", "white"] | None = None
    """Transparent images: `drop` the alpha channel as the reference does, or composite them on `white`; default: as in
    the existing column; without one, or with --reembed, drop, or what a model folder says."""
    resize: Literal["fast", "exact"] | None = None
    """Resize images `fast` (some pixel values differ from the reference's by 1 in 255), or `exact` (every pixel is the
    reference's, at half the speed); default: as in the existing column; without one, or with --reembed, fast."""
    max_tokens: int | None = None
    """Truncate texts to this many tokens; default: as in the existing column; without one, or with --reembed, what the
    model can take."""
    dtype: Dtype = "auto"
    """Precision in which the model computes; `auto`: that of the existing column; without one, or with --reembed, what
    is fastest here."""
    device: Device = "auto"
    """Where the model runs. `cuda` without a GPU is an error; `auto` uses GPUs if the cluster has any."""
    num_actors: Annotated[int | None, AT_LEAST_1] = None
    """Number of encoders; default: one for each GPU or, without GPUs, one for each node. With few cores, one per core
    is faster, if there is memory for as many copies of the model."""
    transport_rows: Annotated[int | None, AT_LEAST_1] = None
    """Rows that an encoder gets at once; default: 1,024 for a GPU, 64 for a CPU."""
    inference_tokens: int | None = None
    """Tokens that go through the model at once, image tokens included; default: 65,536 on a GPU, 2,048 on a CPU. A GPU
    that runs out of memory halves the number, and raises it again later."""
    max_reject_rate: Annotated[float, SHARE] = 0.05
    """Fail if more than this share of the source's records is rejected, those of skipped files included; checked at the
    end, and during the run from 1,000 records on."""
    keep_stale: bool = False
    """If a record is rejected that the table has in an earlier version, keep that row instead of removing it."""
    store_images: bool = False
    """Store the original image bytes in the table."""
    commit_seconds: Annotated[float, AT_LEAST_0] = 60.0
    """Commit at least this often, in seconds, while rows arrive. Work that is not committed is lost if the run is
    killed."""
    reembed: bool = False
    """Replace the whole vector column (the default one, if there are several) by another encoder's vectors, and publish
    once all are replaced. If it is interrupted, run the same command again."""
    gate_task: str | None = None
    """A folder with queries and qrels (judgements of ids of this table), as `vista evaluate` reads them: a version in
    which searches find less of what is relevant than in the published one is not published (exit code 3)."""
    gate_drop: Annotated[float, SHARE] = 0.01
    """With --gate-task: by how much the nDCG@10 may be lower. A lower one counts if it is no accident of the queries: 0
    is outside the 95 % interval of the difference."""
    retention_days: Annotated[float, AT_LEAST_0] = 7.0
    """Days for which old versions of the table are kept; tagged versions are kept longer."""
    report: str | None = None
    """Where the report of the run goes, an HTML page: a file that each run replaces (a path or s3:// URI that ends in
    .html), or `none`; default: DB/TABLE_reports/RUN.html, of which the last 90 are kept."""
    take_over: bool = False
    """Start although another run holds the table, because that run is dead."""
    plan: bool = False
    """Only print what a run would read and embed, how long that would take, what limits it and what it would cost, by
    a probe of up to a minute. Writes nothing."""
    price_per_hour: Annotated[float | None, AT_LEAST_0] = None
    """Cost of the machines for one hour, for the forecast of --plan."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        check_typed(self.allow_prefix)
        if self.deletes and not self.scope.is_whole:
            raise UsageError("--delete-missing: with --limit or --sample, nobody can know which records are missing")
        check_option(self.report)
        if (self.only == "text" and self.image_column) or (self.only == "image" and self.text_column):
            raise UsageError(f"--only {self.only}: that leaves out the column that you name for the other")
        self.encoder.settings(self.device)  # checks the options that it takes

    @property
    def encoder(self) -> EncoderOptions:
        """The options that determine the vectors."""
        return EncoderOptions(**{each.name: getattr(self, each.name) for each in fields(EncoderOptions)})

    @property
    def deletes(self) -> bool:
        """True if missing rows are to be removed."""
        return self.delete_missing or self.delete_at_most is not None

    @property
    def scope(self) -> Scope:
        """The records of the source to read."""
        return Scope(share=self.sample, limit=self.limit)

    @property
    def table_uri(self) -> str:
        """The URI of the table."""
        return table_uri(self.db, self.table)

    def side_table(self, name: str) -> str:
        """The URI of `TABLE_name`, such as that of the rejects."""
        return table_uri(self.db, f"{self.table}_{name}")
