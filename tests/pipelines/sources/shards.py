"""Writes tar shards for tests, and reads them."""

import io
import pickle
import tarfile

import pyarrow as pa

from pipelines.records import read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.tabular import Tabular
from pipelines.sources.webdataset import WebDataset
from pipelines.storage.files import list_files

BLOCK = 512


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "elsewhere" if kind in (b"1", b"2") else ""
    return info


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, style: str = "ustar") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=FORMATS[style]) as archive:
        for item in members:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item)
            else:
                archive.addfile(member(item[0], len(item[1])), io.BytesIO(item[1]))
    return packed.getvalue()


def pair(key: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return (f"{key}.jpg", f"image of {key}".encode()), (f"{key}.txt", f"text of {key}".encode())


def pairs(*keys: str, style: str = "ustar") -> bytes:
    return tar(*(part for key in keys for part in pair(key)), style=style)


def open_shards(uri: str, like: pa.Schema | None = None, limits: Limits = DEFAULTS) -> Tabular:
    return Tabular.open(WebDataset.open(list_files(uri), like, limits), Columns(), uri)


def open_shard(
    store, *members, like: pa.Schema | None = None, limits: Limits = DEFAULTS, style: str = "ustar"
) -> Tabular:
    store.put("s.tar", tar(*members, style=style))
    return open_shards(store.root, like, limits)


def read(source: Tabular) -> tuple[list[dict], list[tuple]]:
    """The records that can be read; and shard, row, id, reason and message of the others."""
    records, rejected = [], []
    for unit in source.units():
        numbers = []
        for table, rejects in source.without_listing().read(pickle.loads(pickle.dumps(unit))):
            assert table.schema == read_schema(source.extra)
            for row, record in enumerate(table.to_pylist()):
                if row in rejects:
                    where = record["_object"].rpartition("/")[2]
                    rejected.append((where, record["_row"], record["id"], rejects[row].reason, rejects[row].message))
                else:
                    records.append(record)
                numbers.append(record["_row"])
        assert numbers == sorted(numbers)
    return records, rejected


def misfits(source: Tabular) -> list[tuple[str, str, str]]:
    """Id and column of each value that does not fit, and why."""
    return [
        (batch.table["__key__"][row].as_py(), column, message)
        for unit in source.units()
        for batch in source.format.batches(unit, source.layout.used)
        for row, found in batch.misfits.items()
        for column, message in found.items()
    ]


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


def reasons(rejected: list[tuple]) -> list[tuple]:
    return [(id_, reason) for _, _, id_, reason, _ in rejected]
