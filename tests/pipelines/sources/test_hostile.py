"""Small files that claim, or unpack to, far more than they hold cost their own rows, in bounded time and memory."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.limits import DEFAULTS, Limits
from tests.pipelines.sources.shards import BLOCK, member, pairs, tar
from vista_core import UsageError

GOOD = pa.table({"id": ["good"], "text": ["x"]})
SMALL = Limits(batch_memory=1 << 20, batch_stored=1 << 20, batch_bytes=1 << 16, row_bytes=1 << 17, parsed_bytes=1 << 20)
# Reads a source, and says what came of it and how much memory that took.
READ = """
import json, re, sys
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
records, reasons = 0, []
source = open_source(sys.argv[1], Columns())
open("/proc/self/clear_refs", "w").write("5")
for unit in source.units():
    for table, rejects in source.read(unit):
        records += len(table)
        reasons += [reject.reason for reject in rejects.values()]
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
print(json.dumps([records, sorted(set(reasons)), peak]))
"""


def parquet(table: pa.Table, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: pa.Table, codec: str | None = "zstd") -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def long_value(rows: int, size: int) -> pa.DictionaryArray:
    """The same long string in each row."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * size]))


def read(uri: str, limits: Limits = DEFAULTS) -> tuple[list[dict], list[tuple[str, str]]]:
    """The records, and reasons and messages of the rejects. Each batch of records is within the limits."""
    records, rejected = [], []
    source = open_source(uri, Columns(), limits=limits)
    for unit in source.units():
        for table, rejects in source.read(unit):
            assert table.nbytes < max(limits.batch_bytes, limits.row_bytes) + 1000 * len(table)
            good = [row for row in range(len(table)) if row not in rejects]
            records += table.take(pa.array(good, pa.int64())).to_pylist()
            rejected += [(reject.reason, reject.message) for reject in rejects.values()]
    return records, rejected


def beside_a_good_file(local, suffix: str, content: bytes, good: bytes, limits: Limits) -> tuple[str, str]:
    """Reason and message of the one reject of a file, beside a good one, which is read."""
    local.put(f"0{suffix}", good)
    local.put(f"1{suffix}", content)
    records, [reject] = read(local.root, limits)
    assert [record["text"] for record in records] == ["x"]
    return reject


# Memory, in a process of its own


def bomb_dictionary() -> bytes:
    texts = {"id": [f"k{n}" for n in range(1500)], "text": long_value(1500, 1_000_000)}
    return parquet(pa.table(texts), store_schema=False)


def bomb_page() -> bytes:
    table = pa.table({"id": ["a"], "text": ["x" * (520 << 20)]})
    return parquet(table, compression="zstd", use_dictionary=False, write_statistics=False)


def bomb_arrow() -> bytes:
    return arrow(pa.table({"id": ["a"], "text": ["x" * (520 << 20)]}))


@pytest.mark.parametrize(
    ("suffix", "make", "outcome"),
    [
        (".parquet", bomb_dictionary, [1500, []]),
        (".parquet", bomb_page, [1, ["object_unreadable"]]),
        (".arrow", bomb_arrow, [1, ["object_unreadable"]]),
    ],
)
def test_a_file_of_some_kilobytes_takes_less_than_a_gigabyte(local, suffix, make, outcome):
    local.put("bomb" + suffix, make())
    assert local.fs.size(local.uri("bomb" + suffix)) < 100_000
    # What the allocator keeps a while for its next use differs by 200 MB from run to run: it returns memory at once.
    command, environment = [sys.executable, "-c", READ, local.root], os.environ | {"MIMALLOC_PURGE_DELAY": "0"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    *found, megabytes = json.loads(said.stdout)
    assert found == outcome
    assert megabytes < 1000


# Parquet and Arrow


@pytest.mark.parametrize("store_schema", [True, False])
def test_a_long_value_of_a_dictionary_is_read_in_few_rows_at_once(local, store_schema):
    texts = {"id": [f"k{n}" for n in range(500)], "text": long_value(500, 50_000)}
    local.put("a.parquet", parquet(pa.table(texts), store_schema=store_schema))
    records, rejected = read(local.root, SMALL)
    assert [record["id"] for record in records] == texts["id"]
    assert {record["text"] for record in records} == {"x" * 50_000}
    assert rejected == []


def test_rows_that_become_long_late_in_a_row_group_are_read_in_few_rows_at_once(local):
    texts = ["y"] * 3000 + ["x" * 50_000] * 20
    table = pa.table({"id": [f"k{n}" for n in range(len(texts))], "text": texts})
    local.put("a.parquet", parquet(table, compression="zstd", use_dictionary=False, data_page_size=100_000))
    records, rejected = read(local.root, SMALL)
    assert [record["text"] for record in records] == texts
    assert rejected == []


@pytest.mark.parametrize("encode", [arrow, parquet])
def test_a_row_with_many_references_to_a_long_value_is_rejected(local, encode):
    tags = pa.ListArray.from_arrays(pa.array([0, 300, 300], pa.int32()), long_value(300, 50_000))
    local.put(f"a.{encode.__name__}", encode(pa.table({"id": ["a", "b"], "text": ["x", "y"], "tags": tags})))
    records, rejected = read(local.root, SMALL)
    assert [record["id"] for record in records] == ["b"]
    assert rejected == [("text_too_large", "its values take 15,000,002 bytes; at most 131,072 are read")]


def test_views_of_one_long_value_are_read_in_few_rows_at_once(local):
    _, view, value = pa.array(["x" * 50_000], pa.string_view()).buffers()
    views = pa.Array.from_buffers(pa.string_view(), 100, [None, pa.py_buffer(view.to_pybytes()[:16] * 100), value])
    local.put("a.arrow", arrow(pa.table({"id": [f"k{n}" for n in range(100)], "text": views})))
    records, rejected = read(local.root, SMALL)
    assert (len(records), rejected) == (100, [])


def test_a_record_with_too_many_images_is_rejected(local):
    images = pa.array([[None] * 2000, [b"1", b"2"]], pa.list_(pa.binary()))
    local.put("a.parquet", parquet(pa.table({"id": ["a", "b"], "image": images})))
    records, rejected = read(local.root)
    assert [record["id"] for record in records] == ["b#0", "b#1"]
    assert rejected == [("several_images", "it has 2,000 images; the limit is 1,000")]


def test_a_text_is_not_repeated_beyond_the_limit_for_the_images_of_its_record(local):
    images = pa.array([[b"1"] * 900, [b"1"]], pa.list_(pa.binary()))
    local.put("a.parquet", parquet(pa.table({"id": ["a", "b"], "text": ["x" * 1000] * 2, "image": images})))
    records, [(reason, _)] = read(local.root, SMALL)
    assert ([record["id"] for record in records], reason) == (["b#0"], "text_too_large")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: arrow(pa.table({"id": ["a"], "text": ["x" * 2_000_000]})), "a record batch unpacks to 2,000,"),
        (lambda: arrow(pa.table({"id": ["a"], "text": ["x" * 2_000_000]}), None), "a record batch has 2,000,"),
        (lambda: arrow(pa.table({"id": ["a"], "text": long_value(1, 2_000_000)})), "a record batch unpacks to 2,000,"),
        (lambda: arrow(pa.table({"nothing": pa.nulls(10**6)})), "it claims 1,000,000 rows; a file of"),
    ],
)
def test_an_arrow_batch_beyond_the_limits_costs_its_file(local, content, message):
    reason, said = beside_a_good_file(local, ".arrow", content(), arrow(GOOD), SMALL)
    assert reason == "object_unreadable"
    assert message in said


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (pa.table({"text": ["x" * 2_000_000]}), {"use_dictionary": False}, "a page of text unpacks to 2,000,"),
        (pa.table({"text": ["x" * 2_000_000]}), {}, "a page of text unpacks to 2,000,"),
        (pa.table({"text": ["x"] * 200}), {"row_group_size": 1}, "it has 200 row groups; at most 100 are read"),
        (pa.table({"text": pa.nulls(10**6, pa.string())}), {}, "it claims 1,000,000 rows; a file of"),
    ],
)
def test_a_parquet_file_beyond_the_limits_is_one_reject(local, table, options, message):
    limits = Limits(batch_memory=1 << 20, row_groups=100)
    content = parquet(table, compression="zstd", **options)
    reason, said = beside_a_good_file(local, ".parquet", content, parquet(GOOD), limits)
    assert reason == "object_unreadable"
    assert message in said


@pytest.mark.parametrize("encode", [arrow, parquet])
def test_a_batch_of_large_values_is_read_if_it_is_stored_as_such(local, encode):
    """pyarrow writes a thousand images into a page, whatever their size."""
    image = np.random.default_rng(0).bytes(1 << 20)
    local.put(f"a.{encode.__name__}", encode(pa.table({"id": ["a", "b"], "image": [image, image[::-1]]})))
    limits = Limits(batch_memory=1 << 20)
    assert read(local.root, limits) == read(local.root)
    assert not read(local.root, limits)[1]


def test_a_page_with_too_many_values_in_lists_is_not_unpacked(local):
    table = pa.table({"text": ["x"], "tags": [np.zeros(100_000, np.int64)]})
    local.put("a.parquet", parquet(table, data_page_size=1 << 30, write_batch_size=1 << 30))
    _, [(reason, message)] = read(local.root, SMALL)
    assert reason == "object_unreadable"
    assert "a page of tags.list.element has 100,000 values in lists, which is too many" in message


def test_of_many_unreadable_rows_one_reject_stands_for_all(local):
    table = pa.table({"id": [f"k{n}" for n in range(2000)], "text": ["x"] * 2000})
    content = bytearray(parquet(table, use_dictionary=False, compression="none"))
    chunk = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0)
    content[chunk.data_page_offset : chunk.data_page_offset + 20] = b"\xff" * 20
    local.put("a.parquet", bytes(content))
    _, rejected = read(local.root)
    assert len(rejected) == 2000
    _, [(reason, message)] = read(local.root, Limits(unreadable_rows=1999))
    assert reason == "object_unreadable"
    assert "the 2,000 rows from row 0 on, which it claims to have: " in message


@pytest.mark.parametrize("encode", [arrow, parquet])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({f"c{n}": [1] for n in range(1001)}, "it has 1,002 columns, with their fields over 1,000, the limit"),
        ({"deep": pa.array([1])}, "a column is nested more than 32 deep, which is the limit"),
    ],
)
def test_a_schema_beyond_the_limits_is_refused(local, encode, column, message):
    for _ in range(40 if "deep" in column else 0):
        column = {"deep": pa.StructArray.from_arrays([column["deep"]], ["part"])}
    local.put(f"a.{encode.__name__}", encode(pa.table({"text": ["x"]} | column)))
    with pytest.raises(UsageError, match=message):
        open_source(local.root, Columns(), limits=Limits(depth=32))


@pytest.mark.parametrize("kind", [pa.month_day_nano_interval(), pa.struct([])], ids=str)
def test_a_column_of_a_type_that_no_table_can_have_is_left_out(local, kind):
    local.put("a.arrow", arrow(pa.table({"text": ["x"], "odd": pa.nulls(1, kind)}), None))
    source = open_source(local.root, Columns())
    assert source.layout.left_out == ("odd",)
    assert read(local.root)[1] == []


def test_a_reference_beyond_its_dictionary_costs_its_rows(local):
    content = arrow(pa.table({"id": ["a", "b", "c"], "text": pa.array(["x", "y", "x"]).dictionary_encode()}), None)
    at = content.rfind(struct.pack("<iii", 0, 1, 0))
    local.put("a.arrow", content[:at] + struct.pack("<i", 77) + content[at + 4 :])
    _, rejected = read(local.root)
    assert {reason for reason, _ in rejected} == {"object_unreadable"}


# Tars


def extended(content: bytes, kind: bytes) -> bytes:
    """An extended header."""
    return member("h", len(content), kind).tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a" * (1 << 20), tarfile.GNUTYPE_LONGNAME),
        (b"9 a=bcde\n" * 110_000, tarfile.XHDTYPE),
        (b"9" * (1 << 20), tarfile.XHDTYPE),
    ],
)
def test_a_long_header_takes_time_in_proportion(local, content, kind):
    local.put("s.tar", tar()[:0] + pairs("a", "b")[: 8 * BLOCK] + extended(content, kind) + pairs("c", "d", "e"))
    began = time.perf_counter()
    records, _ = read(local.root)
    assert time.perf_counter() - began < 4  # about 0.1 s, and 7 s or more when each line was copied with all after it
    assert {record["id"] for record in records} >= {"s/a", "s/e"}


def test_a_sample_of_many_members_is_rejected_in_time(local):
    members = ((f"b.{n}.jpg", b"x") for n in range(20_000))
    local.put("s.tar", tar(("a.txt", b"x"), *members, ("c.txt", b"y")))
    records, rejected = read(local.root)
    assert [record["id"] for record in records] == ["s/a", "s/c"]
    assert rejected[0][0] == "several_members"
    assert "it has more than 1,000 members, which is the limit" in rejected[0][1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 900 + "]" * 900, "it is nested more than 32 deep"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({f"k{n}": n for n in range(5000)}), "it has 5,001 keys; the limit is 1,000"),
        ("9" * 100_000, "Exceeds the limit"),
        ('"' + "x" * 2_000_000 + '"', "at most 1,048,576 are read"),
    ],
)
def test_json_of_a_sample_beyond_the_limits_costs_its_sample(local, content, message):
    odd = f'{{"value": {content}}}'.encode()
    local.put("s.tar", tar(("a.txt", b"x"), ("b.txt", b"y"), ("b.json", odd), ("c.txt", b"z")))
    records, [(reason, said)] = read(local.root, Limits(depth=32, member_text_bytes=1 << 20))
    assert [record["id"] for record in records] == ["s/a", "s/c"]
    assert reason == ("text_too_large" if len(odd) > 1 << 20 else "json_unparsable")
    assert message in said


# Lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({f"k{n}": n for n in range(5000)}), "it has 5,003 keys; the limit is 1,000"),
        ("9" * 100_000, ""),
        ("1e999999", ""),
        ("NaN", ""),
        (r'"\ud800"', "surrogate"),
    ],
)
def test_a_json_line_beyond_the_limits_costs_itself(local, content, message):
    good = [f'{{"id": "k{n}", "text": "x", "n": 1.5}}\n' for n in range(100)]
    line = f'{{"id": "odd", "text": "x", "n": {content}}}\n'
    local.put("a.jsonl", "".join([line, *good]).encode())
    records, rejected = read(local.root)
    assert [record["id"] for record in records if record["id"] != "odd"] == [f"k{n}" for n in range(100)]
    assert records[0].keys() == {"id", "text", "image", "image_uri", "n", "_object", "_row", "_misfits"}
    if message:
        assert len(rejected) == 1
        assert message in rejected[0][1]


def test_of_too_many_keys_the_most_frequent_are_columns_and_the_others_are_named(local):
    rows = [{"text": "x", "n": 1} | {f"k{9 * n + m}": m for m in range(9)} for n in range(50)]
    local.put("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    source = open_source(local.root, Columns(), limits=Limits(columns=20))
    assert len(source.extra) == 19
    assert "n" in source.extra.names
    assert "NOT READ, beyond the limit of 20 columns: 432 of the rarer keys: " in source.describe()[0]


def test_a_csv_header_of_too_many_columns_costs_its_file(local):
    header = ",".join(f"c{n}" for n in range(30_000)).encode()
    reason, message = beside_a_good_file(local, ".csv", header + b"\n1,2\n", b"id,text\na,x\n", DEFAULTS)
    assert reason == "object_unreadable"
    assert "the header names 30,000 columns; at most 1,000 are read" in message


@pytest.mark.parametrize(
    ("suffix", "bomb", "good"),
    [
        (".jsonl.gz", b'{"text":"x"}\n' * 500_000, b'{"text":"x"}\n'),
        (".csv.gz", b"text\n" + b"x\n" * 2_000_000, b"text\nx\n"),
        (".tar.gz", tar(("a.mp4", bytes(8 << 20)), ("b.txt", b"y")), tar(("a.txt", b"x"))),
    ],
)
def test_a_gzip_file_that_unpacks_to_too_much_is_read_to_the_limit(local, suffix, bomb, good):
    local.put("1" + suffix, gzip.compress(bomb))
    local.put("2" + suffix, gzip.compress(good))
    _, rejected = read(local.root, Limits(gzip_bytes=1 << 20, gzip_ratio=100))
    [(reason, message)] = rejected
    assert reason == "object_unreadable"
    assert "it unpacks to more than 100 times its size" in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_without_an_end_is_read_to_the_limit(local, name):
    local.put(name, b"text\n" * name.endswith("csv") + b'{"text":"' + b"x" * 5_000_000)
    local.put("b" + name[1:], b'{"text":"y"}\n' if name.endswith("jsonl") else b"text\ny\n")
    _, rejected = read(local.root, Limits(record_bytes=1 << 20, sample_bytes=1 << 16, header_bytes=1 << 10))
    assert {reason for reason, _ in rejected} <= {"object_unreadable", "line_unparsable"}
    assert rejected
