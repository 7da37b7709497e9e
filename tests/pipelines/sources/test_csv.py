"""CSV: each record is read exactly once, wherever its file is cut, or rejected alone."""

import csv
import io
import re

import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipelines.sources.columns import Columns
from pipelines.sources.csv import Csv
from pipelines.sources.detect import open_source
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.storage.files import list_files
from tests.pipelines.sources.text_files import (
    BOM,
    batches,
    columns,
    cut_every,
    open_csv,
    outcomes,
    read,
    tabular,
    units,
)
from vista_core import UsageError

# From files to records


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


# Ranges


CSV_PIECES = st.sampled_from(
    ["a", "b", '"', '""', ";", ";", "\n", "\n", "\r\n", "\r", '"x\ny"', '";"', '\n"', "ü", " ", "'"]
)


def expected_of_csv(text: str) -> list[list[str | None] | None]:
    """What Python's parser makes of each record; None if it doesn't have two fields, and perhaps empty ones."""
    rows = [row for row in csv.reader(io.StringIO(text + "\nlast;last", newline=""), delimiter=";") if row]
    assume(rows[-1] == ["last", "last"])  # else a quote is never closed
    return [[f or None for f in row[:2]] if len(row) > 1 and not any(row[2:]) else None for row in rows[:-1]]


@settings(max_examples=300)
@given(st.lists(CSV_PIECES, max_size=30).map("".join), st.integers(1, 60), st.sampled_from([b"", BOM]))
@example('5" x;"y\nz"\na;b\n', 3, b"")
@example(";;\n;;a", 1, b"")
@example('"a;"";\n";b\nc;d', 1, BOM)
def test_each_record_is_read_once_wherever_the_file_is_cut(tmp_path_factory, text, size, start):
    expected = expected_of_csv(text)
    path = tmp_path_factory.mktemp("lines") / "a.csv"
    content = start + b"k;v\n" + text.encode()
    path.write_bytes(content)
    schema = pa.schema([("k", pa.string()), ("v", pa.string())])
    kind = Csv(list_files(str(path)), DEFAULTS, schema, 10.0)
    whole = outcomes(kind)
    assert [list(found.values()) if isinstance(found, dict) else None for _, found in whole] == expected
    assert {found for _, found in whole if isinstance(found, str)} <= {"line_unparsable"}
    in_ranges = Csv(list_files(str(path)), cut_every(size), schema, 10.0)
    assert outcomes(in_ranges) == whole
    assert all(unit.rows >= 1 for unit in units(in_ranges))
    for offset, found in whole:  # the record begins there
        if isinstance(found, dict):
            record = next(csv.reader(io.StringIO(content[offset:].decode(), newline=""), delimiter=";"))
            assert record[:2] == [found["k"] or "", found["v"] or ""]


def test_a_csv_is_cut_at_the_first_record_after_each_multiple_of_the_size(local):
    content = b"id,text\n" + b'1,"a\nb"\n' * 10
    local.put("a.csv", content)
    found = units(open_csv(local.root, limits=cut_every(20)))
    assert [unit.first_row for unit in found] == [8, 24, 40, 64, 80]
    assert [unit.stop for unit in found] == [24, 40, 64, 80, 88]
    assert [unit.rows for unit in found] == [2, 2, 3, 2, 1]


def test_the_driver_reads_only_the_header_of_a_file_that_is_one_range(faulty):
    faulty.put("a.csv", b"id,text\n" + b"1,x\n" * 100)
    kind = open_csv(faulty.root, limits=Limits(header_bytes=20))
    faulty.reads.clear()
    assert len(units(kind)) == 1
    assert faulty.reads == [20]


# Records that are rejected


def test_a_quote_that_is_never_closed_rejects_its_own_line(local):
    local.put("a.csv", b'id,text\na,x\nb,"inch\nc,y\nd,z\n' + b"e,e\n" * 500)
    for size in (1 << 20, 100):
        limits = Limits(range_bytes=size, record_bytes=size)
        rows, reasons = read(tabular(open_csv(local.root, limits=limits)))
        assert [key for (key,) in columns(rows, "id")] == ["a", "c", "d", *["e"] * 500]
        assert list(reasons) == [12]
        assert reasons[12] == ("line_unparsable", 'a quote is opened and never closed: b,"inch')


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        (b"b,x,1,more", "line_unparsable", "Expected 3 columns, got 4: b,x,1,more"),
        (b"b", "line_unparsable", "Expected 3 columns, got 1: b"),
        (b"b,caf\xe9,1", "text_not_utf8", "can't decode byte 0xe9"),
        (b"b,caf\xe9,1", "text_not_utf8", "name it, such as with --encoding windows-1252"),
        (BOM + b"id,text,n", "line_unparsable", "it repeats the header"),
    ],
)
def test_a_rejected_record_says_why(local, record, reason, message):
    local.put("a.csv", b"id,text,n\na,x,1\n")
    local.put("b.csv", b"id,text,n\na,x,1\n" + record + b"\nc,x,2\n")
    rows, reasons = read(tabular(open_csv(local.root)))
    assert columns(rows, "id", "n") == [("a", 1), ("a", 1), ("c", 2)]
    [(row, said)] = reasons.items()
    assert (row, said[0]) == (16, reason)
    assert message in said[1]


# Types


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
        (["", ""], pa.string()),
    ],
)
def test_a_column_has_a_type_that_fits_all_of_its_values(local, values, expected):
    local.put("a.csv", b"k,v\n" + b"".join(f'"k",{value}\n'.encode() for value in values))
    kind = open_csv(local.root)
    assert kind.schema.field("v").type == expected
    assert [type(found) for _, found in outcomes(kind)] == [dict] * len(values)


def test_columns_of_ids_texts_and_paths_are_strings(local):
    local.put("a.csv", b"id,title,image,nr,n\n1,1984,7,1,1\n")
    local.put("b.csv", b"id,title,image,nr,n\n001,01984,07,01,1\n")
    rows, _ = read(tabular(open_csv(local.root)))
    assert columns(rows, "id", "text", "image_uri", "nr") == [("1", "1984", "7", "1"), ("001", "01984", "07", "01")]
    rows, _ = read(tabular(open_csv(local.root, None, Columns(id="nr", text=("n",))), Columns(id="nr", text=("n",))))
    assert columns(rows, "id", "text") == [("1", "1"), ("01", "1")]


def test_a_sample_is_as_long_as_its_first_record_needs(local):
    header = ",".join(f"column {n}" for n in range(100)).encode()
    local.put("a.csv", b"title,n," + header + b"\nx,1" + b"," * 100 + b"\n")
    kind = open_csv(local.root, limits=Limits(sample_bytes=100, header_bytes=10))
    assert (len(kind.schema), kind.schema.field("n").type) == (102, pa.int64())
    assert len(outcomes(kind)) == 1


# Headers


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_most_frequent_one_of_the_header(local, delimiter):
    rows = [["id", "title, or name; |so", "n"], ["a", "x", "1"], ["b", f"1{delimiter}5", "2"]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    local.put("a.csv", text.getvalue().encode())
    source = tabular(open_csv(local.root, None, Columns(text=(rows[0][1],))), Columns(text=(rows[0][1],)))
    assert columns(read(source)[0], "id", "text", "n") == [("a", "x", 1), ("b", f"1{delimiter}5", 2)]


def test_a_header_may_be_quoted_with_line_breaks(local):
    local.put("a.csv", b'"ti,\r\ntle";"a, b, c";\xe2\x80\xa8x\nfoo;bar;baz\n')
    assert [found for _, found in outcomes(open_csv(local.root))] == [
        {"ti,\r\ntle": "foo", "a, b, c": "bar", "x": "baz"}
    ]


def test_files_may_have_other_columns_in_another_order(local):
    local.put("1.csv", b"id,title,n\na,x,1\n")
    local.put("2.csv", BOM + b'\r\n "n" ;id;more\n2;b;0\n')
    local.put("3.csv", b"more,other\n3,c\n,\n")
    rows, reasons = read(tabular(open_csv(local.root)))
    assert reasons == {}
    assert columns(rows, "id", "text", "n") == [("a", "x", 1), ("b", None, 2), (None, None, None), (None, None, None)]
    kind = open_csv(local.root)
    assert [batch.table.column_names for batch in batches(kind)][:2] == [["id", "title", "n"], ["n", "id", "more"]]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b" ,,", "the header names no column"),
        (b"id,caf\xe9", "the header is not in UTF-8: .* name it, such as with --encoding windows-1252"),
        (b'id,"title', "a quote in the header is never closed"),
    ],
)
def test_a_header_that_cannot_be_used_is_reported(local, header, message):
    local.put("b.csv", header + b"\n1,x,2,3,4\n")
    with pytest.raises(UsageError, match=r"b\.csv: " + message):
        open_csv(local.root)
    local.put("a.csv", b"id,title\na,x\n")
    rows, reasons = read(tabular(open_csv(local.root)))
    assert columns(rows, "id") == [("a",)]
    [(row, (reason, said))] = reasons.items()
    assert (row, reason) == (0, "object_unreadable")
    assert re.search(message, said)


@pytest.mark.parametrize("code", ["007", "0x1F", '"007"', " 007"])
def test_a_code_in_a_column_of_numbers_is_no_number(local, code):
    rows = "".join(f"k{n},x 09:30,{n}\n" for n in range(9000))
    local.put("a.csv", f"id,title,n\n{rows}last,x,{code}\n".encode())
    source = open_source(local.root, Columns(), limits=Limits(sample_bytes=10_000))
    records = [row for unit in source.units() for batch, _ in source.read(unit) for row in batch.to_pylist()]
    assert [row["n"] for row in records] == [*range(9000), None]
    assert [each["column"] for each in records[-1]["_misfits"]] == ["n"]
