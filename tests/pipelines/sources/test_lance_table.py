"""A Lance table of which version ever, with blobs, deletions and damage, becomes records."""

import datetime
import http.client
import itertools
import json
import pickle
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lance.blob import blob_array, blob_field

from pipelines.records import read_schema, table_schema
from pipelines.sources import lance_table
from pipelines.sources.columns import Columns
from pipelines.sources.lance_table import LanceTable
from pipelines.sources.objects import SourceError
from pipelines.sources.tabular import Tabular
from tests.s3 import S3
from vista_core import UsageError

TEXTS = pa.table({"id": [f"k{n}" for n in range(30)], "text": [f"text {n}" for n in range(30)]})
IMAGES = [b"one", b"", None, b"4" * 200_000]


def new_table(store, table: pa.Table = TEXTS, **options) -> str:
    uri = store.uri(f"{uuid.uuid4().hex}.lance")
    lance.write_dataset(table, uri, **options)
    return uri


def open_table(uri: str) -> Tabular:
    return Tabular.open(LanceTable.open(uri), Columns(), uri)


def batches(source) -> Iterator[tuple[pa.Table, dict]]:
    for unit in source.units():
        yield from pickle.loads(pickle.dumps(source.without_listing())).read(json.loads(json.dumps(unit)))


def read(source) -> tuple[list[dict], dict[tuple[str, int], str]]:
    """The records that could be read, and by object and row why the others could not."""
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
    assert [(unit["object"], unit["rows"], unit["version"]) for unit in units] == [
        (f"{uri}#{fragment}", rows, "1") for fragment, rows in enumerate([12, 12, 6])
    ]
    assert source.exact
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text", "_object", "_row") == [
        (f"k{n}", f"text {n}", f"{uri}#{n // 12}", n % 12) for n in range(30)
    ]


def test_the_version_is_pinned_when_the_table_is_opened(store):
    uri = new_table(store)
    source = open_table(uri)
    assert "Lance table at version 1 (the latest), 1 fragment(s), 30 rows" in source.describe()
    lance.dataset(uri).delete("id < 'k2'")
    lance.write_dataset(TEXTS, uri, mode="append")
    rows, _ = read(source)
    assert columns(rows, "id") == columns(TEXTS.to_pylist(), "id")


def test_readers_of_a_table_read_what_is_published(store):
    uri = new_table(store)
    lance.dataset(uri).tags.create("published", 1)
    lance.write_dataset(TEXTS, uri, mode="append")
    source = open_table(uri)
    assert "Lance table at version 1 (published), 1 fragment(s), 30 rows" in source.describe()
    assert len(read(source)[0]) == 30


def test_deleted_rows_are_neither_read_nor_numbered(store):
    """Nor is a fragment of which nothing is left."""
    uri = new_table(store, max_rows_per_file=10)
    lance.dataset(uri).delete("id IN ('k0', 'k5', 'k9') OR id LIKE 'k1_'")
    source = open_table(uri)
    assert [unit["rows"] for unit in source.units()] == [7, 10]
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
def test_images_come_as_bytes_however_they_are_encoded(store, encoding, version):
    field, images = image_column(encoding)
    table = pa.table([pa.array(["a", "b", "c", "d"]), images], schema=pa.schema([pa.field("id", pa.string()), field]))
    source = open_table(new_table(store, table, data_storage_version=version))
    assert source.layout.image == "image"
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "image") == list(zip("abcd", IMAGES, strict=True))


def test_a_table_of_this_job_can_be_its_source(local):
    extra = pa.schema([("price", pa.float64())])
    schema = table_schema(extra, 4, image_uri=True, store_images=True)
    row = {"id": "a", "text": "x", "image": b"1", "image_uri": "a.jpg", "vector": [0.5] * 4, "price": 1.5}
    uri = new_table(local, pa.Table.from_pylist([row], schema=schema))
    source = open_table(uri)
    assert source.roles == {"id": "id", "text": "text", "image": "image"}
    assert source.extra == extra
    assert set(source.layout.left_out) == set(schema.names) - {"id", "text", "image", "price"}
    rows, _ = read(source)
    assert columns(rows, "id", "text", "image", "price") == [("a", "x", b"1", 1.5)]


def test_extension_types_are_read_as_what_they_are_stored_as(local):
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


@settings(max_examples=20)
@given(
    runs=st.lists(st.tuples(st.integers(1, 120), st.integers(0, 300)), min_size=1, max_size=4),
    ceiling=st.integers(1, 20_000),
)
def test_a_batch_is_bounded_by_what_the_last_one_held(tmp_path_factory, runs, ceiling):
    sizes = [size for rows, size in runs for _ in range(rows)]
    uri = str(tmp_path_factory.mktemp("bounded") / "t.lance")
    lance.write_dataset(pa.table({"image": [bytes(size) for size in sizes]}), uri)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance_table, "BATCH_BYTES", ceiling)
        patch.setattr(lance_table, "BATCH_ROWS", 100)
        tables = [table for table, _ in batches(open_table(uri))]
    assert [len(image) for table in tables for image in table["image"].to_pylist()] == sizes
    assert [row for table in tables for row in table["_row"].to_pylist()] == list(range(len(sizes)))
    assert len(tables[0]) <= 16
    for before, after in itertools.pairwise(tables):
        mean = sum(len(image) for image in before["image"].to_pylist()) / len(before)
        assert len(after) <= max(16, min(100, 4 * len(before)))
        assert len(after) <= 16 or len(after) * mean <= ceiling


# What goes wrong


def test_what_is_no_table_is_named_with_the_cure(store):
    store.put("folder/a.txt", b"")
    for path in ("folder", "nothing.lance"):
        with pytest.raises(UsageError, match=rf"--source .*{path}: .*no Lance table is there\. Check "):
            LanceTable.open(store.uri(path))


def test_a_manifest_that_is_damaged_is_a_usage_error(local):
    uri = new_table(local)
    [manifest] = local.fs.find(f"{uri}/_versions", withdirs=False)[:1]
    local.fs.pipe_file(manifest, b"nonsense")
    with pytest.raises(UsageError, match=r"cannot be opened: .*sufficient data, .*nonsense"):
        LanceTable.open(uri)


def test_credentials_that_are_wrong_are_said_to_be(proxy, monkeypatch):
    uri = proxy.new_table()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UsageError, match=r"(?s)403 Forbidden.*Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        LanceTable.open(uri)


def test_damage_costs_the_rest_of_its_fragment(store):
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


@pytest.mark.parametrize(("version", "size"), [("2.1", 1000), ("2.2", 20_000)])
def test_each_row_of_a_file_that_is_cut_or_overwritten_is_read_or_rejected_once(store, version, size):
    """Of a large file Lance asks for parts, a small one it reads whole: the errors are others."""
    rng = np.random.default_rng(0)
    table = TEXTS.append_column("image", pa.array([rng.bytes(size) for _ in range(30)]))
    uri = new_table(store, table, data_storage_version=version)
    source, name = open_table(uri), data_file(store, uri)
    good = store.fs.cat_file(name)
    for at in (*range(0, len(good), len(good) // 8), len(good) - 100):
        for bad in (good[:at], good[:at] + b"\xff" * 3000 + good[at + 3000 :]):
            store.fs.pipe_file(name, bad[: len(good)])
            lance_table.open_version.cache_clear()
            numbers = [number for table, _ in batches(source) for number in table["_row"].to_pylist()]
            assert numbers == list(range(30))


def test_an_address_that_is_damaged_is_no_failure_of_the_disk(local, monkeypatch):
    """A blob that is said to begin at 2^63: which byte says so is Lance's affair, the message is one of its."""
    source = open_table(new_table(local))

    def fail(*args, **options):
        raise pa.ArrowInvalid("External error: LanceError(IO): Generic LocalFileSystem error: Invalid (os error 22)")

    monkeypatch.setattr(lance.LanceFragment, "to_table", fail)
    rows, reasons = read(source)
    assert (len(rows), len(reasons)) == (0, 30)


def test_a_data_file_that_is_gone_ends_the_run(store):
    uri = new_table(store)
    source = open_table(uri)
    store.fs.rm_file(data_file(store, uri))
    with pytest.raises(SourceError, match=r"#0 at version 1: .*Not found: .*cleaned up meanwhile.*run .* again"):
        read(source)


def test_a_version_that_was_cleaned_up_ends_the_run(local):
    uri = new_table(local)
    source = open_table(uri)
    units = source.units()
    lance.write_dataset(TEXTS, uri, mode="overwrite").cleanup_old_versions(datetime.timedelta(0))
    lance_table.open_version.cache_clear()
    with pytest.raises(SourceError, match=r"at version 1: .*[Nn]ot found.*cleaned up meanwhile"):
        list(source.read(units[0]))


def test_a_table_that_was_made_anew_ends_the_run(local):
    uri = new_table(local, max_rows_per_file=10)
    source = open_table(uri)
    units = source.units()
    local.fs.rm(uri, recursive=True)
    lance.write_dataset(TEXTS, uri)
    lance_table.open_version.cache_clear()
    with pytest.raises(SourceError, match="#2 at version 1: Not found: fragment 2"):
        list(source.read(units[2]))


class Proxy:
    """Stands before the S3 server and fails as told. A bucket of its own: Lance keeps what it knows of an endpoint."""

    def __init__(self, s3: S3) -> None:
        self.s3, self.bucket, self.failure = s3, f"b{uuid.uuid4().hex}", ""
        s3.fs.mkdir(self.bucket)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def new_table(self) -> str:
        uri = f"s3://{self.bucket}/t.lance"
        table = pa.table({"id": ["a"] * 200, "image": [bytes([n]) * 5000 for n in range(200)]})
        lance.write_dataset(table, uri, storage_options={"aws_endpoint": self.url})
        return uri


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *args) -> None:
        pass

    def handle_request(self) -> None:
        request = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.proxy.failure.isdigit():
            self.send_response(int(self.proxy.failure))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server = http.client.HTTPConnection(self.proxy.s3.endpoint.removeprefix("http://"))
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            server.putheader(name, value)
        server.endheaders(request)
        answer = server.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.close_connection = self.proxy.failure == "cut"
        self.wfile.write(content[: len(content) // 2] if self.close_connection else content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815


@pytest.fixture
def proxy(s3, monkeypatch) -> Iterator[Proxy]:
    proxy = Proxy(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    thread = threading.Thread(target=proxy.server.serve_forever)
    thread.start()
    yield proxy
    proxy.server.shutdown()
    thread.join()
    proxy.server.server_close()


@pytest.mark.parametrize(("failure", "message"), [("403", "privileges"), ("401", "credentials"), ("cut", "Generic S3")])
def test_a_store_that_fails_is_no_damage(proxy, failure, message):
    """A retry mends it; rejecting the rows would lose them."""
    source = open_table(proxy.new_table())
    [unit] = source.units()
    proxy.failure = failure
    with pytest.raises(SourceError, match=rf"#0 at version 1: .*{message}.*run the same command again.*AWS_"):
        list(source.read(unit))
