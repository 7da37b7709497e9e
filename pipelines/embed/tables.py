"""The tables of a run: created where they are missing, and checked against the source."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lance
import pyarrow as pa

from pipelines.embed.config import EmbedConfig
from pipelines.embed.job import Job, reading_digest
from pipelines.ingest.manifest import MANIFEST_SCHEMA, Manifest, Reading
from pipelines.records import IMAGE, REJECT_SCHEMA
from pipelines.tables.dataset import ensure_dataset, holds_nothing, open_dataset
from pipelines.tables.default_column import default_column
from pipelines.tables.origin import Origin, with_files
from pipelines.tables.own_columns import allow_nulls, check_own_columns
from pipelines.tables.schema import table_schema
from pipelines.tables.transactions import CommitConflictError, overwrite
from pipelines.tables.vector_column import VectorColumn, names_encoder
from pipelines.tables.widening import can_widen, finished, widen_to
from vista_core import UsageError, VistaError

CHANGED = "{uri}: another run or client changed the table while this run started. Run the same command again"

log = logging.getLogger(__name__)


def schema_of(job: Job) -> pa.Schema:
    """The schema of the table, if this run makes it."""
    source, origin = job.source, job.catalog.origin(job.config, job.column.identity.model)
    return table_schema(
        source.extra, job.column, origin, image_uri=source.has_uris, store_images=job.config.store_images
    )


def table_to_continue(config: EmbedConfig) -> lance.LanceDataset | None:
    """The table that a run has to fit; None if there is none, or only the empty one of a first run that failed.

    Raises UsageError if the table is not vista's, or another client changed it in a way that needs the user.
    """
    table = open_dataset(config.table_uri)
    if table is None:
        return None
    Origin.of(table)
    if holds_nothing(table):
        return None
    check_own_columns(table)
    return table


def open_tables(job: Job, existing: lance.LanceDataset | None) -> tuple[lance.LanceDataset, lance.LanceDataset]:
    """The table and its rejects. Raises UsageError if the source doesn't fit the `existing` table."""
    config, schema = job.config, schema_of(job)
    if existing is not None:
        if config.store_images and IMAGE not in existing.schema.names:
            raise UsageError(f"--store-images: {config.table} was made without it; choose another --table")
        check_columns(existing.schema, schema, job.others)
    table = ensure_dataset(config.table_uri, schema)
    return table, ensure_dataset(config.side_table("rejects"), REJECT_SCHEMA)


def settle_table(job: Job, existing: lance.LanceDataset | None, table: lance.LanceDataset) -> lance.LanceDataset:
    """Make the table what the job was resolved for, now that this run holds its lease.

    An empty one that nobody needs is made anew, with its rejects and manifest. Raises VistaError if another run
    changed the table since the job was resolved with `existing`.
    """
    schema, name = schema_of(job), job.column.name
    if existing is None and holds_nothing(table):
        for side in ("rejects", "objects"):
            left = open_dataset(job.config.side_table(side))
            if left is not None and left.count_rows():
                left.delete("true")
        return table if table.schema.equals(schema, check_metadata=True) else made_anew(table, schema)
    if settled(existing.schema if existing is not None else schema, name) != settled(table.schema, name) or (
        existing is not None and default_column(existing) != default_column(table)
    ):
        raise VistaError(CHANGED.format(uri=table.uri))
    if existing is None:  # a run of the same command was first
        check_columns(table.schema, schema, job.others)
    if name in table.schema.names and not names_encoder(table.schema.field(name)) and not job.config.reembed:
        log.warning("%s: a cast of `%s` dropped the name of its encoder, which is stored again", table.uri, name)
        table.update_field_metadata({name: {k.decode(): v.decode() for k, v in job.column.field.metadata.items()}})
        table = lance.dataset(table.uri)
    for each in () if job.config.reembed else job.kept:
        table = with_files(table, each.column)
    wider = pa.schema([field for field in job.source.extra if field.name in finished(table.schema).names])
    return allow_nulls(widen_to(table, wider))


def made_anew(table: lance.LanceDataset, schema: pa.Schema) -> lance.LanceDataset:
    """The empty table of a first run that failed with the columns of this run."""
    log.info("%s is empty and was never published, so it is made anew", table.uri)
    try:
        return overwrite(table, schema)
    except CommitConflictError as error:
        raise VistaError(CHANGED.format(uri=table.uri)) from error


def settled(schema: pa.Schema, column: str) -> tuple:
    """All that must not change in a schema between resolving a job and taking the lease."""
    columns = {each.name: each.metadata for each in schema if names_encoder(each) or each.name == column}
    return schema.metadata, columns


def open_manifest(job: Job, table: pa.Schema, run: str) -> Manifest:
    """The manifest of the files that are read."""
    uri = ensure_dataset(job.config.side_table("objects"), MANIFEST_SCHEMA).uri
    return Manifest(uri, Reading(reading_digest(job, table), run, job.versions, job.units_by_file))


def check_columns(table: pa.Schema, source: pa.Schema, others: Sequence[VectorColumn] = ()) -> None:
    """Say which columns only one side has, and which get a wider type. Raises UsageError for a type that can't be had.

    What passes through was fitted to the table already, so that can only be a column of the job's own.
    """
    table = finished(table)
    for field in source:
        if field.name not in table.names:
            log.warning(
                "column %s of the source is not in the table and is skipped; to have it, add it to the table: "
                'add_columns(pyarrow.field("%s", ...))',
                field.name,
                field.name,
            )
            continue
        stored = table.field(field.name).type
        if stored != field.type and not can_widen(stored, field.type):
            raise UsageError(
                f"column {field.name!r} is {field.type} in the source and {stored} in the table. Cast it in the "
                "source, or embed into another --table"
            )
        if stored != field.type:
            log.warning("column %s of the table is %s and becomes %s", field.name, stored, field.type)
    filled = {*source.names, *(name for each in others for name in (each.name, each.fingerprint))}
    if missing := [name for name in table.names if name not in filled]:
        log.warning("columns of the table that the source lacks are null in new rows: %s", ", ".join(missing))
