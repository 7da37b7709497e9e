"""Arrow IPC files of both kinds, whole, cut off and damaged, become records."""

import dataclasses
import io
import json
import pickle
import uuid
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.records import read_schema
from pipelines.sources.arrow import ArrowFiles
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.tabular import Tabular
from pipelines.storage.errors import SourceChangedError, SourceError
from pipelines.storage.files import list_files
from vista_core import UsageError

KINDS = {"stream": ipc.new_stream, "file": ipc.new_file}
TEXTS = pa.table({"id": [f"k{n}" for n in range(30)], "text": [f"text ü {n}" for n in range(30)]})
IMAGES = [{"bytes": b"one", "path": "1.jpg"}, {"bytes": b"two", "path": None}, None]


def encoded(table: pa.Table, kind: str = "stream", batch: int = 10, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with KINDS[kind](sink, table.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue().to_pybytes()


def boundaries(table: pa.Table, kind: str) -> list[int]:
    """The positions after the schema and after each batch of 10 rows."""
    sink = pa.BufferOutputStream()
    with KINDS[kind](sink, table.schema) as writer:
        found = [sink.tell()]
        for batch in table.to_batches(10):
            writer.write_batch(batch)
            found.append(sink.tell())
    return found


def batches(source) -> Iterator[tuple[pa.Table, dict]]:
    for unit in source.units():
        yield from pickle.loads(pickle.dumps(source.without_listing())).read(pickle.loads(pickle.dumps(unit)))


def read(source) -> tuple[list[dict], dict[int, str]]:
    """The records that could be read, and by row the messages of the others."""
    rows, reasons = [], {}
    for table, rejects in batches(source):
        assert table.schema == read_schema(source.extra)
        for number, row in enumerate(table.to_pylist()):
            if number in rejects:
                assert rejects[number].reason == "object_unreadable"
                reasons[row["_row"]] = rejects[number].message
            else:
                rows.append(row)
    return rows, reasons


def open_bytes(store, content: bytes) -> Tabular:
    store.put("data.arrow", content)
    return open_source(store.root, Columns())


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


# What is read


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("kind", KINDS)
def test_streams_and_files_with_a_footer_are_read(store, kind, compression):
    source = open_bytes(store, encoded(TEXTS, kind, compression=compression))
    rows, reasons = read(source)
    assert reasons == {}
    expected = [(f"k{n}", f"text ü {n}", store.uri("data.arrow"), n) for n in range(30)]
    assert columns(rows, "id", "text", "_object", "_row") == expected
    assert not source.exact


def test_the_legacy_layout_is_read(local):
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, TEXTS.schema, options=ipc.IpcWriteOptions(use_legacy_format=True)) as writer:
        writer.write_table(TEXTS)
    rows, reasons = read(open_bytes(local, sink.getvalue().to_pybytes()))
    assert (len(rows), reasons) == (30, {})


def test_a_dataset_saved_by_hugging_face_datasets_is_read(store):
    label = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": pa.array(IMAGES), "caption": ["x", "y", "z"], "label": [0, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": label}})})
    for split in ("train", "test"):
        for shard in (0, 1):
            store.put(f"{split}/data-{shard:05}-of-00002.arrow", encoded(table))
        store.put(f"{split}/cache-3f2a91.arrow", encoded(pa.table({"length": [1]})))
        store.put(f"{split}/dataset_info.json", b"{}")
        store.put(f"{split}/state.json", b"{}")
    source = open_source(store.root, Columns())
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "image", "image_uri", "text", "label") == 4 * [
        (b"one", "1.jpg", "x", 0),
        (b"two", None, "y", 1),
        (None, None, "z", 0),
    ]
    said = "; ".join(source.describe())
    assert "4 Arrow file(s)" in said
    assert "skipped 2 cache file(s) of `Dataset.map`: cache-3f2a91.arrow, cache-3f2a91.arrow" in said


def test_a_cache_file_is_read_if_it_is_named(local):
    local.put("cache-1.arrow", encoded(TEXTS))
    with pytest.raises(UsageError, match=r"all files are called cache-\*; to read one, name it"):
        open_source(local.root, Columns())
    for uri in ("cache-1.arrow", "cache-*.arrow"):
        rows, _ = read(open_source(local.uri(uri), Columns()))
        assert len(rows) == 30


def test_each_image_of_a_list_is_a_row(local):
    table = pa.table({"id": ["a", "b"], "images": pa.array([IMAGES[:2], []])})
    rows, _ = read(open_bytes(local, encoded(table)))
    assert columns(rows, "id", "image") == [("a#0", b"one"), ("a#1", b"two"), ("b#0", None)]


def test_categories_may_differ_from_batch_to_batch(local):
    chunks = [pa.array(part).dictionary_encode() for part in (["a", "b"], ["c", "a"])]
    rows, reasons = read(open_bytes(local, encoded(pa.table({"text": pa.chunked_array(chunks)}))))
    assert (columns(rows, "text"), reasons) == ([("a",), ("b",), ("c",), ("a",)], {})


def test_extension_types_are_read_by_what_they_mean(local):
    ids = pa.array([bytes([n]) * 16 for n in range(2)], pa.uuid())
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    nested = pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1, 2], ids)], ["ids"])
    table = pa.table({"text": ["x", "y"], "code": ids, "tensor": tensor, "nested": nested})
    rows, reasons = read(open_bytes(local, encoded(table)))
    assert reasons == {}
    one, two = (str(uuid.UUID(bytes=bytes([n]) * 16)) for n in range(2))
    assert columns(rows, "code", "tensor", "nested") == [
        (one, [0, 1, 2, 3], {"ids": [one]}),
        (two, [4, 5, 6, 7], {"ids": [two]}),
    ]


FRAME = pl.DataFrame(
    {
        "id": [f"k{n}" for n in range(500)],
        "text": [f"text ü {n}" if n % 7 else None for n in range(500)],
        "shop": pl.Series([f"shop {n % 170}" for n in range(500)], dtype=pl.Categorical),
        "size": pl.Series([["S", "M", "L"][n % 3] for n in range(500)], dtype=pl.Enum(["S", "M", "L"])),
        "tags": pl.Series([["a", f"{n}"] for n in range(500)], dtype=pl.List(pl.Categorical)),
        "price": pl.Series([f"{n}.25" for n in range(500)]).cast(pl.Decimal(12, 2)),
        "offer": [{"shop": f"s{n}", "sizes": [n]} for n in range(500)],
    }
)


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("kind", ["write_ipc", "write_ipc_stream", "oldest"])
def test_files_written_by_polars_are_read(local, kind, compression):
    """Its files have no stream: the schema in front has no length, and dictionaries are behind the batches."""
    sink = io.BytesIO()
    if kind == "write_ipc_stream":
        FRAME.write_ipc_stream(sink, compression=compression)
    else:
        level = pl.CompatLevel.oldest() if kind == "oldest" else None
        FRAME.write_ipc(sink, compression=compression, compat_level=level, record_batch_size=120)
    source = open_bytes(local, sink.getvalue())
    rows, reasons = read(source)
    assert reasons == {}
    assert [{name: row[name] for name in FRAME.columns} for row in rows] == FRAME.to_dicts()


def test_wherever_a_file_of_polars_is_cut_or_damaged_no_row_is_lost_without_a_reject(local):
    sink = io.BytesIO()
    FRAME.write_ipc(sink, record_batch_size=120)
    whole = bytearray(sink.getvalue())
    local.put("0.arrow", encoded(TEXTS))
    for at in range(0, len(whole), 211):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        for content in (changed, whole[:at]):
            local.put("1.arrow", bytes(content))
            rows, reasons = read(open_source(local.root, Columns()))
            assert len(rows) == len(TEXTS) + len(FRAME) or reasons


@pytest.mark.parametrize("kind", KINDS)
def test_deltas_of_dictionaries_are_read(local, kind):
    def batch(codes: list[int], *values: str) -> pa.RecordBatch:
        return pa.record_batch({"text": pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), list(values))})

    parts = [batch([0, 1], "a", "b"), batch([2, 0], "a", "b", "c"), batch([3], "a", "b", "c", "d")]
    sink = pa.BufferOutputStream()
    with KINDS[kind](sink, parts[0].schema, options=ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as writer:
        for part in parts:
            writer.write(part)
    rows, reasons = read(open_bytes(local, sink.getvalue().to_pybytes()))
    assert (columns(rows, "text"), reasons) == ([("a",), ("b",), ("c",), ("a",), ("d",)], {})


def test_feather_of_version_1_is_refused_with_the_cure(local):
    local.put("a.feather", b"FEA1" + bytes(100) + b"FEA1")
    with pytest.raises(UsageError, match="Feather version 1, which isn't read: write it anew as version 2"):
        open_source(local.root, Columns())


def test_nulls_in_a_non_nullable_column_are_read(local):
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    rows, reasons = read(open_bytes(local, encoded(pa.table({"text": ["x", None]}, schema=schema))))
    assert (columns(rows, "text"), reasons) == ([("x",), (None,)], {})


def test_rows_are_estimated_from_the_size_of_files(local):
    table = pa.table({"image": [bytes(1000)] * 500})
    for name, rows in (("a", 500), ("b", 50), ("c", 0)):
        local.put(f"{name}.arrow", encoded(table.slice(0, rows), batch=100))
    units = open_source(local.root, Columns()).units()
    assert [round(unit.rows, -1) for unit in units] == [500, 50, 0]
    assert units[2].rows == 1, "an empty file is read, too"


@settings(max_examples=30)
@given(rows=st.integers(1, 60), image_size=st.integers(0, 300), ceiling=st.integers(1, 2000))
def test_a_batch_is_bounded_in_bytes_and_rows(tmp_path_factory, rows, image_size, ceiling):
    path = tmp_path_factory.mktemp("bounded") / "a.arrow"
    path.write_bytes(encoded(pa.table({"image": [bytes([n]) * image_size for n in range(rows)]}), batch=1000))
    source = open_source(str(path), Columns(), limits=Limits(batch_bytes=ceiling, batch_rows=20))
    tables = [table for table, _ in batches(source)]
    assert [row for table in tables for row in table["_row"].to_pylist()] == list(range(rows))
    sizes = [len(table) for table in tables]
    assert max(sizes) <= 20
    assert max(sizes) <= 16 or max(sizes) * image_size <= ceiling


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_read_in_large_parts(faulty_bucket, kind):
    source = open_bytes(faulty_bucket, encoded(pa.table({"image": [bytes(100_000)] * 200}), kind, batch=5))
    [unit] = source.units()
    faulty_bucket.proxy.requests.clear()
    assert sum(len(table) for table, _ in source.read(unit)) == 200
    assert 3 <= len(faulty_bucket.proxy.requests) <= 6, "20 MB in parts of 8 MB, and the footer"


# Damage


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_a_file_is_cut_its_whole_batches_are_read_and_the_rest_is_one_reject(local, kind):
    content, ends = encoded(TEXTS, kind), boundaries(TEXTS, kind)
    source = open_bytes(local, content)
    for size in {*range(0, len(content), 7), *ends, len(content) - 1}:
        local.put("data.arrow", content[:size])
        cut = dataclasses.replace(source, format=dataclasses.replace(source.format, listing=list_files(local.root)))
        rows, reasons = read(cut)
        whole = 10 * max(0, sum(end <= size for end in ends) - 1)
        assert columns(rows, "id", "_row") == [(f"k{n}", n) for n in range(whole)]
        assert list(reasons) == [whole], f"cut to {size} bytes"
        assert local.uri("data.arrow") in reasons[whole]


def test_a_missing_end_marker_is_one_reject_and_loses_no_row(local):
    rows, reasons = read(open_bytes(local, encoded(TEXTS).removesuffix(b"\xff\xff\xff\xff\0\0\0\0")))
    assert len(rows) == 30
    assert "no end-of-stream marker" in reasons[30]


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_in_the_middle_are_not_the_end(local, kind):
    content, ends = bytearray(encoded(TEXTS, kind)), boundaries(TEXTS, kind)
    content[ends[1] + 4 : ends[1] + 8] = bytes(4)
    rows, reasons = read(open_bytes(local, bytes(content)))
    assert len(rows) == 10
    assert list(reasons) == [10]
    assert ("follow its end-of-stream marker" if kind == "stream" else "1 of its 3 record batches") in reasons[10]


def stored_at(content: bytearray, value: bytes) -> int:
    assert content.count(value) == 1
    return content.index(value)


def test_invalid_values_reject_their_own_rows_only(local):
    table = pa.table({"id": TEXTS["id"], "image": [{"bytes": b"%3d" % n, "path": f"path{n:02}"} for n in range(30)]})
    content = bytearray(encoded(table))
    content[stored_at(content, b"path07")] = 0xFF  # no UTF-8
    offsets = np.arange(11, dtype=np.int32) * 3
    at = content.index(offsets.tobytes()) + 4 * 4
    content[at : at + 4] = b"\xff\xff\xff\x7f"  # an image that begins at 2 GB
    rows, reasons = read(open_bytes(local, bytes(content)))
    assert list(reasons) == [3, 4, 7]
    assert "Invalid UTF8" in reasons[7]
    assert columns(rows, "id", "image") == [(f"k{n}", b"%3d" % n) for n in range(30) if n not in (3, 4, 7)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0x7F, 0xFF])
def test_whatever_byte_is_damaged_no_row_is_lost_without_a_reject(local, value, kind):
    table = pa.table(
        {
            "id": TEXTS["id"],
            "image": [{"bytes": b"1", "path": "p"}] * 30,
            "kind": pa.array(["a", "b", None] * 10).dictionary_encode(),
            "tags": [["x"], [], None] * 10,
        }
    )
    content = encoded(table, kind)
    source = open_bytes(local, content)
    for at in range(0, len(content), 5):
        local.put("data.arrow", content[:at] + bytes([value]) + content[at + 1 :])
        damaged = dataclasses.replace(source, format=dataclasses.replace(source.format, listing=list_files(local.root)))
        seen = list(batches(damaged))
        numbers = [number for table, _ in seen for number in table["_row"].to_pylist()]
        assert numbers == list(range(len(numbers))), f"byte {at}"
        assert len(numbers) >= 30 or any(rejects for _, rejects in seen), f"byte {at}"


def test_a_source_without_any_readable_file_is_a_usage_error(store):
    store.put("1.arrow", b"")
    with pytest.raises(UsageError, match=r"no readable Arrow file: .*1\.arrow"):
        open_source(store.root, Columns())


def test_a_damaged_file_costs_only_itself(local):
    local.put("1.arrow", b"damaged")
    local.put("2.arrow", encoded(TEXTS))
    rows, reasons = read(open_source(local.root, Columns()))
    assert len(rows) == 30
    assert list(reasons) == [0]


def test_a_file_that_is_replaced_after_listing_is_not_read(store):
    source = open_bytes(store, encoded(TEXTS))
    [unit] = source.units()
    store.put("data.arrow", encoded(TEXTS.slice(1)))
    with pytest.raises(SourceChangedError, match=r"data\.arrow changed"):
        list(source.read(unit))


def test_a_failing_store_is_not_taken_for_damage(faulty_bucket):
    source = open_bytes(faulty_bucket, encoded(TEXTS))
    [unit] = source.units()
    faulty_bucket.proxy.fail("501", "READ")
    with pytest.raises(SourceError, match=r"\.arrow: OSError.*Not Implemented.*AWS_"):
        list(source.read(unit))


def test_workers_are_sent_no_listing(local):
    for number in range(50):
        local.put(f"{number}.arrow", encoded(TEXTS))
        local.put(f"cache-{number}.arrow", b"")
    source = ArrowFiles.open(list_files(local.root), DEFAULTS)
    assert len(source.units()) == 50
    assert source.without_listing().listing.files == source.without_listing().caches == ()
