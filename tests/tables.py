"""Encoded records in the form in which they reach the write step, made without a source or a model."""

import hashlib

import lance
import numpy as np
import pyarrow as pa

from pipelines.batch_stats import BatchStats, FileCounts
from pipelines.events import Events, Listener
from pipelines.fingerprint import fingerprint
from pipelines.ingest.commit import Committer, Target
from pipelines.ingest.fragments import Bundle, Replacement, Written, write_bundle
from pipelines.ingest.manifest import MANIFEST_SCHEMA, Manifest, Reading
from pipelines.reasons import REASONS
from pipelines.records import DECODED_FIELDS, FINGERPRINT, FLOW_FIELDS, READ_FIELDS, REJECT_SCHEMA, VECTOR
from pipelines.tables.dataset import TableVersion, ensure_dataset, table_uri
from pipelines.tables.lease import Holder, Lease
from pipelines.tables.origin import Origin
from pipelines.tables.runs import Runs
from pipelines.tables.schema import table_schema
from pipelines.tables.vector_column import VectorColumn
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
COLUMN = VectorColumn("vector", IDENTITY)
EXTRA = pa.schema([("price", pa.int64())])
NO_RUNS = Runs("/there/is/no/t_runs.lance")


def run_id(number: int) -> str:
    """A run id as a run gets it; they sort by `number`."""
    return f"20260101T{number:012}-0000"


def vector_of(text: str) -> np.ndarray:
    """A unit vector that depends only on the text, like the vector of an encoder."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def block(contents: dict[str, str] | list[tuple[str, str]], file: str = "a.parquet") -> pa.Table:
    """Encoded records with these ids and texts."""
    rows = list(contents.items()) if isinstance(contents, dict) else contents
    values = {
        "id": pa.array([key for key, _ in rows], pa.string()),
        "text": pa.array([text for _, text in rows], pa.string()),
        "_object": pa.repeat(file, len(rows)),
        "_row": pa.array(range(len(rows)), pa.int64()),
        "price": pa.array([1] * len(rows), pa.int64()),
        "modality": pa.repeat("text", len(rows)),
        "truncated": pa.array([False] * len(rows)),
        FINGERPRINT: pa.array([fingerprint(text, None) for _, text in rows], pa.binary(16)),
        VECTOR: pa.FixedSizeListArray.from_arrays(
            pa.array(np.array([vector_of(text) for _, text in rows], np.float16).reshape(-1)), DIMENSION
        ),
    }
    return _table(values, len(rows))


def with_other_columns_changed(table: pa.Table, price: int) -> pa.Table:
    """The records as `select` marks them if only other columns changed: without a vector of their own."""
    nothing = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(table) * DIMENSION, np.float16)), DIMENSION)
    values = {
        "_has_vector": pa.repeat(True, len(table)),
        "price": pa.repeat(price, len(table)),
        VECTOR: nothing,
        "modality": pa.nulls(len(table), pa.string()),
        "truncated": pa.nulls(len(table), pa.bool_()),
    }
    for name, column in values.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def rejected(ids: list[str], file: str = "a.parquet", reason: str = "image_undecodable") -> pa.Table:
    """Records with these ids that an earlier stage rejected."""
    reject = REASONS[reason].reject("not an image")
    table = block(dict.fromkeys(ids, ""), file)
    for name, value in (("_reason", reject.reason), ("_stage", reject.stage), ("_message", reject.message)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.repeat(value, len(ids)))
    return table


def stats(
    read: int,
    unchanged: dict[int, int] | None = None,
    file: str = "a.parquet",
    ended: bool = False,
    checksum: int = 0,
) -> pa.Table:
    """The batch statistics of a unit. `unchanged` maps rows of the file to table addresses; `checksum` is theirs."""
    unchanged = unchanged or {}
    value = BatchStats(
        files=[FileCounts(file, read, 0, len(unchanged), checksum)],
        unchanged_addresses=list(unchanged.values()),
        unchanged_rows=list(unchanged),
        unchanged_files=[0] * len(unchanged),
        ended=[file] if ended else [],
    )
    return value.row(SCHEMA)


def schema_of(extra: pa.Schema) -> pa.Schema:
    """The schema of encoded records at the end of the flow."""
    decoded = [field for field in DECODED_FIELDS if field.name in ("modality", "truncated")]
    vector = pa.field(VECTOR, pa.list_(pa.float16(), DIMENSION))
    return pa.schema([*READ_FIELDS, *extra, *FLOW_FIELDS, *decoded, vector])


SCHEMA = schema_of(EXTRA)


def _table(values: dict, rows: int) -> pa.Table:
    return pa.table([values.get(f.name, pa.nulls(rows, f.type)) for f in SCHEMA], schema=SCHEMA)


class Unfenced(Lease):
    """A lease that is never checked, so that a test can have several writers of one table."""

    def __init__(self, run: str) -> None:
        super().__init__(Holder.this_process(run))

    def check(self, table: lance.LanceDataset) -> None:
        pass


def new_target(
    db: object, run: str, extra: pa.Schema = EXTRA, reading: Reading | None = None, keep_stale: bool = False
) -> Target:
    """The table `db`/t with its rejects and manifest, created if they are missing."""
    table = ensure_dataset(table_uri(str(db), "t"), table_schema(extra, COLUMN, Origin("vista-tiny")))
    rejects = ensure_dataset(table_uri(str(db), "t_rejects"), REJECT_SCHEMA)
    manifest = ensure_dataset(table_uri(str(db), "t_objects"), MANIFEST_SCHEMA)
    reading = reading or Reading("reading", run, {}, {})
    return Target(table, COLUMN, rejects, Manifest(manifest.uri, reading), keep_stale)


def new_committer(
    db: object,
    run: str = "run-1",
    extra: pa.Schema = EXTRA,
    reading: Reading | None = None,
    keep_stale: bool = False,
    listener: Listener | None = None,
    lease: Lease | None = None,
) -> Committer:
    """A committer on the table `db`/t, which is created if it is missing. `listener` receives each event."""
    events = Events([listener] if listener else [])
    return Committer(new_target(db, run, extra, reading, keep_stale), lease or Unfenced(run), events)


def append_foreign(committer: Committer, rows: list[dict]) -> lance.LanceDataset:
    """Append rows as another LanceDB client does: columns that it leaves out are null, the job's own included."""
    table = lance.dataset(committer.base.uri)
    return lance.write_dataset(pa.Table.from_pylist(rows, schema=table.schema), table.uri, mode="append")


def address(version: TableVersion | Committer, key: str) -> int:
    """The address of an id in a version of the table; for a committer, in the version that it builds on."""
    if isinstance(version, Committer):
        version = TableVersion(version.table.uri, version.table.version)
    [found] = version.find([key])["_rowaddr"].to_pylist()
    return found


def commit(committer: Committer, *blocks: pa.Table) -> None:
    """Commit blocks as the driver does, without Ray."""

    def write(bundle: Bundle) -> Written | Replacement:
        return write_bundle(bundle, *blocks)

    committer.commit(write)


def contents(committer: Committer) -> dict[str, str]:
    """The text of each id in the latest version; fails if an id occurs twice."""
    rows = lance.dataset(committer.table.uri).to_table(columns=["id", "text"]).to_pylist()
    found = {row["id"]: row["text"] for row in rows}
    assert len(found) == len(rows), "an id is in the table twice"
    return found


def reject_reasons(committer: Committer) -> list[tuple[str, str]]:
    """The id and reason of every reject."""
    rows = lance.dataset(committer.rejects.uri).to_table().to_pylist()
    return sorted((row["id"], row["reason"]) for row in rows)
