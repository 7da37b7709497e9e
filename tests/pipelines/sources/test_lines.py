"""JSON lines and CSV: each record is read exactly once, wherever its file is cut, or rejected by itself."""

import csv
import errno
import gzip
import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pytest
import s3fs
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipelines.records import read_schema
from pipelines.sources import csv_lines, lines
from pipelines.sources.columns import Batch, Columns
from pipelines.sources.csv_lines import Csv
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.objects import Listing, SourceChangedError, SourceError, list_objects
from pipelines.sources.tabular import Tabular
from vista_core import UsageError

COLUMNS = Columns()
BOM = b"\xef\xbb\xbf"


def jsonl(*rows: dict) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def open_json(uri: str, like: pa.Schema | None = None) -> JsonLines:
    return JsonLines.open(list_objects(uri), like, Columns())


def open_csv(uri: str, like: pa.Schema | None = None, columns: Columns = COLUMNS) -> Csv:
    return Csv.open(list_objects(uri), like, columns)


def tabular(kind: JsonLines | Csv, columns: Columns = COLUMNS) -> Tabular:
    return Tabular.open(kind, columns, kind.listing.uri)


def units(source) -> list[dict]:
    """As they come out of a process boundary."""
    return json.loads(json.dumps(source.units()))


def read(source: Tabular) -> tuple[list[dict], dict[int, tuple[str, str]]]:
    """The records that could be read, and by row why the others could not."""
    rows, reasons = [], {}
    for unit in units(source):
        for table, rejects in source.without_listing().read(unit):
            assert table.schema == read_schema(source.extra)
            for number, row in enumerate(table.to_pylist()):
                if number in rejects:
                    assert row["id"] is None
                    reasons[row["_row"]] = (rejects[number].reason, rejects[number].message)
                else:
                    rows.append(row)
    return rows, reasons


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


def batches(kind: JsonLines | Csv) -> Iterator[Batch]:
    for unit in units(kind):
        yield from kind.without_listing().batches(unit, kind.schema.names)


def outcomes(kind: JsonLines | Csv) -> list[tuple[int, dict | str]]:
    """Of each record its offset, and its values or why it was rejected."""
    found = []
    for batch in batches(kind):
        assert 0 < len(batch.rows) == len(batch.table) <= lines.BATCH_ROWS
        for number, (row, values) in enumerate(zip(batch.rows, batch.table.to_pylist(), strict=True)):
            if number in batch.rejects:
                assert set(values.values()) == {None}
            found.append((row, batch.rejects[number].reason if number in batch.rejects else values))
    return found


@contextmanager
def cut_every(size: int, batch_rows: int = 3) -> Iterator[None]:
    """Ranges of so many bytes, which are read in still smaller pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "RANGE_BYTES", size)
        patch.setattr(lines, "READ_BYTES", max(2, size // 2))
        patch.setattr(lines, "BLOCK_BYTES", max(1, size // 3))
        patch.setattr(lines, "TAIL_BYTES", max(1, size // 4))
        patch.setattr(lines, "BATCH_ROWS", batch_rows)
        yield


# The whole way


def test_json_lines_become_records(store):
    content = jsonl(
        {
            "id": "a",
            "title": "Tasse",
            "image_url": "a.jpg",
            "price": 1,
            "tags": ["x", None],
            "dims": {"w": 1, "h": 2.5},
        },
        {"id": "b", "title": "Döner", "price": 2.5},
        {"id": "c", "title": None, "image_url": "", "tags": [], "dims": None, "unheard_of": [1]},
    )
    store.put("a.jsonl", content)
    source = tabular(open_json(store.root))
    assert source.describe()[0] == "1 JSON lines file(s), 0.00 MB"
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text", "image_uri", "price", "tags", "dims") == [
        ("a", "Tasse", "a.jpg", 1.0, ["x", None], {"w": 1, "h": 2.5}),
        ("b", "Döner", None, 2.5, None, None),
        ("c", None, None, None, [], None),
    ]
    assert columns(rows, "_object", "_row") == [
        (store.uri("a.jsonl"), content.index(b'{"id": "%s"' % key)) for key in (b"a", b"b", b"c")
    ]


def test_csv_becomes_records(store):
    content = (
        b'id,title,image_url,price\r\n007,"Tasse, ""gro\xc3\x9f""\r\nblau",a.jpg,1.50\r\n8,,"",\r\n9,5" TV,b.jpg,2'
    )
    store.put("a.csv", content)
    source = tabular(open_csv(store.root))
    assert source.describe()[0] == "1 CSV file(s), 0.00 MB"
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text", "image_uri", "price") == [
        ("007", 'Tasse, "groß"\r\nblau', "a.jpg", 1.5),
        ("8", None, None, None),
        ("9", '5" TV', "b.jpg", 2.0),
    ]
    assert columns(rows, "_object", "_row") == [
        (store.uri("a.csv"), content.index(key)) for key in (b"007", b"8", b"9,")
    ]


def test_a_record_with_several_images_is_as_many_rows(local):
    local.put(
        "a.jsonl", jsonl({"id": "a", "title": "x", "images": ["1.jpg", "2.jpg"]}, {"id": "b", "images": []}) + b"["
    )
    rows, reasons = read(tabular(open_json(local.root)))
    assert columns(rows, "id", "image_uri") == [("a#0", "1.jpg"), ("a#1", "2.jpg"), ("b#0", None)]
    assert [reason for reason, _ in reasons.values()] == ["line_unparsable"]


# Ranges

JSON_LINES = st.sampled_from(
    [
        *(b'{"id":"%d","n":%d}' % (n, n) for n in range(9)),
        b'{"id":"a long one to be cut more than once","n":7,"more":{"x":[1,{}]}}',
        b' {"id":"blanks"}\t ',
        '{"id":"ü日本\\u00fc"}'.encode(),
        b"{}",
        b'{"z":null}',
        b"",
        b" \t",
        b"\r",
        b'{"n":1}\r',
        # and what pyarrow would take for another number of rows, stumble over, or crash at
        b'{"n":1}{"n":2}',
        b'{"n":1} {"n":2}{"n":3}',
        b'{"n":1}null{"n":2}',
        b'{"n":',
        b"1}",
        b'{"z":[',
        b"{}]}",
        b'{"z":{}',
        b"}{",
        b"{",
        b"null",
        b"[1]",
        b"5",
        b'"x"',
        b"x",
        b'{"n":1} x',
        b'{"n":"x"}',
        b'{"n":1.5}',
        b'{"n":NaN}',
        b'{"n":99999999999999999999}',
        b'{"n":1,"n":2}',
        b'{"id":5}',
        b'{"id":"\xff"}',
        b'{"id":"\\ud800"}',
        b'{"id":"a\x00b"}',
        b'{"n":1}\x00',
        BOM + b'{"n":1}',
    ]
)


def expected_of_json(content: bytes) -> list[tuple[int, dict | str]]:
    """What Python makes of each line."""
    found, offset = [], 0
    for number, line in enumerate(content.split(b"\n")):
        stripped = (line.removeprefix(BOM) if number == 0 else line).strip(b" \t\r")
        if stripped:
            found.append((offset, expected_of_line(stripped)))
        offset += len(line) + 1
    return found


def expected_of_line(line: bytes) -> dict | str:
    try:
        pairs = json.loads(line.decode(), object_pairs_hook=tuple)
    except UnicodeDecodeError:
        return "text_not_utf8"
    except ValueError:
        return "line_unparsable"
    if not isinstance(pairs, tuple) or len({name for name, _ in pairs}) < len(pairs):
        return "line_unparsable"
    values = dict(pairs)
    key, number = values.get("id"), values.get("n")
    if isinstance(key, str) and not key.isprintable() and "\ud800" in key:
        return "line_unparsable"
    fits = isinstance(key, str | None) and (number is None or (type(number) is int and abs(number) < 1 << 63))
    return {"id": key, "n": number} if fits else "column_type"


@settings(max_examples=200)
@given(
    st.lists(JSON_LINES, max_size=12), st.sampled_from([b"\n", b""]), st.integers(1, 90), st.sampled_from([b"", BOM])
)
@example([b'{"n":1}{"n":2}', b'{"n":', b"1}"], b"\n", 90, b"")
@example([b'{"n":1}{"n":2}', b'{"z":[', b"{}]}"], b"\n", 90, b"")
@example([b'{"n":1}{"n":2}', b' {"z":[', b"{}]}"], b"\n", 90, b"")
@example([b"null"], b"\n", 90, b"")
@example([b'{"n":3}'] * 3, b"", 8, b"")
@example([b'{"n":3}'] * 3, b"", 7, BOM)
def test_each_line_is_read_once_wherever_the_file_is_cut(tmp_path_factory, parts, end, size, start):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(start + b"\n".join(parts) + (end if parts else b""))
    schema = pa.schema([("id", pa.string()), ("n", pa.int64())])
    with cut_every(size):
        kind = JsonLines(list_objects(str(path)), schema, 10.0)
        assert [unit["first_row"] for unit in units(kind)] == list(range(0, path.stat().st_size, size))
        assert outcomes(kind) == expected_of_json(path.read_bytes())


CSV_PIECES = st.sampled_from(
    ["a", "b", '"', '""', ";", ";", "\n", "\n", "\r\n", "\r", '"x\ny"', '";"', '\n"', "ü", " ", "'"]
)


def expected_of_csv(text: str) -> list[list[str | None] | None]:
    """What Python makes of each record; None is one that has not two fields."""
    rows = [row for row in csv.reader(io.StringIO(text + "\nlast;last", newline=""), delimiter=";") if row]
    assume(rows[-1] == ["last", "last"])  # else a quote is never closed
    return [[field or None for field in row] if len(row) == 2 else None for row in rows[:-1]]


@settings(max_examples=300)
@given(st.lists(CSV_PIECES, max_size=30).map("".join), st.integers(1, 60), st.sampled_from([b"", BOM]))
@example('5" x;"y\nz"\na;b\n', 3, b"")
@example('"a;"";\n";b\nc;d', 1, BOM)
def test_each_record_is_read_once_wherever_the_file_is_cut(tmp_path_factory, text, size, start):
    expected = expected_of_csv(text)
    path = tmp_path_factory.mktemp("lines") / "a.csv"
    content = start + b"k;v\n" + text.encode()
    path.write_bytes(content)
    kind = Csv(list_objects(str(path)), pa.schema([("k", pa.string()), ("v", pa.string())]), 10.0)
    whole = outcomes(kind)
    assert [list(found.values()) if isinstance(found, dict) else None for _, found in whole] == expected
    assert {found for _, found in whole if isinstance(found, str)} <= {"line_unparsable"}
    with cut_every(size):
        assert outcomes(kind) == whole
        assert all(unit["rows"] >= 1 for unit in units(kind))
    for offset, found in whole:  # what begins there is the record
        if isinstance(found, dict):
            record = next(csv.reader(io.StringIO(content[offset:].decode(), newline=""), delimiter=";"))
            assert record == [found["k"] or "", found["v"] or ""]


def test_a_csv_is_cut_at_the_first_record_after_each_multiple_of_the_size(local):
    content = b"id,text\n" + b'1,"a\nb"\n' * 10
    local.put("a.csv", content)
    kind = open_csv(local.root)
    with cut_every(20):
        found = units(kind)
    assert [unit["first_row"] for unit in found] == [8, 24, 40, 64, 80]
    assert [unit["stop"] for unit in found] == [24, 40, 64, 80, 88]
    assert [unit["rows"] for unit in found] == [2, 2, 3, 2, 1]


def test_a_csv_of_one_range_is_not_read_through_on_the_driver(local, monkeypatch):
    local.put("a.csv", b"id,text\n" + b"1,x\n" * 9)
    kind = open_csv(local.root)
    monkeypatch.setattr(csv_lines, "record_starts", None)
    assert len(units(kind)) == 1


def test_how_many_rows_a_unit_has_is_guessed_by_the_sample(local):
    content = jsonl(*({"id": n, "text": "x" * 50} for n in range(10_000)))
    local.put("a.jsonl", content)
    local.put("z.jsonl", content * 5)
    local.put("z.jsonl.gz", gzip.compress(content * 5))
    assert [round(unit["rows"], -4) for unit in units(open_json(local.root))] == [10_000, 50_000, 0]
    assert [round(unit["rows"], -4) for unit in units(open_json(local.uri("z.jsonl.gz")))] == [50_000]
    local.put("a.csv", b"id,text\r\n" + b"1,x\r\n" * 10_000)
    assert [round(unit["rows"], -4) for unit in units(open_csv(local.uri("a.csv")))] == [10_000]
    assert not tabular(open_json(local.uri("a.jsonl"))).exact


def test_a_batch_is_bounded(local):
    local.put("a.jsonl", jsonl(*({"id": n, "text": "x"} for n in range(10_000))))
    assert [len(batch.rows) for batch in batches(open_json(local.root))] == [4096, 4096, 1808]
    local.put("a.jsonl", jsonl(*({"id": n, "text": "x" * 500_000} for n in range(30))))
    assert max(batch.table.nbytes for batch in batches(open_json(local.root))) < 4 << 20


def test_what_workers_get_does_not_grow_with_the_source(local):
    for name in ("a", "b"):
        local.put(f"{name}.csv", b"id,text\n1,x\n")
        local.put(f"{name}.jsonl", jsonl({"text": "x"}))
    for kind in (open_csv(local.uri("*.csv")), open_json(local.uri("*.jsonl"))):
        assert len(kind.listing.objects) == 2
        assert pickle.loads(pickle.dumps(kind.without_listing())).listing.objects == ()


# Odd records


@pytest.mark.parametrize("length", [3_000_000, 20_000_000])
def test_a_record_may_be_many_megabytes_long(local, length):
    rows = [{"id": "a", "text": "x" * length}, {"id": "b", "text": "y"}]
    local.put("a.jsonl", jsonl(*rows))
    assert columns(read(tabular(open_json(local.root)))[0], "id", "text") == [tuple(row.values()) for row in rows]
    local.put("a.jsonl", b'id,text\na,"' + b"x" * length + b'"\nb,y')
    assert columns(read(tabular(open_csv(local.root)))[0], "id", "text") == [tuple(row.values()) for row in rows]


def test_a_line_without_end_is_damage_after_what_comes_before_it(local, monkeypatch):
    monkeypatch.setattr(lines, "RECORD_BYTES", 1000)
    monkeypatch.setattr(lines, "READ_BYTES", 300)
    long = b"x" * 2000
    local.put("a.jsonl", jsonl({"id": "a", "text": "x"}) + long + b"\n" + jsonl({"id": "b"}))
    rows, reasons = read(tabular(open_json(local.root)))
    assert (columns(rows, "id"), [reason for reason, _ in reasons.values()]) == ([("a",)], ["object_unreadable"])
    monkeypatch.setattr(lines, "RANGE_BYTES", 500)
    local.put("a.jsonl", b"id,text\na,x\n" + long + b",\n" + b"b,x\n" * 200)
    rows, reasons = read(tabular(open_csv(local.root)))
    assert (columns(rows, "id"), [reason for reason, _ in reasons.values()]) == ([("a",)], ["object_unreadable"])
    assert "the line at byte 12 is longer than" in next(iter(reasons.values()))[1]


def test_a_quote_that_is_never_closed_costs_its_own_line(local, monkeypatch):
    local.put("a.csv", b'id,text\na,x\nb,"inch\nc,y\nd,z\n' + b"e,e\n" * 500)
    for size in (1 << 20, 100):
        monkeypatch.setattr(lines, "RANGE_BYTES", size)
        monkeypatch.setattr(lines, "RECORD_BYTES", size)
        rows, reasons = read(tabular(open_csv(local.root)))
        assert [key for (key,) in columns(rows, "id")] == ["a", "c", "d", *["e"] * 500]
        assert list(reasons) == [12]
        assert reasons[12] == ("line_unparsable", 'a quote is opened and never closed: b,"inch')


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b'{"id":"x"', "line_unparsable", "Expecting ',' delimiter: line 1 column 10"),
        (b'{"id":"x","id":"y"}', "line_unparsable", "specified twice"),
        (b"[1,2]", "line_unparsable", "not a JSON object but a list"),
        (b'{"id":"x"} {"id":"y"}', "line_unparsable", "Extra data"),
        (b'{"id":"\\ud800"}', "line_unparsable", "surrogate"),
        (b"[" * 100_000, "line_unparsable", "nested too deeply"),
        (b'{"n":"many","id":"' + b"x" * 500 + b'"}', "column_type", 'from number to string: {"n":"many","id":"xxx'),
        (b'{"n":1.5}', "column_type", "couldn't parse:1.5: {"),
        (b'{"n":' + b"1" * 4000 + b"}", "column_type", "couldn't parse:1111"),
        (b'{"id":"caf\xe9"}', "text_not_utf8", "can't decode byte 0xe9"),
    ],
)
def test_why_a_line_of_json_is_rejected(local, line, reason, message):
    good = jsonl({"id": "a", "text": "x", "n": 1})
    local.put("a.jsonl", good)
    local.put("b.jsonl", good + line + b"\n" + good)
    rows, reasons = read(tabular(open_json(local.root)))
    assert columns(rows, "id", "n") == [("a", 1)] * 3
    [(row, said)] = reasons.items()
    assert (row, said[0]) == (len(good), reason)
    assert message in said[1]
    assert len(said[1]) <= 382
    assert line[:80].decode(errors="replace") in said[1]
    assert len(line) < 100 or line[:100].decode(errors="replace") not in said[1]


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        (b"b,x,1,more", "line_unparsable", "Expected 3 columns, got 4: b,x,1,more"),
        (b"b", "line_unparsable", "Expected 3 columns, got 1: b"),
        (b"b,x,many", "column_type", "column 'n': conversion error to int64: invalid value 'many': b,x,many"),
        (b"b,caf\xe9,1", "text_not_utf8", "can't decode byte 0xe9"),
    ],
)
def test_why_a_record_of_csv_is_rejected(local, record, reason, message):
    local.put("a.csv", b"id,text,n\na,x,1\n")
    local.put("b.csv", b"id,text,n\na,x,1\n" + record + b"\nc,x,2\n")
    rows, reasons = read(tabular(open_csv(local.root)))
    assert columns(rows, "id", "n") == [("a", 1), ("a", 1), ("c", 2)]
    [(row, said)] = reasons.items()
    assert (row, said[0]) == (16, reason)
    assert message in said[1]


def test_nan_is_a_number(local):
    """Python's json writes it."""
    local.put("a.jsonl", b'{"text":"x","n":1.5}\n{"text":"x","n":NaN}\n')
    rows, reasons = read(tabular(open_json(local.root)))
    assert reasons == {}
    assert repr([row["n"] for row in rows]) == "[1.5, nan]"


@pytest.mark.parametrize(("bad", "most"), [(4096, 1.2 * 4096), (1, 50)])
def test_bad_records_take_few_calls_of_the_parser(local, monkeypatch, bad, most):
    good = {"text": "x", "n": 1}
    local.put("1.jsonl", jsonl(good))
    local.put("2.jsonl", jsonl(*([good] * (4096 - bad)), *({"text": "x", "n": "many"} for _ in range(bad))))
    calls, parse = [], pa.json.read_json
    kind = open_json(local.root)
    monkeypatch.setattr(pa.json, "read_json", lambda *args: calls.append(1) or parse(*args))
    _, reasons = read(tabular(kind))
    assert len(reasons) == bad
    assert len(calls) < most


# Types


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([1, 2**63], pa.uint64()),
        ([-1, 2**63], pa.float64()),
        ([2**64], pa.float64()),
        ([True, False], pa.bool_()),
        ([True, 1, 2], pa.int64()),
        (["2024-01-01", "00123"], pa.string()),
        (["a", "b", 1], pa.string()),
        ([1, 2, "a"], pa.int64()),
        ([None, None], pa.null()),
        ([["a"], [], None], pa.list_(pa.string())),
        ([[1], [2.5], [None]], pa.list_(pa.float64())),
        ([{"a": 1}, {"b": "x", "a": None}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([[{"a": [1]}], [{"a": None}]], pa.list_(pa.struct([("a", pa.list_(pa.int64()))]))),
        ([{"a": 1}, {"a": "x"}, {"a": 2}], pa.struct([("a", pa.int64())])),
        ([[]], pa.list_(pa.null())),
    ],
)
def test_the_types_of_json_are_those_that_most_values_have(local, values, expected):
    passed_over = b'no JSON\n"v"\n{"\\ud800":1}\n' + b'{"v":' * 100_000 + b"\n"
    local.put("a.jsonl", passed_over + jsonl(*({"v": value} for value in values)))
    kind = open_json(local.root)
    assert kind.schema == pa.schema([("v", expected)])
    assert len(outcomes(kind)) == len(values) + 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", "0", ""], pa.int64()),
        (["1", "2.50", "-0.5"], pa.float64()),
        (["00123", "124"], pa.string()),
        (["-0"], pa.string()),
        (["1.5", "007.5"], pa.string()),
        (["1e5"], pa.string()),
        (["+1"], pa.string()),
        (["1", " 2"], pa.string()),
        (["0x1F"], pa.string()),
        ([str(2**63)], pa.string()),
        (["true", "FALSE", "False", ""], pa.bool_()),
        (["true", "1"], pa.string()),
        (["2024-01-01"], pa.string()),
        (["nan"], pa.string()),
        (["", ""], pa.null()),
    ],
)
def test_a_type_of_csv_is_what_all_values_say(local, values, expected):
    local.put("a.csv", b"k,v\n" + b"".join(f'"k",{value}\n'.encode() for value in values))
    kind = open_csv(local.root)
    assert kind.schema.field("v").type == expected
    if expected != pa.null():
        assert [type(found) for _, found in outcomes(kind)] == [dict] * len(values)


def test_columns_of_ids_texts_and_paths_are_strings_in_csv(local):
    local.put("a.csv", b"id,title,image,nr,n\n1,1984,7,1,1\n")
    local.put("b.csv", b"id,title,image,nr,n\n001,01984,07,01,1\n")
    rows, _ = read(tabular(open_csv(local.root)))
    assert columns(rows, "id", "text", "image_uri", "nr") == [("1", "1984", "7", 1), ("001", "01984", "07", 1)]
    rows, _ = read(tabular(open_csv(local.root, None, Columns(id="nr", text="n")), Columns(id="nr", text="n")))
    assert columns(rows, "id", "text") == [("1", "1"), ("01", "1")]


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
        "sizes": "list<item: int64>",  # which can't be read as the table has it
        "seldom": "list<item: string>",
    }
    local.put("a.jsonl", b"id,text,price,day,note,sizes\n1,x,1,2024-01-02,,3\n")
    schema = open_csv(local.root, LIKE).schema
    assert [str(kind) for kind in schema.types] == ["string", "string", "double", "timestamp[us]", "string", "int64"]
    rows, _ = read(tabular(open_csv(local.root, LIKE)))
    assert (rows[0]["price"], str(rows[0]["day"]), rows[0]["note"]) == (1.0, "2024-01-02 00:00:00", None)


def test_the_first_file_that_is_not_damaged_says_what_there_is(local):
    local.put("1.jsonl", b"")
    local.put("2.jsonl", b"\x1f\x8bno gzip")
    local.put("3.jsonl", b"no json\n")
    local.put("4.jsonl", gzip.compress(jsonl({"title": "x"})))
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


def test_a_sample_is_as_long_as_its_first_record_needs(local, monkeypatch):
    monkeypatch.setattr(lines, "SAMPLE_BYTES", 100)
    monkeypatch.setattr(csv_lines, "HEAD_BYTES", 10)
    header = ",".join(f"column {n}" for n in range(100)).encode()
    local.put("a.csv", b"title,n," + header + b"\nx,1" + b"," * 100 + b"\n")
    kind = open_csv(local.root)
    assert (len(kind.schema), kind.schema.field("n").type) == (102, pa.int64())
    assert len(outcomes(kind)) == 1


# Headers


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_what_the_header_has_most_of(local, delimiter):
    rows = [["id", "title, or name; |so", "n"], ["a", "x", "1"], ["b", f"1{delimiter}5", "2"]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    local.put("a.csv", text.getvalue().encode())
    source = tabular(open_csv(local.root, None, Columns(text=rows[0][1])), Columns(text=rows[0][1]))
    assert columns(read(source)[0], "id", "text", "n") == [("a", "x", 1), ("b", f"1{delimiter}5", 2)]


def test_a_header_may_be_quoted_and_broken(local):
    local.put("a.csv", b'"ti,\r\ntle";"a, b, c";\xe2\x80\xa8x\nfoo;bar;baz\n')
    assert [found for _, found in outcomes(open_csv(local.root))] == [
        {"ti,\r\ntle": "foo", "a, b, c": "bar", "x": "baz"}
    ]


def test_files_may_have_their_columns_in_another_order_or_not_at_all(local):
    local.put("1.csv", b"id,title,n\na,x,1\n")
    local.put("2.csv", BOM + b'\r\n "n" ;id;more\n2;b;0\n')
    local.put("3.csv", b"more,other\n3,c\n,\n")
    rows, reasons = read(tabular(open_csv(local.root)))
    assert reasons == {}
    assert columns(rows, "id", "text", "n") == [("a", "x", 1), ("b", None, 2), (None, None, None), (None, None, None)]
    kind = open_csv(local.root)
    assert [batch.table.column_names for batch in batches(kind)][:2] == [["id", "title", "n"], ["n", "id"]]


def test_a_file_without_records_has_no_units(local):
    local.put("1.csv", b"id,title\na,x\n")
    for name, content in (("2", b""), ("3", b"\n"), ("4", b"id,title\n"), ("5", b"id,title"), ("6", BOM + b"\r\n\r\n")):
        local.put(f"{name}.csv", content)
    assert [unit["object"] for unit in units(open_csv(local.root))] == [local.uri("1.csv")]
    for name, content in (("1", b""), ("2", b"\n \n"), ("3", b'{"title":"x"}')):
        local.put(f"{name}.jsonl", content)
    assert [len(batch.rows) for batch in batches(open_json(local.uri("*.jsonl")))] == [1]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"id,title,id,n,n", "the header names 'id', 'n' more than once"),
        (b",title,", "the header has no name for column 1, 3; give each column a name of its own"),
        (b"id,caf\xe9", "the header is not CSV in UTF-8"),
        (b'id,"title', "a quote in the header is never closed"),
    ],
)
def test_a_header_that_does_not_name_each_column_is_said(local, header, message):
    local.put("b.csv", header + b"\n1,x,2,3,4\n")
    with pytest.raises(UsageError, match=r"b\.csv: " + message):
        open_csv(local.root)
    local.put("a.csv", b"id,title\na,x\n")
    rows, reasons = read(tabular(open_csv(local.root)))
    assert columns(rows, "id") == [("a",)]
    [(row, (reason, said))] = reasons.items()
    assert (row, reason) == (0, "object_unreadable")
    assert message in said


# Compressed files

GZIPPED = [({"id": str(n), "text": f"{n * n}"}) for n in range(20_000)]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_compressed_file_is_one_unit_whatever_its_name(store, kind, monkeypatch):
    content = (
        jsonl(*GZIPPED) if kind == "jsonl" else b"id,text\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(20_000))
    )
    half = len(content) // 2
    store.put(f"a.{kind}", gzip.compress(BOM + content[:half]) + gzip.compress(content[half:]))
    monkeypatch.setattr(lines, "RANGE_BYTES", 1000)
    source = tabular(open_json(store.root) if kind == "jsonl" else open_csv(store.root))
    assert len(units(source)) == 1
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text") == [tuple(row.values()) for row in GZIPPED]
    second = 3 + content.index(b'{"id": "1"' if kind == "jsonl" else b"1,1\n")
    assert rows[1]["_row"] == second, "offsets are those of the uncompressed stream"


def damaged(packed: bytes, damage: str) -> bytes:
    if damage == "cut":
        return packed[: len(packed) // 2]
    at = len(packed) - 8 if damage == "checksum" else len(packed) // 2
    return packed[:at] + bytes(byte ^ 0x55 for byte in packed[at : at + 4]) + packed[at + 4 :]


@pytest.mark.parametrize("damage", ["cut", "checksum", "bits"])
def test_lines_before_damage_are_read(local, damage):
    local.put("a.jsonl.gz", damaged(gzip.compress(jsonl(*GZIPPED)), damage))
    kind = open_json(local.root)
    rows, reasons = read(tabular(kind))
    assert list(reasons.values())[-1][0] == "object_unreadable"
    good = 20_000 if damage == "checksum" else 5_000  # bits that changed are text that changed, until it can't be
    assert columns(rows[:good], "id", "text") == [tuple(row.values()) for row in GZIPPED[:good]]
    assert damage == "bits" or len(reasons) == 1
    assert damage == "checksum" or len(rows) < 20_000


# The store


def test_a_store_is_asked_for_large_parts(bucket, monkeypatch):
    monkeypatch.setattr(lines, "RANGE_BYTES", 64 << 20)
    content = b"id,text\n" + b"".join(b"%d,%030d\n" % (n, n * n) for n in range(500_000))
    bucket.put("a.csv", content)
    bucket.put("b.csv", gzip.compress(content))
    kind, asked, fetch_range = open_csv(bucket.root), [], s3fs.core.S3File._fetch_range
    found = units(kind)

    def fetch(self, start, end):
        asked.append(end - start)
        return fetch_range(self, start, end)

    monkeypatch.setattr("s3fs.core.S3File._fetch_range", fetch)
    for unit in found:
        assert sum(len(batch.rows) for batch in kind.batches(unit, ["id"])) == 500_000
    assert sum(size > 8 << 19 for size in asked) >= 3
    assert len(asked) <= 6


def test_an_object_that_is_replaced_is_not_read(store):
    store.put("a.csv", b"id,title\na,x\n")
    kind = open_csv(store.root)
    [unit] = units(kind)
    store.put("a.csv", b"id,title\nb,yy\n")
    with pytest.raises(SourceChangedError, match=r"a\.csv changed"):
        list(kind.batches(unit, ["id"]))
    with pytest.raises(SourceChangedError):
        kind.units()


@pytest.mark.parametrize("packed", [False, True])
def test_a_store_that_fails_is_no_damage(bucket, monkeypatch, packed):
    content = jsonl({"title": "x"})
    bucket.put("a.jsonl", gzip.compress(content) if packed else content)
    source = tabular(open_json(bucket.root))
    [unit] = units(source)

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "the network is gone")

    monkeypatch.setattr("s3fs.core.S3File._fetch_range", fail)
    with pytest.raises(SourceError, match=r"a\.jsonl: OSError.*the network is gone.*AWS_"):
        list(source.read(unit))
    with pytest.raises(SourceError):
        source.units()


def test_a_store_that_does_not_answer_is_no_damage(bucket, monkeypatch):
    bucket.put("a.csv", b"id,title\na,x\n")
    kind = open_csv(bucket.root)

    def fail(*args, **kwargs):
        raise TimeoutError("no answer")

    monkeypatch.setattr("s3fs.core.S3File._fetch_range", fail)
    for read_something in (kind.units, lambda: open_csv(bucket.root), lambda: open_json(bucket.root)):
        with pytest.raises(TimeoutError):
            read_something()


def test_nothing_listed_has_no_units():
    listing = Listing("x", "x", ())
    assert JsonLines(listing, pa.schema([]), 1.0).units() == Csv(listing, pa.schema([]), 1.0).units() == []
