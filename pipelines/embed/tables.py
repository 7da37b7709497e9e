"""The tables of a run: created where they are missing, and checked against the source."""

from __future__ import annotations

import logging

import lance
import pyarrow as pa

from pipelines.embed.job import Job, reading_digest
from pipelines.ingest.manifest import MANIFEST_SCHEMA, Manifest, Reading
from pipelines.records import IMAGE, REJECT_SCHEMA
from pipelines.tables.dataset import ensure_dataset
from pipelines.tables.schema import table_schema
from vista_core import UsageError

log = logging.getLogger(__name__)


def schema_of(job: Job) -> pa.Schema:
    """The schema of the table, if this run makes it."""
    source, origin = job.source, job.catalog.origin(job.config)
    return table_schema(
        source.extra, job.column, origin, image_uri=source.has_uris, store_images=job.config.store_images
    )


def open_tables(job: Job) -> tuple[lance.LanceDataset, lance.LanceDataset]:
    """The table and its rejects. Raises UsageError if the source doesn't fit the table."""
    config, schema = job.config, schema_of(job)
    table = ensure_dataset(config.table_uri, schema)
    if config.store_images and IMAGE not in table.schema.names:
        raise UsageError(f"--store-images: {config.table} was made without it; choose another --table")
    check_columns(table.schema, schema)
    return table, ensure_dataset(config.side_table("rejects"), REJECT_SCHEMA)


def open_manifest(job: Job, table: pa.Schema, run: str) -> Manifest:
    """The manifest of the files that are read."""
    uri = ensure_dataset(job.config.side_table("objects"), MANIFEST_SCHEMA).uri
    return Manifest(uri, Reading(reading_digest(job, table), run, job.versions, job.units_by_file))


def check_columns(table: pa.Schema, source: pa.Schema) -> None:
    """Columns of an existing table keep their types; a column that only one side has is a warning, not an error."""
    for field in source:
        if field.name not in table.names:
            log.warning("column %s of the source is not in the table and is skipped", field.name)
        elif table.field(field.name).type != field.type:
            raise UsageError(
                f"column {field.name!r} is {field.type} in the source and {table.field(field.name).type} in the table. "
                "Cast it in the source, or embed into another --table"
            )
    if missing := [name for name in table.names if name not in source.names]:
        log.warning("columns of the table that the source lacks are null in new rows: %s", ", ".join(missing))
