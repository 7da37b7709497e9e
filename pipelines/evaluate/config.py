"""The options of the commands `evaluate` and `compare`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Final, Literal

import tyro

from pipelines.fetching.locations import check_typed
from pipelines.options import AT_LEAST_1, NAME, Device, check_options
from pipelines.tables.encoder_choice import EncoderOptions
from vista_core import UsageError

TINY: Final = "vista-tiny"


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure how well searches find what is relevant. Either a --task, whose corpus is embedded by --model into a
    table of --db, or a --table that is there, with --judgements of your own. Writes metrics.json, per_query.parquet,
    run.trec and report.html into --output. Exit code: 0 done, 1 failed, 2 wrong usage, 3 a gate failed while the corpus
    was embedded, 130 or 143 stopped by SIGINT or SIGTERM."""

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    output: str
    """Folder for the results, or an s3:// URI."""
    task: str | None = None
    """A folder with corpus, queries and qrels (Parquet, JSON lines, CSV or TSV; a path or s3:// URI), a data set of the
    hub (hf://datasets/OWNER/NAME@REVISION), or one of the names that docs/evaluation.md lists, such as cirr."""
    table: Annotated[str | None, NAME] = None
    """A table of --db to evaluate as it is: the published version or, if it was never published, the latest."""
    column: tuple[str, ...] = ()
    """Vector column of --table, or two that are compared; default: the one that is searched by default."""
    queries: str | None = None
    """With --table: the queries, as a source that `vista embed` reads. Default: the texts in --judgements."""
    judgements: str | None = None
    """With --table: a CSV, TSV, JSON lines or Parquet file with the columns `query` (an id of --queries, or without
    them a text), `id` (of a relevant row), and perhaps `score`."""
    by: tuple[str, ...] = ()
    """Break the scores down by these columns of the queries, or of a file queries_meta beside them."""
    index: bool = False
    """Search through the vector index of --table as well, to see what it costs."""
    no_pictures: bool = False
    """Don't store images in the tables of a --task: they take less space, and the report has no pictures."""
    model: str | None = None
    """bge-visualized-base-en-v1.5, bge-visualized-m3, vista-tiny, or a model folder: a path, an s3:// URI, or
    OWNER/NAME of the Hugging Face hub; default: vista-tiny, and with --table the one that the column names."""
    weights: str | None = None
    """The model's weights: a released .pth or a converted .safetensors file, as a path or s3:// URI; default: those on
    the Hugging Face hub. A model folder has its own."""
    from_pretrained: str | None = None
    """A local folder with the text tower's config.json and tokenizer; default: those on the Hugging Face hub."""
    alpha: Literal["drop", "white"] | None = None
    """Transparent images: `drop` the alpha channel as the reference does, or composite them on `white`; default:
    drop, or what a model folder says."""
    resize: Literal["fast", "exact"] | None = None
    """Resize images `fast` (some pixel values differ from the reference's by 1 in 255), or `exact`; default: fast."""
    max_tokens: int | None = None
    """Truncate texts to this many tokens; default: what the model can take."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision in which the model computes; `auto`: what is fastest here."""
    device: Device = "auto"
    """Where the model runs. `cuda` without a GPU is an error; `auto` uses GPUs if the cluster has any."""
    num_actors: Annotated[int | None, AT_LEAST_1] = None
    """Number of encoders; default: one for each GPU or, without GPUs, one for each node."""
    inference_tokens: int | None = None
    """Tokens that go through the model at once, image tokens included."""
    allow_prefix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Allow to fetch images whose URI starts with this; default: only those in the task's own bucket or folder."""
    json: bool = False
    """Print metrics.json instead of a table."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        if (self.task is None) == (self.table is None):
            raise UsageError("name either a --task, or a --table with --judgements")
        if self.table is not None and self.judgements is None:
            raise UsageError("--table: name the --judgements, too: which rows are relevant to which query")
        if self.task is not None and (self.column or self.judgements or self.queries or self.index):
            raise UsageError("--column, --queries, --judgements and --index go with --table; a --task has its own")
        if len(set(self.column)) != len(self.column) or len(self.column) > 2:
            raise UsageError("--column: name one, or two different ones")
        check_typed(self.allow_prefix)
        self.encoder.settings(self.device)  # checks the options that it takes

    @property
    def encoder(self) -> EncoderOptions:
        """The options that determine the vectors."""
        given = {each.name: getattr(self, each.name) for each in fields(EncoderOptions)}
        return EncoderOptions(**given | {"model": self.model or TINY})


@dataclass(frozen=True)
class CompareConfig:
    """Compare two outputs of `vista evaluate` on the same task: differences of the scores with 95 % intervals, and the
    queries that the second won and lost. Exit code: 0 done, 1 failed, 2 wrong usage."""

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FIRST")]
    """The output folder of an evaluation, or an s3:// URI."""
    second: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SECOND")]
    """That of another one; differences are what this one has more."""
    show: Annotated[int, AT_LEAST_1] = 10
    """How many of the queries that were won most, and lost most, are printed."""
    json: bool = False
    """Print the comparison as JSON."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
