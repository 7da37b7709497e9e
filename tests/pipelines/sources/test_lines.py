"""What JSON lines and CSV have in common: ranges of files, long records, compressed files, failing stores."""

import gzip
import pickle

import pyarrow as pa
import pytest
from botocore.exceptions import EndpointConnectionError

from pipelines.sources.csv import Csv
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.storage.errors import SourceChangedError, SourceError
from pipelines.storage.files import Listing
from tests.pipelines.sources.text_files import (
    BOM,
    batches,
    columns,
    jsonl,
    open_csv,
    open_json,
    read,
    tabular,
    units,
)
from vista_core import UsageError

# Units and batches


def test_the_rows_of_a_unit_are_estimated_from_the_sample(local):
    content = jsonl(*({"id": n, "text": "x" * 50} for n in range(10_000)))
    local.put("a.jsonl", content)
    local.put("z.jsonl", content * 5)
    local.put("z.jsonl.gz", gzip.compress(content * 5, mtime=0))
    assert [round(unit.rows, -4) for unit in units(open_json(local.root))] == [10_000, 50_000, 40_000]
    assert [round(unit.rows, -4) for unit in units(open_json(local.uri("z.jsonl.gz")))] == [50_000]
    local.put("a.csv", b"id,text\r\n" + b"1,x\r\n" * 10_000)
    assert [round(unit.rows, -4) for unit in units(open_csv(local.uri("a.csv")))] == [10_000]
    assert not tabular(open_json(local.uri("a.jsonl"))).exact


def test_a_batch_is_bounded(local):
    local.put("a.jsonl", jsonl(*({"id": n, "text": "x"} for n in range(10_000))))
    assert [len(batch.rows) for batch in batches(open_json(local.root))] == [4096, 4096, 1808]
    local.put("a.jsonl", jsonl(*({"id": n, "text": "x" * 500_000} for n in range(30))))
    assert max(batch.table.nbytes for batch in batches(open_json(local.root))) < 4 << 20


def test_workers_are_sent_no_listing(local):
    for name in ("a", "b"):
        local.put(f"{name}.csv", b"id,text\n1,x\n")
        local.put(f"{name}.jsonl", jsonl({"text": "x"}))
    for kind in (open_csv(local.uri("*.csv")), open_json(local.uri("*.jsonl"))):
        assert len(kind.listing.files) == 2
        assert pickle.loads(pickle.dumps(kind.without_listing())).listing.files == ()


def test_a_file_without_records_has_no_units(local):
    local.put("1.csv", b"id,title\na,x\n")
    for name, content in (("2", b""), ("3", b"\n"), ("4", b"id,title\n"), ("5", b"id,title"), ("6", BOM + b"\r\n\r\n")):
        local.put(f"{name}.csv", content)
    assert [unit.uri for unit in units(open_csv(local.root))] == [local.uri("1.csv")]
    for name, content in (("1", b""), ("2", b"\n \n"), ("3", b'{"title":"x"}')):
        local.put(f"{name}.jsonl", content)
    assert [len(batch.rows) for batch in batches(open_json(local.uri("*.jsonl")))] == [1]


def test_an_empty_listing_has_no_units():
    listing = Listing("x", "x", ())
    assert JsonLines(listing, DEFAULTS, pa.schema([]), 1.0).units() == []
    assert Csv(listing, DEFAULTS, pa.schema([]), 1.0).units() == []


# Long records


@pytest.mark.parametrize("length", [3_000_000, 20_000_000])
def test_a_record_may_be_many_megabytes_long(local, length):
    rows = [{"id": "a", "text": "x" * length}, {"id": "b", "text": "y"}]
    local.put("a.jsonl", jsonl(*rows))
    assert columns(read(tabular(open_json(local.root)))[0], "id", "text") == [tuple(row.values()) for row in rows]
    local.put("a.jsonl", b'id,text\na,"' + b"x" * length + b'"\nb,y')
    assert columns(read(tabular(open_csv(local.root)))[0], "id", "text") == [tuple(row.values()) for row in rows]


def test_lines_before_one_that_is_too_long_are_read(local):
    limits = Limits(record_bytes=1000, read_bytes=300)
    long = b"x" * 2000
    local.put("a.jsonl", jsonl({"id": "a", "text": "x"}) + long + b"\n" + jsonl({"id": "b"}))
    rows, reasons = read(tabular(open_json(local.root, limits=limits)))
    assert (columns(rows, "id"), [reason for reason, _ in reasons.values()]) == ([("a",)], ["object_unreadable"])
    limits = Limits(record_bytes=1000, read_bytes=300, range_bytes=500)
    local.put("a.jsonl", b"id,text\na,x\n" + long + b",\n" + b"b,x\n" * 200)
    rows, reasons = read(tabular(open_csv(local.root, limits=limits)))
    assert (columns(rows, "id"), [reason for reason, _ in reasons.values()]) == ([("a",)], ["object_unreadable"])
    assert "the line at byte 12 is longer than" in next(iter(reasons.values()))[1]


# Columns


LIKE = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("price", pa.float64()),
        ("day", pa.timestamp("us")),
        ("note", pa.string()),
        ("sizes", pa.list_(pa.int32(), 2)),
        ("seldom", pa.list_(pa.string())),
    ]
)


def test_columns_of_the_table_have_its_types(local):
    local.put("a.jsonl", jsonl({"id": 1, "price": 1, "day": "2024-01-02", "note": None, "sizes": [1, 2], "text": 1}))
    schema = open_json(local.root, LIKE).schema
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "id": "int64",
        "text": "int64",
        "price": "double",
        "day": "timestamp[us]",
        "note": "string",
        "sizes": "list<item: int64>",  # JSON can't be read with the type of the table
        "seldom": "list<item: string>",
    }
    local.put("a.jsonl", b"id,text,price,day,note,sizes\n1,x,1,2024-01-02,,3\n")
    schema = open_csv(local.root, LIKE).schema
    assert [str(kind) for kind in schema.types] == ["string", "string", "double", "timestamp[us]", "string", "int64"]
    rows, _ = read(tabular(open_csv(local.root, LIKE)))
    assert (rows[0]["price"], str(rows[0]["day"]), rows[0]["note"]) == (1.0, "2024-01-02 00:00:00", None)


def test_the_columns_are_those_of_the_first_readable_file(local):
    local.put("1.jsonl", b"")
    local.put("2.jsonl", b"\x1f\x8bno gzip")
    local.put("3.jsonl", b"no json\n")
    local.put("4.jsonl", gzip.compress(jsonl({"title": "x"}), mtime=0))
    assert open_json(local.root).schema.names == ["title"]
    with pytest.raises(UsageError, match=r"no readable CSV file: .*2\.jsonl: "):
        open_csv(local.uri("[12].jsonl"))
    with pytest.raises(UsageError, match=r"3\.jsonl: no line of its beginning is a JSON object .*jq -c"):
        open_json(local.uri("3.jsonl"))
    with pytest.raises(UsageError, match="all are empty"):
        open_json(local.uri("1.jsonl"))
    with pytest.raises(UsageError, match=r"3\.jsonl: it has no rows"):
        open_csv(local.uri("3.jsonl"))
    local.put("a.csv", b"id,title\nx\ny\n")
    with pytest.raises(UsageError, match=r"a\.csv: Expected 2 columns, got 1: x"):
        open_csv(local.uri("a.csv"))


# Compressed files


GZIPPED = [({"id": str(n), "text": f"{n * n}"}) for n in range(20_000)]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_compressed_file_is_one_unit_whatever_its_name(store, kind):
    content = (
        jsonl(*GZIPPED) if kind == "jsonl" else b"id,text\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(20_000))
    )
    half = len(content) // 2
    store.put(f"a.{kind}", gzip.compress(BOM + content[:half]) + gzip.compress(content[half:]))
    source = tabular({"jsonl": open_json, "csv": open_csv}[kind](store.root, limits=Limits(range_bytes=1000)))
    assert len(units(source)) == 1
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text") == [tuple(row.values()) for row in GZIPPED]
    second = 3 + content.index(b'{"id": "1"' if kind == "jsonl" else b"1,1\n")
    assert rows[1]["_row"] == second, "offsets are those of the decompressed content"


def damaged(packed: bytes, damage: str) -> bytes:
    if damage == "cut":
        return packed[: len(packed) // 2]
    at = len(packed) - 8 if damage == "checksum" else len(packed) // 2
    return packed[:at] + bytes(byte ^ 0x55 for byte in packed[at : at + 4]) + packed[at + 4 :]


@pytest.mark.parametrize("damage", ["cut", "checksum", "bits"])
def test_lines_before_damage_are_read(local, damage):
    local.put("a.jsonl.gz", damaged(gzip.compress(jsonl(*GZIPPED), mtime=0), damage))
    kind = open_json(local.root)
    rows, reasons = read(tabular(kind))
    assert list(reasons.values())[-1][0] == "object_unreadable"
    good = 20_000 if damage == "checksum" else 5_000  # changed bits are changed text, until gzip fails
    assert columns(rows[:good], "id", "text") == [tuple(row.values()) for row in GZIPPED[:good]]
    assert damage == "bits" or len(reasons) == 1
    assert damage == "checksum" or len(rows) < 20_000


# Stores


def test_a_store_is_read_in_large_parts(faulty_bucket):
    content = b"id,text\n" + b"".join(b"%d,%030d\n" % (n, n * n) for n in range(500_000))
    faulty_bucket.put("a.csv", content)
    faulty_bucket.put("b.csv", gzip.compress(content, mtime=0))
    kind = open_csv(faulty_bucket.root, limits=Limits(range_bytes=64 << 20))
    found, requests = units(kind), faulty_bucket.proxy.requests
    requests.clear()
    for unit in found:
        assert sum(len(batch.rows) for batch in kind.batches(unit, ["id"])) == 500_000
    assert sum(request.size > 8 << 19 for request in requests) >= 3
    assert len(requests) <= 6


def test_a_file_that_is_replaced_after_listing_is_not_read(store):
    store.put("a.csv", b"id,title\na,x\n")
    kind = open_csv(store.root)
    [unit] = units(kind)
    store.put("a.csv", b"id,title\nb,yy\n")
    with pytest.raises(SourceChangedError, match=r"a\.csv changed"):
        list(kind.batches(unit, ["id"]))
    with pytest.raises(SourceChangedError):
        kind.units()


@pytest.mark.parametrize("is_gzip", [False, True])
def test_a_failing_store_is_not_taken_for_damage(faulty_bucket, is_gzip):
    content = jsonl({"title": "x"})
    faulty_bucket.put("a.jsonl", gzip.compress(content, mtime=0) if is_gzip else content)
    source = tabular(open_json(faulty_bucket.root))
    [unit] = units(source)
    faulty_bucket.proxy.fail("501", "READ")
    with pytest.raises(SourceError, match=r"a\.jsonl: OSError.*Not Implemented.*AWS_"):
        list(source.read(unit))
    with pytest.raises(SourceError):
        source.units()


@pytest.mark.parametrize(
    "error",
    [TimeoutError("no answer"), PermissionError("Access Denied"), EndpointConnectionError(endpoint_url="http://s3")],
    ids=lambda error: type(error).__name__,
)
def test_a_store_that_fails_is_not_taken_for_damage(faulty, error):
    """Whether or not the error has an errno: s3fs raises a PermissionError without one."""
    faulty.put("a.csv", b"id,title\na,x\n")
    kind = open_csv(faulty.root)
    faulty.fail(error)
    for read_something in (kind.units, lambda: open_csv(faulty.root), lambda: open_json(faulty.root)):
        with pytest.raises(SourceError, match=rf"a\.csv: {type(error).__name__}: .*\. Check the path"):
            read_something()
