"""Blocks as they arrive at the sink, without a source or a model: what tests of the sink are made of."""

import hashlib

import lance
import numpy as np
import pyarrow as pa

from pipelines.records import FLOW_FIELDS, READ_FIELDS, REJECT_SCHEMA, TALLY_TYPE, Reject, fingerprint, table_schema
from pipelines.sink.commit import Committer
from pipelines.sink.fragments import Bundle, Refill, Written, write_bundle
from pipelines.sink.lease import Holder, Lease
from pipelines.sink.read_objects import ReadObjects
from pipelines.sink.table import TableVersion, ensure_dataset, new_table_schema, table_uri
from vista_core import EncoderIdentity

DIMENSION = 8
IDENTITY = EncoderIdentity(
    model="vista-tiny",
    weights="0" * 64,
    tokenizer="1" * 64,
    config="2" * 64,
    dtype="float32",
    preprocessing=1,
    alpha="drop",
    max_tokens=(128, 112),
    dimension=DIMENSION,
)
EXTRA = pa.schema([("price", pa.int64())])


def vector_of(text: str) -> np.ndarray:
    """A unit vector that depends on the text alone, as an encoder's does."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def block(contents: dict[str, str] | list[tuple[str, str]], source_object: str = "a.parquet") -> pa.Table:
    """Encoded records, (id, text) each."""
    rows = list(contents.items()) if isinstance(contents, dict) else contents
    values = {
        "id": pa.array([key for key, _ in rows], pa.string()),
        "text": pa.array([text for _, text in rows], pa.string()),
        "_object": pa.repeat(source_object, len(rows)),
        "_row": pa.array(range(len(rows)), pa.int64()),
        "price": pa.array([1] * len(rows), pa.int64()),
        "modality": pa.repeat("text", len(rows)),
        "truncated": pa.array([False] * len(rows)),
        "vector_fingerprint": pa.array([fingerprint(text, None) for _, text in rows], pa.binary(16)),
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(np.array([vector_of(text) for _, text in rows], np.float16).reshape(-1)), DIMENSION
        ),
    }
    return _table(values, len(rows))


def with_other_columns_changed(table: pa.Table, price: int) -> pa.Table:
    """Records as `select` marks them whose content is that of the table: no stage gave them a vector."""
    nothing = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(table) * DIMENSION, np.float16)), DIMENSION)
    values = {
        "_has_vector": pa.repeat(True, len(table)),
        "price": pa.repeat(price, len(table)),
        "vector": nothing,
        "modality": pa.nulls(len(table), pa.string()),
        "truncated": pa.nulls(len(table), pa.bool_()),
    }
    for name, column in values.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def rejected(ids: list[str], source_object: str = "a.parquet", reason: str = "image_undecodable") -> pa.Table:
    """Records that an earlier stage rejected."""
    reject = Reject("decode", reason, "not an image")
    table = block(dict.fromkeys(ids, ""), source_object)
    for name, value in (("_reason", reject.reason), ("_stage", reject.stage), ("_message", reject.message)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.repeat(value, len(ids)))
    return table


def tally(
    read: int,
    unchanged: dict[int, int] | None = None,
    source_object: str = "a.parquet",
    ended: bool = False,
    digest: int = 0,
) -> pa.Table:
    """What a unit counted; `unchanged` maps rows of the object to addresses in the table, `digest` is theirs."""
    unchanged = unchanged or {}
    share = {"object": source_object, "read": read, "claims": 0, "unchanged": len(unchanged), "digest": digest}
    value = {
        "objects": [share],
        "unchanged_addresses": list(unchanged.values()),
        "unchanged_rows": list(unchanged),
        "unchanged_objects": [0] * len(unchanged),
        "ended": [source_object] if ended else [],
    }
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(DIMENSION, np.float16)), DIMENSION)
    return _table({"_tally": pa.array([value], TALLY_TYPE), "vector": vector}, 1)


def _table(values: dict, rows: int) -> pa.Table:
    fields = [
        *READ_FIELDS,
        *EXTRA,
        *FLOW_FIELDS,
        pa.field("modality", pa.string()),
        pa.field("truncated", pa.bool_()),
        pa.field("vector", pa.list_(pa.float16(), DIMENSION)),
    ]
    schema = pa.schema(fields)
    return pa.table([values.get(f.name, pa.nulls(rows, f.type)) for f in schema], schema=schema)


class Unfenced(Lease):
    """The lease of a writer that shares the table with others: what those of another make do."""

    def __init__(self, run: str) -> None:
        super().__init__(Holder.this_process(run))

    def check(self, table: lance.LanceDataset) -> None:
        pass


def new_committer(db: object, run: str = "run-1", extra: pa.Schema = EXTRA, keep_stale: bool = False) -> Committer:
    """A committer on the table `db`/t, created where it is missing."""
    schema = new_table_schema(
        table_schema(extra, DIMENSION, image_uri=False, store_images=False), IDENTITY, {"model": "vista-tiny"}
    )
    table = ensure_dataset(table_uri(str(db), "t"), schema)
    rejects = ensure_dataset(table_uri(str(db), "t_rejects"), REJECT_SCHEMA)
    objects = ReadObjects(table_uri(str(db), "t_objects"), "reading", run, {}, {})
    return Committer(table, rejects, objects, Unfenced(run), keep_stale)


def address(version: TableVersion | Committer, key: str) -> int:
    """Where a version of the table, by default the one that a committer stands on, has an id."""
    if isinstance(version, Committer):
        version = TableVersion(version.table.uri, version.table.version)
    [found] = version.find([key])["_rowaddr"].to_pylist()
    return found


def commit(committer: Committer, *blocks: pa.Table) -> None:
    """What the driver does with blocks that arrived, less Ray."""

    def write(bundle: Bundle) -> Written | Refill:
        return write_bundle(bundle, *blocks)

    committer.commit(write)


def contents(committer: Committer) -> dict[str, str]:
    """id to text at the latest version; fails if an id is there twice."""
    rows = lance.dataset(committer.table.uri).to_table(columns=["id", "text"]).to_pylist()
    found = {row["id"]: row["text"] for row in rows}
    assert len(found) == len(rows), "an id is in the table twice"
    return found


def reject_reasons(committer: Committer) -> list[tuple[str, str]]:
    """(id, reason) of every reject."""
    rows = lance.dataset(committer.rejects.uri).to_table().to_pylist()
    return sorted((row["id"], row["reason"]) for row in rows)
