"""CSV and JSON lines as tools write them: each value is read as it is, or what happens to it is said."""

import csv
import io
import json
import math

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from vista_core import UsageError


def read(uri: str, columns: Columns | None = None, like: pa.Schema | None = None) -> tuple[list[dict], dict, dict]:
    """The rows, as the format reads them, and by number the reasons of rejects and the misfits."""
    kind = open_source(uri, columns or Columns(), like).format
    rows, rejects, misfits = [], {}, {}
    for unit in kind.units():
        assert not unit.error, unit.error
        for batch in kind.batches(unit, kind.schema.names):
            rejects |= {len(rows) + row: reject.reason for row, reject in batch.rejects.items()}
            misfits |= {len(rows) + row: dict(found) for row, found in batch.misfits.items()}
            rows += batch.table.to_pylist()
    return rows, rejects, misfits


def said(uri: str, columns: Columns | None = None, like: pa.Schema | None = None) -> str:
    return open_source(uri, columns or Columns(), like).format.describe()


def jsonl(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


# Every file counts


def test_columns_and_types_come_from_all_files(local):
    local.put("0.jsonl", jsonl({"id": 0, "image": "0.png", "price": 1, "tags": []}))
    local.put("1.jsonl", jsonl({"id": 1, "image": "1.png", "caption": "shoe", "price": 1.5, "tags": ["a"]}))
    kind = open_source(local.root, Columns()).format
    assert dict(zip(kind.schema.names, map(str, kind.schema.types), strict=True)) == {
        "id": "int64",
        "image": "string",
        "price": "double",
        "tags": "list<item: string>",
        "caption": "string",
    }
    rows, rejects, misfits = read(local.root)
    assert [row["caption"] for row in rows] == [None, "shoe"]
    assert not rejects
    assert not misfits


def test_csv_columns_and_types_come_from_all_files(local):
    for number, content in enumerate(("id,image,price\n1,1.png,1\n", "id,image,caption,price\n2,2.png,shoe,2.5\n")):
        local.put(f"{number}.csv", content.encode())
    kind = open_source(local.root, Columns()).format
    assert [str(kind.schema.field(name).type) for name in ("price", "caption")] == ["double", "string"]
    assert open_source(local.root, Columns()).layout.text == ("caption",)


def test_the_sample_is_spread_over_many_files(local, caplog):
    for number in range(100):
        extra = {"last": 1} if number == 99 else {"middle": 1} if number == 1 else {}
        local.put(f"{number:02}.jsonl", jsonl({"text": "x", **extra}))
        local.put(f"{number:02}.csv", ",".join(("text", *extra)).encode() + b"\nx,1\n"[: 3 + 2 * len(extra)] + b"\n")
    assert open_source(f"{local.root}/*.jsonl", Columns()).format.schema.names == ["text", "last"]
    kind = open_source(f"{local.root}/*.csv", Columns()).format
    assert kind.schema.names == ["text", "last"]
    assert len(kind.units()) == 100
    assert "NOT READ, columns that only files beyond the sample have: middle" in caplog.text


# Values that don't fit


LIKE = pa.schema([("stock", pa.int64()), ("price", pa.float64()), ("note", pa.string()), ("day", pa.timestamp("us"))])


def test_a_csv_value_that_does_not_fit_becomes_null(local):
    content = b"id,title,stock,price,note,day\n1,a,1,1.5,x,2024-01-01\n2,b,2.0,,7,\n"
    content += b"3,c,20.5,1e400,y,soon\n4,d,many,9007199254740993,z,2024-01-02\n"
    local.put("0.csv", content)
    rows, rejects, misfits = read(local.root, like=LIKE.remove(0).insert(0, pa.field("stock", pa.int64())))
    kind = open_source(local.root, Columns(), LIKE).format
    assert kind.schema.field("stock").type == pa.int64()
    assert rejects == {}
    assert [row["stock"] for row in rows] == [1, 2, None, None]
    assert [row["price"] for row in rows] == [1.5, None, None, None]
    assert [row["note"] for row in rows] == ["x", "7", "y", "z"]
    assert [row["day"] is None for row in rows] == [False, True, True, False]
    assert {row: sorted(found) for row, found in misfits.items()} == {
        2: ["day", "price", "stock"],
        3: ["price", "stock"],
    }
    assert misfits[3]["stock"] == "stock is 'many', which can't be read as int64"
    assert "'stock' has values that are not int64: these become null" in said(local.root, like=LIKE)


def test_a_json_value_that_does_not_fit_becomes_null(local):
    good = {"id": "1", "title": "a", "stock": 1, "price": 1.5, "note": "x", "day": "2024-01-01", "dims": {"w": 1}}
    local.put("0.jsonl", jsonl(good))
    bad = [
        (
            {"stock": 20.0, "note": 20.0, "title": 7, "id": 3.0},
            {"stock": 20, "note": "20.0", "title": "7", "id": "3"},
            [],
        ),
        ({"stock": 20.5, "note": {"a": 1}}, {"stock": None, "note": None}, ["note", "stock"]),
        ({"stock": math.nan, "price": "n/a"}, {"stock": None, "price": None}, ["price", "stock"]),
        ({"stock": 2**64, "price": 2**53 + 1}, {"stock": None, "price": None}, ["price", "stock"]),
        ({"note": 2**64, "day": "soon"}, {"note": str(2**64), "day": None}, ["day"]),
        ({"dims": {"w": "wide"}}, {"dims": {"w": None}}, ["dims"]),
        ({"dims": [1], "stock": "12"}, {"dims": None, "stock": 12}, ["dims"]),
    ]
    content = jsonl(good) + jsonl(*(good | row for row, _, _ in bad))
    schema = pa.schema([*LIKE, ("dims", pa.struct([("w", pa.int64())]))])
    local.put("1.jsonl", content + b'{"id":"x","price":1e400}\n{"id":"y","note":1e400}\n')
    kind = open_source(f"{local.root}/0.jsonl", Columns(), schema).format
    [unit] = open_source(f"{local.root}/1.jsonl", Columns(), schema).format.units()
    [batch] = kind.batches(unit, kind.schema.names)
    rows = batch.table.to_pylist()
    assert batch.rejects == {}
    for number, (_, expected, misfits) in enumerate(bad, 1):
        assert {name: rows[number][name] for name in expected} == expected
        assert sorted(batch.misfits.get(number, {})) == misfits
    assert (rows[8]["price"], list(batch.misfits[8]), rows[9]["note"]) == (None, ["price"], "1e400")
    assert batch.misfits[6]["dims"] == 'dims.w is "wide", which can\'t be read as int64'


def test_the_outcome_of_a_value_does_not_depend_on_its_neighbours(local):
    local.put("0.jsonl", jsonl({"id": "a", "title": "x", "n": 1.5}) + b'{"id":"b","n":9007199254740993}\n')
    rows, _, misfits = read(local.root)
    assert ([row["n"] for row in rows], list(misfits)) == ([1.5, None], [1])


def test_a_wider_type_than_the_table_s_is_the_type_of_the_column(local):
    local.put("0.csv", b"id,title,price\n1,a,10\n2,b,20.5\n")
    local.put("0.jsonl", jsonl({"id": 1, "title": "a", "price": 20.5}))
    for uri in ("0.csv", "0.jsonl"):
        for before, after in ((pa.int64(), pa.float64()), (pa.float64(), pa.float64()), (pa.string(), pa.string())):
            like = pa.schema([("price", before)])
            assert open_source(local.uri(uri), Columns(), like).format.schema.field("price").type == after
        like = pa.schema([("price", pa.large_string()), ("seldom", pa.int32())])
        assert open_source(local.uri(uri), Columns(), like).format.schema.field("price").type == pa.string()
    assert open_source(local.uri("0.jsonl"), Columns(), like).format.schema.names[-1] == "seldom"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 2, 3.0], ["0", "1", "2", "3"]), ([1, "A2", 3.0], ["1", "A2", "3"]), ([1, 2.5], ["1", "2.5"])],
)
def test_an_id_in_json_is_its_text(local, values, expected):
    local.put("0.jsonl", jsonl(*({"id": value, "text": "x"} for value in values)))
    source = open_source(local.root, Columns())
    assert source.has_ids
    assert [
        row["id"] for unit in source.units() for table, _ in source.read(unit) for row in table.to_pylist()
    ] == expected
    assert said(local.root).endswith("MB"), "ids are not said to change"


def test_mixed_values_are_strings_and_it_is_said(local):
    local.put("0.jsonl", jsonl({"text": "x", "size": 20.0}, {"text": "y", "size": "XL"}, {"text": "z", "size": True}))
    assert [row["size"] for row in read(local.root)[0]] == ["20.0", "XL", "true"]
    assert "column 'size' has numbers and strings and booleans: all are read as strings" in said(local.root)


# CSV


FRAME = {"id": ["NA", "nan", "NULL", "é"], "text": ["NA", 'say "hi"', "a,b;c\td|e", "x\r\ny"], "n": [1, 2, 3, 4]}


def test_the_index_of_pandas_is_left_out(local):
    local.put("0.csv", pd.DataFrame(FRAME).to_csv().encode())
    rows, rejects, _ = read(local.root)
    assert [list(row.values()) for row in rows] == [list(row) for row in zip(*FRAME.values(), strict=True)]
    assert rejects == {}
    assert "0.csv: column 1, without a name" in said(local.root)


@pytest.mark.parametrize("header", ["id,title,n,title, id,", "id , title,n,title,id"])
def test_columns_without_a_name_of_their_own_are_left_out(local, header):
    local.put("0.csv", header.encode() + b"\n1,x,5,y,z,\n2,,6,,,\n")
    assert read(local.root)[0] == [{"id": "1", "title": "x", "n": 5}, {"id": "2", "title": None, "n": 6}]
    assert "all but the first of 'id', which is there 2 times" in said(local.root)
    assert "column 6, without a name" in said(local.root)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig", "cp1252", "latin-1"])
@pytest.mark.parametrize("lines", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(local, encoding, lines):
    text = lines.join(["sep=;", "id;title", *(f'{n};"Größe {n}{lines}ü"' for n in range(2000)), ""])
    content = text.encode(encoding)
    local.put("0.csv", b"\xfe\xff" + content if encoding == "utf-16-be" else content)
    columns = Columns(encoding=encoding if encoding in ("cp1252", "latin-1") else None)
    rows, rejects, _ = read(local.root, columns)
    assert rows == [{"id": str(n), "title": f"Größe {n}{lines}ü"} for n in range(2000)]
    assert rejects == {}


def test_text_in_another_encoding_names_the_cure(local):
    local.put("0.csv", "id,title\n1,Größe\n2,size\n".encode("latin-1"))
    assert read(local.root)[1] == {0: "text_not_utf8"}
    assert "name it, such as with --encoding windows-1252" in said(local.root)
    local.put("0.csv", "id,title\n1,x\n".encode("utf-16-le"))
    with pytest.raises(UsageError, match=r"UTF-16 without a byte order mark: name it with --encoding utf-16-le"):
        read(local.root)
    with pytest.raises(UsageError, match=r"--encoding klingon: no such encoding"):
        read(local.root, Columns(encoding="klingon"))
    local.put("0.csv", b"id,title\n1,x\n2,\x81\n3,y\n")
    assert read(local.root, Columns(encoding="cp1252"))[1] == {1: "text_not_utf8"}


def test_text_in_another_encoding_does_not_cost_a_record_whose_own_text_is_good(local):
    local.put("0.csv", "id,title,note\n1,x,Größe\n2,y,z\n".encode("latin-1"))
    rows, rejects, misfits = read(local.root)
    assert [row["title"] for row in rows] == ["x", "y"]
    assert (rejects, list(misfits)) == ({}, [0])


def test_json_in_other_encodings(local):
    rows = [{"id": str(n), "title": "Größe"} for n in range(3)]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    local.put("0.jsonl", text.encode("utf-16"))
    assert read(local.uri("0.jsonl"))[0] == rows
    local.put("1.jsonl", text.encode("cp1252"))
    assert read(local.uri("1.jsonl"), Columns(encoding="windows-1252"))[0] == rows


def test_files_that_were_put_together(local):
    mark = b"\xef\xbb\xbf"
    local.put("0.csv", mark + b"id,title\n1,x\n" + mark + b"id,title\n2,y\n" + mark + b"3,z\n")
    rows, rejects, _ = read(local.root)
    assert ([row["id"] for row in rows], rejects) == (["1", None, "2", "3"], {1: "line_unparsable"})
    local.put("0.csv", b"id,title\n")
    local.put(
        "0.jsonl", mark + jsonl({"id": "1", "title": "x"}) + mark + jsonl({"id": "2", "title": "x"}) + mark + b"\n"
    )
    rows, rejects, _ = read(local.uri("0.jsonl"))
    assert ([row["id"] for row in rows], rejects) == (["1", "2"], {})


def test_decimal_commas(local):
    local.put("0.csv", b"id;title;price;weight;stock;code\n1;a;1,50;0,250;12;1,234\n2;b;20;1,125;3;5,678\n")
    rows, _, _ = read(local.root)
    assert [list(row.values())[2:] for row in rows] == [[1.5, 0.25, 12, "1,234"], [20.0, 1.125, 3, "5,678"]]
    assert "read as numbers with a decimal comma: price, weight" in said(local.root)
    local.put("0.csv", b'id,title,price\n1,a,"1,50"\n')
    assert read(local.root)[0][0]["price"] == "1,50"


# As Spark 3.5 writes them: `df.write.option("header", True).csv(...)`.
SPARK = rb"""id,title,path
1,"a \"big\" lamp, red",C:\dir
2,"ends with a backslash\\","x,\\"
3,plain,"say \"\""
4,"two
lines \"here\"",y
"""


def test_backslash_escapes(local):
    local.put("0.csv", SPARK)
    local.put("1.csv", b'id,title,path\n5,"C:\\",C:\\dir\n6,"a ""quote"", b",z\n')
    rows, rejects, _ = read(local.root)
    assert rejects == {}
    assert [(row["title"], row["path"]) for row in rows] == [
        ('a "big" lamp, red', "C:\\dir"),
        ("ends with a backslash\\", "x,\\"),
        ("plain", 'say ""'),
        ('two\nlines "here"', "y"),
        ("C:\\", "C:\\dir"),
        ('a "quote", b', "z"),
    ]
    assert "a backslash before a quote is read as an escape" in said(local.root)


TEXTS = st.text(st.sampled_from("ab,;|\t\"'\n\r\\ü1.0 "), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=6),
    st.sampled_from(["csv", "pandas", "polars"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_writers_write_is_read_back(tmp_path_factory, rows, writer, quoting, delimiter, end):
    rows = [(f"k{at}", *row) for at, row in enumerate(rows)]
    names = ["id", "text", "title", "name"]
    text = io.StringIO()
    if writer == "csv":
        csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([names, *rows])
    elif writer == "pandas":
        frame = pd.DataFrame(rows, columns=names)
        frame.to_csv(text, index=False, sep=delimiter, quoting=quoting, lineterminator=end)
    else:
        style = {csv.QUOTE_MINIMAL: "necessary", csv.QUOTE_ALL: "always", csv.QUOTE_NONNUMERIC: "non_numeric"}[quoting]
        frame = pl.DataFrame(rows, schema=names, orient="row")
        text.write(frame.write_csv(separator=delimiter, quote_style=style, line_terminator=end))
    path = tmp_path_factory.mktemp("written") / "0.csv"
    path.write_bytes(text.getvalue().encode())
    # A lone carriage return inside of a field that polars and csv don't quote ends a record for others, too.
    assume(
        list(csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter))[1:] == [list(r) for r in rows]
    )
    found, rejects, misfits = read(str(path))
    assert not rejects
    assert not misfits
    assert [tuple(row.values()) for row in found] == [tuple(value or None for value in row) for row in rows]


# JSON lines


def test_json_lines_of_the_tools(local):
    day = pd.Timestamp("2024-01-02 03:04:05")
    rows = {"id": [1, 2], "text": ["a", "ü\n"], "n": [1.5, None], "tags": [["x"], []], "dims": [{"w": 1}, {"w": None}]}
    frame = pd.DataFrame(rows | {"day": [day, day]})
    local.put("0", b"")
    frame.to_json(local.uri("pandas.jsonl"), orient="records", lines=True, date_format="epoch")
    pl.DataFrame(rows).write_ndjson(local.uri("polars.jsonl"))
    written = pa.table(rows)  # noqa: F841 (DuckDB finds it)
    duckdb.sql(f"copy written to '{local.uri('duckdb.jsonl')}' (format json)")
    expected = [[row[at] for row in rows.values()] for at in (0, 1)]
    for tool in ("pandas", "polars", "duckdb"):
        found, rejects, misfits = read(local.uri(f"{tool}.jsonl"))
        assert [list(row.values())[:5] for row in found] == expected
        assert not rejects
        assert not misfits
    assert read(local.uri("pandas.jsonl"))[0][0]["day"] == day.value // 10**6


def test_int64_as_bigquery_exports_it(local):
    local.put("0.jsonl", jsonl({"id": "9007199254740993", "text": "x", "n": "12"}))
    assert read(local.root)[0] == [{"id": "9007199254740993", "text": "x", "n": "12"}]
    assert read(local.root, like=pa.schema([("n", pa.int64())]))[0][0]["n"] == 12
