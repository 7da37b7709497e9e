"""Search the published version of a table by text, image, or both: exact, so that it judges the vectors alone."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import lancedb
import pyarrow as pa

from pipelines.records import FINGERPRINT, ID, IMAGE, MODALITY, OBJECT, RUN, TEXT, VECTOR
from pipelines.run_config import SearchConfig
from pipelines.sink.table import PUBLISHED, as_column, made_from, open_dataset, stored_identity, table_uri
from pipelines.sources.objects import absolute
from pipelines.stages.encode import local_file
from vista_core import Encoder, EncoderSettings, Record, RecordError, UsageError, display_name

DISTANCE = "_distance"


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
            lines.append(f"{row['score']:6.3f}  {row[ID]}  [{row[MODALITY]}] {shortened(row[TEXT] or '')}")
        return "\n".join(lines)


def shortened(text: str, width: int = 80) -> str:
    """One line of `text`, however long it is."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def search(config: SearchConfig) -> Results:
    """The `k` nearest rows by cosine. Raises UsageError for a table that isn't there or a query that can't be read."""
    db = absolute(config.db)
    dataset = open_published(db, config.table)
    encoder = Encoder.load(query_settings(config, dataset))
    column = dataclasses.replace(stored_identity(dataset), dtype="float32")
    if differences := encoder.identity.differences(column):
        raise UsageError(
            f"{config.table} was embedded with another encoder: {'; '.join(differences)}. "
            "Name the files it was embedded with: --weights, --from-pretrained"
        )
    try:
        image = Path(config.image) if config.image else None
        [vector] = encoder.encode([Record(text=config.text, image=image)])
    except RecordError as error:
        raise UsageError(
            f"--image {config.image}: {error.message}" if config.image else f"--text: {error.message}"
        ) from error
    table = lancedb.connect(db).open_table(config.table)
    table.checkout(PUBLISHED)
    query: Any = table.search(vector, vector_column_name=VECTOR)
    query = query.distance_type("cosine").bypass_vector_index()
    if config.where:
        query = query.where(config.where, prefilter=True)
    columns = [name for name in dataset.schema.names if name not in (VECTOR, IMAGE, FINGERPRINT, OBJECT, RUN)]
    try:
        found = query.select([*columns, DISTANCE]).limit(config.k).to_arrow()
    except (ValueError, OSError, RuntimeError, pa.ArrowException) as error:
        raise UsageError(f"--where {config.where!r}: {error}" if config.where else str(error)) from error
    return Results(
        [scored(row) for row in found.to_pylist()], config.json, display_name(encoder.identity.model, config.weights)
    )


def scored(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its cosine; a column of its own that is named `score` gives way."""
    score = 1 - row.pop(DISTANCE)
    return {ID: row.pop(ID)} | row | {"score": score}


def open_published(db: str, name: str) -> lance.LanceDataset:
    """The version of the table that the tag `published` names."""
    uri = table_uri(db, name)
    dataset = open_dataset(uri)
    if dataset is None:
        raise UsageError(f"there is no table {name} in {db}")
    if PUBLISHED not in dataset.tags.list():
        raise UsageError(f"{uri} was never published: no run ended well yet, {name}_runs says why")
    return lance.dataset(uri, version=PUBLISHED)


def query_settings(config: SearchConfig, dataset: lance.LanceDataset) -> EncoderSettings:
    """The encoder that the column was filled by; options say where its files are now."""
    given = {"model": config.model, "weights": config.weights, "from_pretrained": config.from_pretrained}
    files = {name: made_from(dataset)[name] for name in given} | {
        name: value for name, value in given.items() if value is not None
    }
    files["weights"] = local_file(files["weights"])
    settings = as_column(EncoderSettings(device=config.device, **files), stored_identity(dataset))
    # A single query has time for the most exact vector; the column's precision was for the many.
    return dataclasses.replace(settings, dtype="float32")
