"""Lance tables of any storage version, with blobs, deletions and damage, become records."""

import datetime
import itertools
import pickle
import uuid
from collections.abc import Iterator

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lance.blob import blob_array, blob_field

from pipelines.cluster.child import ProcessLimits
from pipelines.records import read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.lance import Fragment, LanceTable, open_version, read_error
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.tabular import Tabular
from pipelines.storage.errors import SourceError
from pipelines.storage.uris import listing_order
from pipelines.tables.origin import Origin
from pipelines.tables.schema import table_schema
from tests.tables import COLUMN, DIMENSION
from vista_core import UsageError

TEXTS = pa.table({"id": [f"k{n}" for n in range(30)], "text": [f"text {n}" for n in range(30)]})
IMAGES = [b"one", b"", None, b"4" * 200_000]


def new_table(store, table: pa.Table = TEXTS, **options) -> str:
    uri = store.uri(f"{uuid.uuid4().hex}.lance")
    lance.write_dataset(table, uri, **options)
    return uri


def open_table(uri: str, limits: Limits = DEFAULTS) -> Tabular:
    return Tabular.open(LanceTable.open(uri, limits), Columns(), uri)


def batches(source) -> Iterator[tuple[pa.Table, dict]]:
    for unit in source.units():
        yield from pickle.loads(pickle.dumps(source.without_listing())).read(pickle.loads(pickle.dumps(unit)))


def read(source) -> tuple[list[dict], dict[tuple[str, int], str]]:
    """The records that could be read, and by file and row the messages of the others."""
    rows, reasons = [], {}
    for table, rejects in batches(source):
        assert table.schema == read_schema(source.extra)
        for number, row in enumerate(table.to_pylist()):
            if number in rejects:
                reasons[row["_object"], row["_row"]] = rejects[number].message
            else:
                rows.append(row)
    return rows, reasons


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


def data_file(store, uri: str) -> str:
    [name] = [name for name in store.fs.find(f"{uri}/data") if name.endswith(".lance")]
    return name


# What is read


def test_a_fragment_is_a_unit(store):
    uri = new_table(store, max_rows_per_file=12)
    source = open_table(uri)
    units = source.units()
    assert [(unit.uri, unit.rows, unit.version) for unit in units] == [
        (f"{uri}#{fragment}", rows, "1") for fragment, rows in enumerate([12, 12, 6])
    ]
    assert source.exact
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text", "_object", "_row") == [
        (f"k{n}", f"text {n}", f"{uri}#{n // 12}", n % 12) for n in range(30)
    ]


def test_fragments_come_in_the_order_of_their_numbers(local):
    source = open_table(new_table(local, max_rows_per_file=2))
    numbers = list(range(15))
    assert [unit.fragment for unit in source.units()] == numbers, "10 after 2"
    names = list(source.files())
    assert [int(name.rpartition("#")[2]) for name in names] == numbers
    assert names == sorted(names, key=listing_order)
    chosen = source.only({names[n] for n in (10, 2, 14)})
    assert [unit.fragment for unit in chosen.units()] == [2, 10, 14]
    rows, _ = read(source)
    assert columns(rows, "id") == columns(TEXTS.to_pylist(), "id")


def test_the_version_is_pinned_when_the_table_is_opened(store):
    uri = new_table(store)
    source = open_table(uri)
    assert "Lance table at version 1 (the latest), 1 fragment(s), 30 rows" in source.describe()
    lance.dataset(uri).delete("id < 'k2'")
    lance.write_dataset(TEXTS, uri, mode="append")
    rows, _ = read(source)
    assert columns(rows, "id") == columns(TEXTS.to_pylist(), "id")


def test_the_published_version_is_read(store):
    uri = new_table(store)
    lance.dataset(uri).tags.create("published", 1)
    lance.write_dataset(TEXTS, uri, mode="append")
    source = open_table(uri)
    assert "Lance table at version 1 (published), 1 fragment(s), 30 rows" in source.describe()
    assert len(read(source)[0]) == 30


def test_deleted_rows_are_neither_read_nor_numbered(store):
    """A fragment whose rows were all deleted is no unit."""
    uri = new_table(store, max_rows_per_file=10)
    lance.dataset(uri).delete("id IN ('k0', 'k5', 'k9') OR id LIKE 'k1_'")
    source = open_table(uri)
    assert [unit.rows for unit in source.units()] == [7, 10]
    rows, reasons = read(source)
    assert reasons == {}
    kept = [n for n in range(30) if n not in {0, 5, 9, *range(10, 20)}]
    assert columns(rows, "id") == [(f"k{n}",) for n in kept]
    assert columns(rows, "_row") == [(n,) for n in [*range(7), *range(10)]]


def image_column(encoding: str) -> tuple[pa.Field, pa.Array]:
    if encoding == "blob v2":
        return blob_field("image", dedicated_size_threshold=100_000), blob_array(IMAGES)
    metadata = {"lance-encoding:blob": "true"} if encoding == "blob v1" else None
    return pa.field("image", pa.large_binary(), metadata=metadata), pa.array(IMAGES, pa.large_binary())


@pytest.mark.parametrize(
    ("encoding", "version"),
    [("plain", "2.0"), ("plain", "2.1"), ("blob v1", "2.1"), ("plain", "2.2"), ("blob v2", "2.2")],
)
def test_images_are_read_as_bytes_whatever_their_encoding(store, encoding, version):
    field, images = image_column(encoding)
    table = pa.table([pa.array(["a", "b", "c", "d"]), images], schema=pa.schema([pa.field("id", pa.string()), field]))
    source = open_table(new_table(store, table, data_storage_version=version))
    assert source.layout.image == "image"
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "image") == list(zip("abcd", IMAGES, strict=True))


def test_a_table_of_this_job_can_be_its_source(local):
    extra = pa.schema([("price", pa.float64())])
    schema = table_schema(extra, COLUMN, Origin("vista-tiny"), image_uri=True, store_images=True)
    row = {"id": "a", "text": "x", "image": b"1", "image_uri": "a.jpg", "vector": [0.5] * DIMENSION, "price": 1.5}
    uri = new_table(local, pa.Table.from_pylist([row], schema=schema))
    source = open_table(uri)
    assert source.roles == {"id": "id", "text": "text", "image": "image"}
    assert source.extra == extra
    assert set(source.layout.left_out) == set(schema.names) - {"id", "text", "image", "price"}
    rows, _ = read(source)
    assert columns(rows, "id", "text", "image", "price") == [("a", "x", b"1", 1.5)]


def test_extension_types_are_read_as_their_storage_types(local):
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    source = open_table(new_table(local, pa.table({"text": ["x", "y"], "tensor": tensor})))
    assert source.extra.field("tensor").type == pa.list_(pa.float32(), 4)
    [batch] = source.format.batches(source.units()[0], ["tensor"])
    assert batch.table.schema.field("tensor") == source.format.schema.field("tensor")
    rows, _ = read(source)
    assert columns(rows, "tensor") == [([0, 1, 2, 3],), ([4, 5, 6, 7],)]


def test_a_table_without_rows_has_no_units(local):
    source = open_table(new_table(local, TEXTS.slice(0, 0)))
    assert source.units() == []


@pytest.mark.parametrize(("batch_bytes", "first"), [(10_000, 16), (20_000, 20), (1 << 20, 64)])
def test_the_size_of_the_first_batch_follows_from_what_is_stored(local, batch_bytes, first):
    """At most 64 rows, since they may be compressed."""
    images = [np.random.default_rng(row).bytes(1000) for row in range(100)]
    table = LanceTable.open(new_table(local, pa.table({"image": images})), Limits(batch_bytes=batch_bytes))
    [unit] = table.units()
    assert len(next(table.batches(unit, ["image"])).table) == pytest.approx(first, abs=1)


@settings(max_examples=20)
@given(
    runs=st.lists(st.tuples(st.integers(1, 120), st.integers(0, 300)), min_size=1, max_size=4),
    ceiling=st.integers(1, 20_000),
)
def test_the_size_of_a_batch_follows_from_the_one_before(tmp_path_factory, runs, ceiling):
    sizes = [size for rows, size in runs for _ in range(rows)]
    uri = str(tmp_path_factory.mktemp("bounded") / "t.lance")
    lance.write_dataset(pa.table({"image": [bytes(size) for size in sizes]}), uri)
    rows = LanceTable.open(uri, Limits(batch_bytes=ceiling, batch_rows=100))
    found = [batch for unit in rows.units() for batch in rows.batches(unit, ["image"])]
    tables = [batch.table for batch in found]
    assert [len(image) for table in tables for image in table["image"].to_pylist()] == sizes
    assert [row for batch in found for row in batch.rows] == list(range(len(sizes)))
    assert len(tables[0]) <= 64
    for before, after in itertools.pairwise(tables):
        mean = sum(len(image) for image in before["image"].to_pylist()) / len(before)
        assert len(after) <= max(16, min(100, 4 * len(before)))
        assert len(after) <= 16 or len(after) * mean <= ceiling


# What goes wrong


def test_the_message_for_a_missing_table_says_what_to_check(store):
    store.put("folder/a.txt", b"")
    for path in ("folder", "nothing.lance"):
        with pytest.raises(UsageError, match=rf"--source .*{path}: .*no Lance table is there\. Check "):
            open_table(store.uri(path))


def test_a_damaged_manifest_is_a_usage_error(local):
    uri = new_table(local)
    [manifest] = local.fs.find(f"{uri}/_versions", withdirs=False)[:1]
    local.fs.pipe_file(manifest, b"nonsense")
    with pytest.raises(UsageError, match=r"cannot be opened: .*sufficient data, .*nonsense"):
        open_table(uri)


def test_wrong_credentials_are_reported(faulty_bucket, monkeypatch):
    uri = proxied_table(faulty_bucket)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UsageError, match=r"(?s)403 Forbidden.*Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        open_table(uri)


def test_damage_rejects_the_rest_of_its_fragment_only(store):
    table = pa.table({"id": [f"k{n}" for n in range(400)], "text": [f"text of {n}" for n in range(400)]})
    uri = new_table(store, table, data_storage_version="2.0", max_rows_per_file=300)
    name = next(file.path for file in lance.dataset(uri).get_fragment(0).data_files())
    content = store.fs.cat_file(f"{uri}/data/{name}")
    assert content.count(b"text of 250") == 1
    store.fs.pipe_file(f"{uri}/data/{name}", content.replace(b"text of 250", b"\xff" * 11))
    rows, reasons = read(open_table(uri))
    kept = [row for row in columns(rows, "_object", "_row") if row[0].endswith("#0")]
    assert kept == [(f"{uri}#0", n) for n in range(len(kept))]
    assert 16 <= len(kept) <= 250, "what was read before is kept"
    assert len(rows) - len(kept) == 100, "the other fragment is whole"
    assert list(reasons) == [(f"{uri}#0", n) for n in range(len(kept), 300)]
    assert all("invalid utf-8" in reason and ".rs:" not in reason for reason in reasons.values())


def test_damage_that_aborts_the_process_rejects_its_fragment_only(local):
    uri = new_table(local, TEXTS, data_storage_version="2.2", max_rows_per_file=20)
    name = next(file.path for file in lance.dataset(uri).get_fragment(1).data_files())
    content = bytearray(local.fs.cat_file(f"{uri}/data/{name}"))
    content[-13] = 0xFF  # the footer now speaks of four billion buffers, for which Lance asks for 64 GiB
    local.fs.pipe_file(f"{uri}/data/{name}", bytes(content))
    rows, reasons = read(open_table(uri).apart(ProcessLimits(seconds=60, memory=2 << 30)))
    assert columns(rows, "id") == [(f"k{n}",) for n in range(20)]
    assert list(reasons) == [(f"{uri}#1", n) for n in range(10)]
    assert all("the process died of SIGABRT: memory allocation of 6" in reason for reason in reasons.values())


@pytest.mark.parametrize(("version", "size"), [("2.1", 1000), ("2.2", 20_000)])
def test_each_row_of_a_file_that_is_cut_or_overwritten_is_read_or_rejected_once(store, version, size):
    """Lance reads parts of a large file, but all of a small one; the errors differ."""
    rng = np.random.default_rng(0)
    table = TEXTS.append_column("image", pa.array([rng.bytes(size) for _ in range(30)]))
    uri = new_table(store, table, data_storage_version=version)
    source, name = open_table(uri), data_file(store, uri)
    good = store.fs.cat_file(name)
    for at in (*range(0, len(good), len(good) // 8), len(good) - 100):
        for bad in (good[:at], good[:at] + b"\xff" * 3000 + good[at + 3000 :]):
            store.fs.pipe_file(name, bad[: len(good)])
            open_version.cache_clear()
            numbers = [number for table, _ in batches(source) for number in table["_row"].to_pylist()]
            assert numbers == list(range(30))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # A blob with a damaged address, such as 2^63. Which byte that is, is up to Lance.
        ("External error: LanceError(IO): Generic LocalFileSystem error: Invalid (os error 22)", pa.ArrowInvalid),
        ("LanceError(IO): Generic S3 error: 416 Range Not Satisfiable", pa.ArrowInvalid),
        ("LanceError(IO): Generic S3 error: connection reset", SourceError),
        ("Not found: t.lance/data/1.lance", SourceError),
    ],
)
def test_messages_of_lance_tell_damage_from_a_failing_store(message, expected):
    unit = Fragment(uris=("t.lance#0",), version="1", rows=1, fragment=0)
    error = read_error(unit, pa.ArrowInvalid(message + ", /home/x/rust/lance.rs:12:3"))
    assert type(error) is expected
    assert message in str(error)
    assert ".rs:" not in str(error)


def test_a_data_file_that_is_gone_ends_the_run(store):
    uri = new_table(store)
    source = open_table(uri)
    store.fs.rm_file(data_file(store, uri))
    with pytest.raises(SourceError, match=r"#0 at version 1: .*Not found: .*was cleaned up.*run .* again"):
        read(source)


def test_a_version_that_was_cleaned_up_ends_the_run(local):
    uri = new_table(local)
    source = open_table(uri)
    units = source.units()
    lance.write_dataset(TEXTS, uri, mode="overwrite").cleanup_old_versions(datetime.timedelta(0))
    open_version.cache_clear()
    with pytest.raises(SourceError, match=r"at version 1: .*[Nn]ot found.*was cleaned up"):
        list(source.read(units[0]))


def test_a_table_that_was_replaced_ends_the_run(local):
    uri = new_table(local, max_rows_per_file=10)
    source = open_table(uri)
    units = source.units()
    local.fs.rm(uri, recursive=True)
    lance.write_dataset(TEXTS, uri)
    open_version.cache_clear()
    with pytest.raises(SourceError, match="#2 at version 1: Not found: fragment 2"):
        list(source.read(units[2]))


def proxied_table(faulty_bucket) -> str:
    uri = faulty_bucket.uri("t.lance")
    table = pa.table({"id": ["a"] * 200, "image": [bytes([n]) * 5000 for n in range(200)]})
    lance.write_dataset(table, uri, storage_options={"aws_endpoint": faulty_bucket.proxy.url})
    return uri


@pytest.mark.parametrize(("failure", "message"), [("403", "privileges"), ("401", "credentials"), ("cut", "Generic S3")])
def test_a_failing_store_is_not_taken_for_damage(faulty_bucket, failure, message):
    """A later run can read the rows. Rejecting them would lose them."""
    source = open_table(proxied_table(faulty_bucket))
    [unit] = source.units()
    faulty_bucket.proxy.fail(failure)
    with pytest.raises(SourceError, match=rf"#0 at version 1: .*{message}.*run the same command again.*AWS_"):
        list(source.read(unit))
