"""Folders that are tables of Delta Lake, Iceberg or Hudi.

Their Parquet files must not be read one by one: overwritten and deleted rows are still in some of them, and only the
table's log says which of them are current.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from botocore.exceptions import BotoCoreError

from pipelines.sources.partitions import base_folder
from pipelines.storage.files import Listing
from pipelines.storage.uris import filesystem, folders_of
from vista_core import UsageError

DELTA, HUDI, ICEBERG = "Delta Lake", "Hudi", "Iceberg"
LOGS = {"_delta_log": DELTA, ".hoodie": HUDI, "metadata": ICEBERG}
ICEBERG_LOG = ".metadata.json"  # the ending of files in `metadata`
EXPORT = (
    "export it to Parquet files with an engine that reads it, such as DuckDB: "
    "COPY (SELECT * FROM {scan}) TO 'catalog.parquet'"
)


def refuse_table_files(listing: Listing, chosen: Listing) -> None:
    """Raise UsageError if one of the files `chosen` from `listing` is a part of a table."""
    tables = dict(tables_at(places(listing)))
    for file in chosen.files if tables else ():
        for folder in folders_of(file.uri):
            if folder in tables:
                raise UsageError(refusal(listing.uri, folder, tables[folder]))


def refusal(source: str, folder: str, kind: str) -> str:
    """Why the files of a table are not read, with the cure."""
    said = f"--source {source}: the files in {folder} are those of a table of {kind}, of which not all are current"
    if kind == DELTA:
        return f"{said}: name the table itself, --source {folder}"
    scan = {HUDI: "...", ICEBERG: f"iceberg_scan('{folder}')"}[kind]
    cure = EXPORT.format(scan=scan) if kind == ICEBERG else "export it to Parquet files, such as with Spark"
    return f"{said}: {cure}"


def places(listing: Listing) -> Iterator[str]:
    """Where the logs of tables may be: those that were seen in the listing, and in the folder that it is a part of."""
    yield from listing.logs
    base = base_folder(listing.root)
    yield from (f"{base}/{name}" for name in LOGS)
    if base.endswith("/data"):  # of Iceberg
        yield f"{base.removesuffix('/data')}/metadata"


def tables_at(logs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The folders of the tables that have one of these logs, each with its kind."""
    for log in dict.fromkeys(logs):
        folder, _, name = log.rpartition("/")
        if is_log(log, LOGS[name]):
            yield folder, LOGS[name]


def is_log(uri: str, kind: str) -> bool:
    """True if a folder is there, and is the log of a table."""
    fs, path = filesystem(uri)
    try:
        if kind != ICEBERG:
            return bool(fs.isdir(path))
        return any(str(name).endswith(ICEBERG_LOG) for name in fs.ls(path, detail=False))
    except (OSError, BotoCoreError):
        return False  # who lists the source will say it
