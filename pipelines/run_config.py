"""What a user asks of a job: one frozen dataclass a job, read from the command line and, under it, a TOML file.

A run's configuration says what to do. The model's configuration (`vista_core.config`) says how a model is built.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from pipelines.sources.columns import Images
from pipelines.sources.kinds import Kind
from vista_core import EncoderSettings, UsageError

ImageIdentity = Literal["version", "content", "uri"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class EmbedConfig:
    """Embed the records of --source that are new or changed, and publish the table --db/--table.

    Exit code: 0 done and published, 1 failed, 3 a gate failed (either way the table stays as it was published before),
    2 bad usage.
    """

    source: str
    """What to read: Parquet, WebDataset shards, JSON lines, CSV, Arrow files, a Lance table or a folder of images,
    named as a file, a folder or a glob (`s3://bucket/catalog/*.parquet`)."""
    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: str
    """Name of the table; NAME_rejects and NAME_runs stand beside it."""
    model: str = "vista-tiny"
    """bge-visualized-base-en-v1.5, bge-visualized-m3, or vista-tiny."""
    weights: str | None = None
    """The model's weights: a released .pth or a converted .safetensors (a path or s3:// URI); default: from the hub."""
    from_pretrained: str | None = None
    """A local folder with the text tower's config.json and tokenizer; default: from the hub."""
    id_column: str | None = None
    """Column that holds the record's key; default: `id` and the like, else the hash of the record's content."""
    text_column: str | None = None
    """Column that holds the text; default: `text`, `caption`, `title` and the like."""
    image_column: str | None = None
    """Column of image bytes, or of paths or URIs to fetch; default: `image`, `jpg`, `image_url` and the like."""
    source_kind: Kind | None = None
    """What the source is; default: found by names and first bytes."""
    images: Images | None = None
    """Of a list of images: a row for `each` (ids ID#0, ID#1, ...) or for the `first` only; default: each."""
    image_root: str | None = None
    """Folder that relative image paths start from; default: the folder of the file that names them."""
    allow_prefix: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Images may be fetched from below this, too, such as https://img.example.com/ or s3://other-bucket/; default:
    only from the source's own bucket or folder."""
    image_identity: ImageIdentity | None = None
    """When an image elsewhere counts as changed: by its `version` (etag, or size and time: asked for each, each night),
    its `content` (fetched each night), or its `uri` alone (for URIs whose image never changes); default: version."""
    max_image_mb: float = 20.0
    """Images elsewhere that are larger than this are rejected."""
    fetch_timeout: float = 30.0
    """Seconds that an attempt to fetch an image may take."""
    source_name: str | None = None
    """Keeps several sources of one table apart: each has ids of its own, and what vanished is looked for in its own."""
    read_all: bool = False
    """Read objects that an earlier run read in full, too, although they are as they were."""
    delete_missing: bool = False
    """Remove the rows whose record is no longer in the source; more than a tenth of its rows only if told how many."""
    delete_at_most: int | None = None
    """Remove missing rows even if they are more than a tenth, up to so many."""
    limit: int | None = None
    """Only the first so many records, for a first try."""
    sample: float = 1.0
    """Only this share of the records, always the same ones, for a first try."""
    alpha: Literal["drop", "white"] | None = None
    """Transparent images: `drop` the alpha channel as the reference does, or composite on `white` first."""
    resize: Literal["fast", "exact"] | None = None
    """Resize images `fast` (some values differ from the reference's by 1 in 255) or `exact`, bit for bit as it does,
    which decodes half as many; default: as the column has it, else fast."""
    max_tokens: int | None = None
    """Cut texts to this many tokens; default: what the model can take."""
    dtype: Dtype = "auto"
    """What the model computes in; default: what the column holds already, else what the machine is fastest at."""
    device: Device = "auto"
    """Where the model runs; `cuda` where no GPU is there is an error, never silently the CPU."""
    num_actors: int | None = None
    """Encoders side by side; default: one a GPU, or one a node where there are no GPUs. On a
    CPU with few cores, one a core is faster, if memory holds the model as often."""
    transport_rows: int | None = None
    """Rows handed to an encoder at once; default: 1,024 for a GPU, 64 for a CPU."""
    inference_tokens: int | None = None
    """Tokens that go through the model at once, image tokens included; default: 65,536 on a GPU, 2,048 on a CPU.
    Where a GPU's memory doesn't do, they are halved and later raised again."""
    max_reject_rate: float = 0.05
    """Fail when more than this share of the rows read is rejected: at the end, and on the way from 1,000 rows on."""
    keep_stale: bool = False
    """Keep a row whose record turned bad (an image that can't be decoded any more) until its record is good again."""
    store_images: bool = False
    """Keep the image bytes, as they came, in the table."""
    commit_seconds: float = 60.0
    """Commit what has arrived at least this often: what a crash can cost."""
    reembed: bool = False
    """Replace the whole column by another encoder's vectors; published once all are; the same command resumes it."""
    retention_days: float = 7.0
    """Keep versions of the table for so long; what a tag names is kept anyway."""
    take_over: bool = False
    """Begin although another run holds the table, since that run is dead."""
    plan: bool = False
    """Only say what there is to do, how long that would take, and what it would cost. Writes nothing."""
    price_per_hour: float | None = None
    """What the machines cost an hour, for the forecast."""
    rollback: bool = False
    """Only move the tag `published` back to the version before; once more moves it forth again."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything starts (raises UsageError)."""
        if not 0 <= self.max_reject_rate <= 1:
            raise UsageError(f"--max-reject-rate is a share between 0 and 1, not {self.max_reject_rate}")
        if self.num_actors is not None and self.num_actors < 1:
            raise UsageError(f"--num-actors must be 1 or more, not {self.num_actors}")
        if self.transport_rows is not None and self.transport_rows < 1:
            raise UsageError(f"--transport-rows must be 1 or more, not {self.transport_rows}")
        if not 0 < self.sample <= 1:
            raise UsageError(f"--sample is a share above 0 and up to 1, not {self.sample}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be 1 or more, not {self.limit}")
        for prefix in self.allow_prefix:
            if "://" not in prefix and not prefix.startswith(("/", ".", "~")):
                raise UsageError(f"--allow-prefix {prefix}: https://{prefix} or a folder, as ./{prefix}?")
        for option, value in (("--max-image-mb", self.max_image_mb), ("--fetch-timeout", self.fetch_timeout)):
            if value <= 0:
                raise UsageError(f"{option} must be more than 0, not {value}")
        for option, amount in (("--retention-days", self.retention_days), ("--price-per-hour", self.price_per_hour)):
            if amount is not None and amount < 0:
                raise UsageError(f"{option} must be 0 or more, not {amount}")
        if self.delete_at_most is not None and self.delete_at_most < 1:
            raise UsageError(f"--delete-at-most must be 1 or more, not {self.delete_at_most}")
        if self.deletes and (self.limit is not None or self.sample < 1):
            raise UsageError("--delete-missing: a run over a part of the source can't know what is missing in it")
        if self.source_name is not None:
            check_name("--source-name", self.source_name)
        if self.commit_seconds < 0:
            raise UsageError(f"--commit-seconds must be 0 or more, not {self.commit_seconds}")
        check_name("--table", self.table)
        encoder_settings(self)  # has checks of its own

    @property
    def deletes(self) -> bool:
        """Whether missing rows are to be removed."""
        return self.delete_missing or self.delete_at_most is not None


@dataclass(frozen=True)
class SearchConfig:
    """Search the published version of --db/--table exactly, by text, image, or both."""

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: str
    """Name of the table."""
    text: str | None = None
    """The text to search with."""
    image: str | None = None
    """The image file to search with."""
    k: int = 10
    """How many results."""
    where: str | None = None
    """A SQL filter on the table's columns that results must pass, applied before the search."""
    json: bool = False
    """Print JSON lines: id, score and the row's columns."""
    model: str | None = None
    """Default: the model that the column was embedded with, as for the following three."""
    weights: str | None = None
    """The model's weights, where they are no longer where the embedding job found them."""
    from_pretrained: str | None = None
    """The config and tokenizer folder, likewise."""
    device: Device = "auto"
    """Where the model runs."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything starts (raises UsageError)."""
        if self.text is None and self.image is None:
            raise UsageError("nothing to search with: give --text, --image, or both")
        if self.k < 1:
            raise UsageError(f"--k must be 1 or more, not {self.k}")
        check_name("--table", self.table)


def check_name(option: str, name: str) -> None:
    """Raise UsageError unless `name` can stand before `_rejects` and be a folder's name, or before `#` and a URI."""
    if not name or not all(c.isascii() and (c.isalnum() or c in "_-.") for c in name) or name.startswith("."):
        raise UsageError(f"{option} {name!r}: letters, digits, '_', '-' and '.' make a name")


def encoder_settings(config: EmbedConfig) -> EncoderSettings:
    """The part of a run's configuration that says which vectors come out."""
    return EncoderSettings(
        model=config.model,
        weights=config.weights,
        from_pretrained=config.from_pretrained,
        device=config.device,
        dtype=config.dtype,
        alpha=config.alpha or "drop",
        resize=config.resize or "fast",
        max_tokens=config.max_tokens,
        inference_tokens=config.inference_tokens,
    )


Config = TypeVar("Config")


def parse(kind: type[Config], arguments: list[str] | None = None) -> Config:
    """A `kind` from the command line; `--config FILE` (TOML, the same names) stands under what is typed.

    Raises UsageError for a bad file or value; tyro itself says what is wrong with an option, and exits with 2.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path, action="append", default=[])
    given, typed = files.parse_known_args(arguments)
    # The last of several equal options counts, so what is typed overrides what the file says.
    options = [option for path in given.config for option in options_of_file(kind, path)] + typed
    description = (
        f"{inspect.getdoc(kind)}\n\n--config FILE (TOML) sets any of these options, those typed here override it."
    )
    return tyro.cli(kind, args=options, description=description, config=(tyro.conf.FlagCreatePairsOff,))


def options_of_file(kind: Any, path: Path) -> list[str]:
    """A TOML file as command-line arguments, `-` and `_` alike; an option that `kind` lacks is an error."""
    try:
        options = {name.replace("-", "_"): value for name, value in tomllib.loads(path.read_text()).items()}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    known = sorted(field.name for field in dataclasses.fields(kind))
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(f"--config {path}: no such option: {', '.join(unknown)}; known: {', '.join(known)}")
    arguments = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is not False:
            arguments += [f"{option}={each}" for each in (value if isinstance(value, list) else [value])]
    return arguments
