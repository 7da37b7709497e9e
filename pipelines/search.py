"""Search the published version of a table by text, image, or both. Exact: no index is used. Needs no Ray."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lance
import pyarrow as pa

from pipelines.options import AT_LEAST_1, NAME, Device, check_options
from pipelines.records import ID, IMAGE, MODALITY, OBJECT, RUN, TEXT
from pipelines.storage.uris import absolute
from pipelines.storage.weights import local_file
from pipelines.tables.dataset import open_dataset, published, table_uri
from pipelines.tables.origin import Origin, vista_column
from pipelines.tables.vector_column import VectorColumn
from pipelines.terminal import one_line
from vista_core import Encoder, EncoderSettings, Record, RecordError, UsageError, display_name

DISTANCE = "_distance"  # the name that Lance gives the column


@dataclass(frozen=True)
class SearchConfig:
    """Search the published version of --db/--table by text, image, or both. Exact: no index is used."""

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
    """Search only the rows that pass this SQL filter on the table's columns."""
    json: bool = False
    """Print JSON lines: id, score and the row's other columns."""
    model: str | None = None
    """The model that the column was embedded with; default: the one that is stored with the table."""
    weights: str | None = None
    """The model's weights, if they are no longer where the table says."""
    from_pretrained: str | None = None
    """The folder with config.json and tokenizer, if it is no longer where the table says."""
    device: Device = "auto"
    """Where the model runs."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)
        if self.text is None and self.image is None:
            raise UsageError("nothing to search with: give --text, --image, or both")


@dataclass(frozen=True)
class Results:
    """What a search found, best first."""

    rows: list[dict[str, Any]]
    as_json: bool
    model: str

    def __str__(self) -> str:
        """JSON lines, or a table for people."""
        if self.as_json:
            return "\n".join(json.dumps(row, default=str, ensure_ascii=False) for row in self.rows)
        lines = [f"{self.model}, {len(self.rows)} results", " score  id"]
        for row in self.rows:
            lines.append(
                f"{row['score']:6.3f}  {one_line(str(row[ID]))}  [{row.get(MODALITY) or 'unknown'}] "
                f"{shortened(row.get(TEXT) or '')}"
            )
        return "\n".join(lines)


def shortened(text: str, width: int = 80) -> str:
    """`text` on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def search(config: SearchConfig) -> Results:
    """The `k` nearest rows by cosine. Raises UsageError if there is no such table, or the query can't be encoded."""
    return Searcher.open(config).search(config)


@dataclass(frozen=True)
class Searcher:
    """The version of a table that was published when it was opened, with the encoder of that version's vectors.

    It keeps to that version: a version that is published later may have another encoder.
    """

    version: lance.LanceDataset
    column: VectorColumn
    encoder: Encoder

    @classmethod
    def open(cls, config: SearchConfig) -> Searcher:
        """Open the published version of --db/--table. Raises UsageError if there is none, or no encoder for it."""
        version = open_published(absolute(config.db), config.table)
        column = vista_column(version)
        return cls(version, column, load_encoder(config, Origin.of(version), column))

    def search(self, config: SearchConfig) -> Results:
        """The `k` nearest rows by cosine. Raises UsageError if the query can't be encoded, or --where can't be used."""
        column, vector = self.column, encode_query(config, self.encoder)
        nearest = {"column": column.name, "q": vector, "k": config.k, "metric": "cosine", "use_index": False}
        hidden = (column.name, column.fingerprint, IMAGE, OBJECT, RUN)
        columns = [name for name in self.version.schema.names if name not in hidden]
        try:
            found = self.version.to_table([*columns, DISTANCE], config.where or None, nearest=nearest, prefilter=True)
        except (ValueError, OSError, RuntimeError, pa.ArrowException) as error:
            raise UsageError(f"--where {config.where!r}: {error}" if config.where else str(error)) from error
        model = display_name(self.encoder.identity.model, config.weights)
        return Results([scored(row) for row in found.to_pylist()], config.json, model)


def scored(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with its cosine as `score`, which replaces a column of that name."""
    score = 1 - row.pop(DISTANCE)
    return {ID: row.pop(ID)} | row | {"score": score}


def open_published(db: str, name: str) -> lance.LanceDataset:
    """The version of the table that the tag `published` names."""
    uri = table_uri(db, name)
    dataset = open_dataset(uri)
    if dataset is None:
        raise UsageError(f"there is no table {name} in {db}")
    version = published(dataset)
    if version is None:
        raise UsageError(f"{uri} was never published: no run has succeeded yet, {name}_runs says why")
    return lance.dataset(uri, version=version)


def load_encoder(config: SearchConfig, origin: Origin, column: VectorColumn) -> Encoder:
    """The encoder of the column, in float32. Raises UsageError if the files in use now make another encoder."""
    encoder = Encoder.load(query_settings(config, origin, column))
    if differences := encoder.identity.differences(dataclasses.replace(column.identity, dtype="float32")):
        raise UsageError(
            f"{config.table} was embedded with another encoder: {'; '.join(differences)}. "
            "Name the files it was embedded with: --weights, --from-pretrained"
        )
    return encoder


def query_settings(config: SearchConfig, origin: Origin, column: VectorColumn) -> EncoderSettings:
    """The settings that the column was filled with; options override where the encoder's files are."""
    settings = EncoderSettings(
        model=origin.model if config.model is None else config.model,
        weights=local_file(absolute(config.weights) if config.weights else origin.weights),
        from_pretrained=absolute(config.from_pretrained) if config.from_pretrained else origin.from_pretrained,
        device=config.device,
    )
    # The column's precision was chosen for speed; one query can have the most exact vector.
    return dataclasses.replace(column.settings(settings), dtype="float32")


def encode_query(config: SearchConfig, encoder: Encoder) -> Any:
    """The vector of the query, float32 [D]. Raises UsageError, which names the option, if it can't be encoded."""
    try:
        [vector] = encoder.encode([Record(text=config.text, image=Path(config.image) if config.image else None)])
    except RecordError as error:
        option = f"--image {config.image}" if config.image else "--text"
        raise UsageError(f"{option}: {error.message}") from error
    return vector
