"""A Delta Lake table: the Parquet files of its current version, which its log names."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from pipelines.sources.format import checked
from pipelines.sources.limits import Limits
from pipelines.sources.parquet import Parquet
from pipelines.sources.partitions import Partitions
from pipelines.sources.table_formats import DELTA, is_log
from pipelines.storage.errors import credentials_hint
from pipelines.storage.files import Listing, list_files
from vista_core import UsageError

# What a reader of a table has to know. Deletion vectors and column mapping may be allowed but not used.
FEATURES = {"timestampNtz", "deletionVectors", "columnMapping", "v2Checkpoint", "vacuumProtocolCheck"}
FEATURES |= {"typeWidening", "typeWidening-preview"}
PARTITION = "partition."
REWRITE = "rewrite it without, or export it to Parquet files"


def open_delta(uri: str, limits: Limits) -> tuple[Parquet, Partitions, str] | None:
    """The files of the table at `uri`, its partition columns, and a line for the user; None if it is no such table.

    Raises UsageError for a table that can't be read as it is.
    """
    if fsspec.core.has_magic(uri) or not is_log(f"{uri.rstrip('/')}/_delta_log", DELTA):
        return None
    table = opened(uri)
    refuse_features(uri, table)
    actions = pa.table(table.get_add_actions(flatten=True))
    if not len(actions):
        raise UsageError(f"--source {uri}: version {table.version()} of the {DELTA} table has no rows")
    listing = list_files(uri, limits.link_targets)  # after the version was chosen, so that its files are there
    there = {file.uri: file for file in listing.files}
    active = {file_uri(listing, path.as_py()): row for row, path in enumerate(actions["path"])}
    if missing := sorted(set(active) - set(there)):
        raise UsageError(
            f"--source {uri}: {missing[0]} is a file of version {table.version()} of the table, and not there: it was "
            "removed while the table was opened, or is elsewhere, as in a shallow clone. Run again, or copy the table"
        )
    chosen = listing.of(file for file in listing.files if file.uri in active)
    names = table.metadata().partition_columns
    schema = pa.schema(table.schema().to_arrow())
    parts = [actions[PARTITION + name] for name in names]
    values = {name: tuple(part[row].as_py() for part in parts) for name, row in active.items()}
    partitions = Partitions(pa.schema([schema.field(name) for name in names]), values)
    columns = checked(pa.schema([field for field in schema if field.name not in names]), limits)
    current = f"{len(chosen.files):,} of the {len(listing.files):,} files are current"
    return Parquet(chosen, limits, columns), partitions, f"{DELTA} table at version {table.version()}: {current}"


def opened(uri: str) -> Any:
    """The current version of the table."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise UsageError(
            f"--source {uri} is a {DELTA} table, for which a package is missing: pip install '.[delta]'"
        ) from error
    try:
        return DeltaTable(uri, storage_options=storage_options(uri))
    except (DeltaError, OSError, ValueError) as error:
        cause = " ".join(str(error).split()).rstrip(".")
        raise UsageError(
            f"--source {uri}: the {DELTA} table cannot be opened: {cause}. {credentials_hint(uri)}"
        ) from error


def storage_options(uri: str) -> dict[str, str]:
    """How to reach the store, by the same variables as for other sources. deltalake reads the credentials itself."""
    if not uri.startswith("s3://"):
        return {}
    options = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
    if endpoint.startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["AWS_REGION"] = region
    return options


def refuse_features(uri: str, table: Any) -> None:
    """Raise UsageError if the table's files alone don't have its rows and columns."""
    needed = set(table.protocol().reader_features or ())
    if unknown := sorted(needed - FEATURES):
        raise UsageError(f"--source {uri}: the {DELTA} table needs {', '.join(unknown)}, which isn't read: {REWRITE}")
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise UsageError(f"--source {uri}: the {DELTA} table has column mapping, which isn't read: {REWRITE}")
    if "deletionVectors" in needed and has_deletion_vectors(table):
        raise UsageError(
            f"--source {uri}: the {DELTA} table has deletion vectors, which aren't read: apply them with "
            "REORG TABLE ... APPLY (PURGE), or export it to Parquet files"
        )


def has_deletion_vectors(table: Any) -> bool:
    """True if rows of a file are deleted, or if it can't be found out, such as with an older deltalake."""
    from deltalake.exceptions import DeltaError

    try:
        return any(len(pa.record_batch(batch)) for batch in table.deletion_vectors())
    except (AttributeError, DeltaError):
        return True


def file_uri(listing: Listing, path: str) -> str:
    """The URI of a file that the log names: its path in the table, or an absolute one, percent-encoded."""
    path = unquote(path)
    return path.removeprefix("file://") if "://" in path or path.startswith("/") else f"{listing.root}/{path}"
