"""Tables without a source, a model or Ray: rows are written as a run commits them."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

from pipelines.tables.dataset import TableVersion, ensure_dataset, table_uri
from pipelines.tables.origin import Origin, marked
from pipelines.tables.transactions import replace_fragments, to_json, upsert
from tests.tables import COLUMN, vector_of

ORIGIN = Origin("vista-tiny")
SCHEMA = marked(
    pa.schema(
        [
            pa.field("id", pa.string()),
            COLUMN.field,
            pa.field("text", pa.string()),
            COLUMN.fingerprint_field,
            pa.field("_object", pa.string()),
            pa.field("_run", pa.string()),
        ]
    ),
    ORIGIN,
)


def rows(contents: Mapping[str, str], run: str = "run-1", file: str = "a.parquet") -> pa.Table:
    """Rows of the table, given as id to text."""
    texts = list(contents.values())
    columns = {
        "id": pa.array(list(contents), pa.string()),
        "vector": pa.array([vector_of(text).tolist() for text in texts], COLUMN.type),
        "text": pa.array(texts, pa.string()),
        "vector_fingerprint": pa.array([hashlib.md5(text.encode()).digest() for text in texts], pa.binary(16)),
        "_object": pa.repeat(file, len(texts)),
        "_run": pa.repeat(run, len(texts)),
    }
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def new_table(db: object) -> lance.LanceDataset:
    """The table `t` of a database, created without rows if there is none."""
    return ensure_dataset(table_uri(str(db), "t"), SCHEMA)


def write(db: object, contents: Mapping[str, str], run: str = "run-1") -> lance.LanceDataset:
    """Insert the rows, or replace those of the same ids, as a run does: in one commit, but for emptied fragments."""
    table = new_table(db)
    if not contents:
        return table
    by_fragment: dict[int, dict[str, int]] = {}
    for row in TableVersion(table.uri, table.version).find(list(contents)).to_pylist():
        by_fragment.setdefault(row["_rowaddr"] >> 32, {})[row["id"]] = row["_rowaddr"] & 0xFFFFFFFF
    changed = {key: table.get_fragment(key).delete_rows(ids.values()) for key, ids in by_fragment.items()}
    emptied = [key for key, fragment in changed.items() if fragment is None]
    if emptied:
        replaced = {each: contents[each] for key in emptied for each in by_fragment[key]}
        replace_fragments(table, emptied, fragments(table, rows(replaced, run)))
        return write(db, {key: text for key, text in contents.items() if key not in replaced}, run)
    return upsert(table, fragments(table, rows(contents, run)), to_json(changed.values()))


def nights(db: object, number: int, rows_each: int = 20) -> lance.LanceDataset:
    """A table of one small fragment for each night."""
    for each in range(number):
        table = write(db, {f"{each}-{row}": f"text {each} {row}" for row in range(rows_each)}, f"run-{each}")
    return table


def fragments(table: lance.LanceDataset, new: pa.Table) -> list[str]:
    """Fragments with these rows, written but not committed."""
    return to_json(write_fragments(new, table.uri, schema=new.schema, mode="append"))


def contents(table: lance.LanceDataset) -> dict[str, str]:
    """Id to text in this version of the table; fails if it has an id twice."""
    found = table.to_table(columns=["id", "text"]).to_pylist()
    assert len({row["id"] for row in found}) == len(found), "an id is in the table twice"
    return {row["id"]: row["text"] for row in found}


def tags(table: lance.LanceDataset) -> dict[str, int]:
    """Tag to version."""
    return {name: tag["version"] for name, tag in lance.dataset(table.uri).tags.list().items()}


def in_this_process(table: lance.LanceDataset) -> Callable[[list], list]:
    """Runs the tasks of a compaction one after the other."""
    return lambda tasks: [task.execute(table) for task in tasks]


def data_files(uri: str) -> set[str]:
    """The names of a local table's data files."""
    return {path.name for path in Path(uri, "data").iterdir()}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A table of two rows in each of two fragments."""
    for number in range(2):
        table = write(tmp_path, {f"a{number}": "x", f"b{number}": "y"}, f"run-{number}")
    return table.uri
