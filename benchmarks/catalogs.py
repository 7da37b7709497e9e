"""Write one catalog in every supported format, for tests and for the benchmark of reading sources.

A catalog is a table with the columns `id`, `text` or `title`, `image` (bytes, or Hugging Face's struct of bytes and
path), and others.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import lance
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

ROWS = 128  # rows in each row group, shard, fragment or record batch

Rows = list[dict[str, Any]]


def rows_of(catalog: pa.Table) -> Rows:
    """The records of a catalog as dicts with `id`, `text`, `image` (bytes or None) and the other columns."""
    texts = [name for name in ("text", "title") if name in catalog.column_names]
    rows = []
    for row in catalog.to_pylist():
        image = row.pop("image")
        row["text"] = row.pop(texts[0])
        row["image"] = image["bytes"] if isinstance(image, dict) else image
        rows.append(row)
    return rows


def put(destination: str, name: str, content: bytes) -> str:
    """Write a file to a local folder or object storage; returns its URI."""
    fs, path = fsspec.url_to_fs(f"{destination}/{name}", **({} if "://" in destination else {"auto_mkdir": True}))
    fs.pipe_file(path, content)
    return f"{destination}/{name}"


def image_name(row: dict[str, Any]) -> str:
    """Path of a record's image file, relative to the catalog."""
    return f"images/{row['id']}.png"


def put_images(rows: Rows, destination: str) -> None:
    """Write each image to a file of its own."""
    for row in rows:
        if row["image"] is not None:
            put(destination, image_name(row), row["image"])


def with_names(rows: Rows) -> pa.Table:
    """The records as a table with the paths of the images instead of their bytes."""
    paths = [image_name(row) if row["image"] is not None else None for row in rows]
    named = [row | {"image_path": path} for row, path in zip(rows, paths, strict=True)]
    return pa.Table.from_pylist(named).drop_columns(["image"])


def parts(table: pa.Table) -> Iterator[pa.Table]:
    """Slices of the table with at most ROWS rows each."""
    for start in range(0, len(table), ROWS):
        yield table.slice(start, ROWS)


def parquet(rows: Rows, destination: str) -> str:
    """Parquet with inline images."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=ROWS)
    return put(destination, "catalog.parquet", file.getvalue())


def parquet_uris(rows: Rows, destination: str) -> str:
    """Parquet with paths of image files."""
    put_images(rows, destination)
    file = io.BytesIO()
    pq.write_table(with_names(rows), file, row_group_size=ROWS)
    return put(destination, "catalog.parquet", file.getvalue())


def jsonl(rows: Rows, destination: str) -> str:
    """JSON lines with paths of image files."""
    put_images(rows, destination)
    lines = [json.dumps(row, ensure_ascii=False) for row in with_names(rows).to_pylist()]
    return put(destination, "catalog.jsonl", "\n".join(lines).encode())


def csv(rows: Rows, destination: str) -> str:
    """CSV with paths of image files; nested columns are left out."""
    put_images(rows, destination)
    table = with_names(rows)
    flat = [name for name in table.column_names if not pa.types.is_nested(table.schema.field(name).type)]
    file = io.BytesIO()
    pa.csv.write_csv(table.select(flat), file)
    return put(destination, "catalog.csv", file.getvalue())


def webdataset(rows: Rows, destination: str) -> str:
    """WebDataset: tar shards with one .png, .txt and .json file for each record."""
    for start in range(0, len(rows), ROWS):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for row in rows[start : start + ROWS]:
                others = {name: value for name, value in row.items() if name not in ("text", "image")}
                members = {
                    "png": row["image"],
                    "txt": (row["text"] or "").encode(),
                    "json": json.dumps(others).encode(),
                }
                for ending, content in members.items():
                    if content:
                        member = tarfile.TarInfo(f"{row['id']}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        put(destination, f"{start // ROWS:05}.tar", file.getvalue())
    return f"{destination}/*.tar"


def folder(rows: Rows, destination: str) -> str:
    """A folder of image files, with texts in .txt files of the same names; records without an image are left out."""
    for row in rows:
        if row["image"] is not None:
            put(destination, f"{row['id']}.png", row["image"])
            if row["text"]:
                put(destination, f"{row['id']}.txt", row["text"].encode())
    return destination


def lance_table(rows: Rows, destination: str) -> str:
    """A Lance table with inline images."""
    uri = f"{destination}/catalog.lance"
    lance.write_dataset(pa.Table.from_pylist(rows), uri, max_rows_per_file=ROWS)
    return uri


def arrow(rows: Rows, destination: str) -> str:
    """An Arrow folder as written by `save_to_disk` of Hugging Face datasets."""
    structs = [row | {"image": row["image"] and {"bytes": row["image"], "path": None}} for row in rows]
    table = pa.Table.from_pylist(structs)
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        for part in parts(table):
            writer.write_table(part)
    put(destination, "dataset_info.json", b"{}")
    put(destination, "state.json", b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    put(destination, "data-00000-of-00001.arrow", file.getvalue())
    return destination


WRITERS: dict[str, Callable[[Rows, str], str]] = {
    "parquet": parquet,
    "parquet_uris": parquet_uris,
    "webdataset": webdataset,
    "jsonl": jsonl,
    "csv": csv,
    "folder": folder,
    "lance": lance_table,
    "arrow": arrow,
}
FORMS = tuple(WRITERS)


def write(catalog: pa.Table, form: str, destination: str) -> str:
    """Write the catalog to `destination` in one of FORMS; returns the value for --source."""
    return WRITERS[form](rows_of(catalog), destination)


def catalog_id(form: str, key: str, number: int) -> str:
    """The id that the job gives to the catalog's record `number` (from 0) with id `key`, read from this form."""
    return {"webdataset": f"{number // ROWS:05}/{key}", "folder": f"{key}.png"}.get(form, key)
