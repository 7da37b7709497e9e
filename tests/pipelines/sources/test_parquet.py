"""Parquet files of all kinds, whole and damaged, become records in one schema."""

import dataclasses
import datetime
import pickle
import uuid
from collections.abc import Iterator

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.records import RESERVED, read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.limits import Limits
from pipelines.storage.errors import SourceChangedError, SourceError
from pipelines.storage.files import list_files
from vista_core import UsageError

TEXTS = pa.table({"id": ["a", "b", "c"], "text": ["x", "y", "z"]})


def encoded(table: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def batches(source) -> Iterator[tuple[pa.Table, dict]]:
    for unit in source.units():
        yield from source.read(pickle.loads(pickle.dumps(unit)))


def read(source) -> tuple[list[dict], dict[tuple[str, int], str]]:
    """The records that could be read, and by file and row the reasons of the others."""
    rows, reasons = [], {}
    for table, rejects in batches(source):
        assert table.schema == read_schema(source.extra)
        for number, row in enumerate(table.to_pylist()):
            if number in rejects:
                reasons[row["_object"], row["_row"]] = rejects[number].reason
            else:
                rows.append(row)
    return rows, reasons


def open_table(store, table: pa.Table, columns: Columns = Columns(), **options):  # noqa: B008 - frozen
    store.put("catalog.parquet", encoded(table, **options))
    return open_source(store.root, columns)


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


# What is read


def test_a_column_of_bytes_is_the_image(store):
    table = pa.table({"id": ["a", "b"], "caption": ["x", None], "jpg": [b"1", None], "price": [1.5, 2.5]})
    source = open_table(store, table)
    assert (source.has_ids, source.has_uris) == (True, False)
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text", "image", "price") == [("a", "x", b"1", 1.5), ("b", None, None, 2.5)]
    assert columns(rows, "image_uri", "_object", "_row") == [
        (None, store.uri("catalog.parquet"), 0),
        (None, store.uri("catalog.parquet"), 1),
    ]


def test_a_struct_of_bytes_and_path_is_the_image(store):
    image = pa.array([{"bytes": b"1", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None])
    source = open_table(store, pa.table({"id": ["a", "b", "c"], "image": image}))
    assert source.has_uris
    rows, reasons = read(source)
    assert columns(rows, "image", "image_uri") == [(b"1", "a.jpg"), (None, "b.jpg"), (None, None)]
    assert reasons == {}


@pytest.mark.parametrize("pattern", ["", "*.parquet", "b c#%20[1].parquet", "**/*.pq"])
def test_a_folder_a_glob_and_a_single_file_are_read(store, pattern):
    for name in ("a.parquet", "b c#%20[1].parquet", "sub/ü.pq", "_SUCCESS", ".a.parquet.crc", "notes.txt"):
        store.put(name, encoded(pa.table({"text": [name]})) if name.endswith(("parquet", "pq")) else b"")
    source = open_source(store.uri(pattern) if pattern else store.root, Columns())
    rows, reasons = read(source)
    assert reasons == {}
    assert [row["text"] for row in rows] == {
        "": ["a.parquet", "b c#%20[1].parquet", "sub/ü.pq"],
        "*.parquet": ["a.parquet", "b c#%20[1].parquet"],
        "b c#%20[1].parquet": ["b c#%20[1].parquet"],
        "**/*.pq": ["sub/ü.pq"],
    }[pattern]
    assert all(row["_object"].endswith(row["text"]) for row in rows)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int64(), [1, 2, 3]),
        (pa.uint8(), [1, 2, 3]),
        (pa.large_string(), ["1", "2", "3"]),
        (pa.string_view(), ["1", "2", "3"]),
        (pa.dictionary(pa.int8(), pa.string()), ["1", "2", "3"]),
    ],
    ids=str,
)
def test_ids_of_other_types_become_strings(local, kind, values):
    rows, _ = read(open_table(local, TEXTS.set_column(0, "id", pa.array(values, kind))))
    assert [row["id"] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_texts_of_other_types_become_strings(local, kind):
    source = open_table(local, TEXTS.set_column(1, "text", pa.array(["x", None, "x"], kind)))
    rows, _ = read(source)
    assert [row["text"] for row in rows] == ["x", None, "x"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_images_may_have_any_binary_type(local, kind):
    rows, _ = read(open_table(local, pa.table({"image": pa.array([b"1", None], kind)})))
    assert [row["image"] for row in rows] == [b"1", None]


def test_columns_of_any_type_pass_through(local):
    values = {
        "price": pa.array([1.5, None, 2.5]),
        "tags": pa.array([["a"], [], None]),
        "offers": pa.array([[{"shop": "s", "sizes": [1, 2]}], None, []]),
        "matrix": pa.array([[[1.0], [2.0]], [], None]),
        "seen": pa.array([datetime.datetime(2024, 1, 1)] * 3, pa.timestamp("us", "UTC")),
        "big": pa.array(["l", None, "m"], pa.large_string()),
        "colour": pa.array(["red", "red", None]).dictionary_encode(),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 2),
    }
    table = TEXTS
    for name, column in values.items():
        table = table.append_column(name, column)
    source = open_table(local, table)
    assert source.extra.names == list(values)
    assert source.extra.field("colour").type == pa.string(), "files may have different categories"
    rows, _ = read(source)
    for name, column in values.items():
        assert [row[name] for row in rows] == column.to_pylist()


def test_columns_are_nullable_even_if_the_file_says_otherwise(local):
    """Batch statistics and damaged rows have no value for it."""
    schema = pa.schema([pa.field("text", pa.string()), pa.field("price", pa.int64(), nullable=False)])
    source = open_table(local, pa.table({"text": ["x"], "price": [1]}, schema=schema))
    assert source.extra.field("price").nullable


def test_columns_that_a_table_cannot_store_are_left_out_and_listed(local):
    kept = {"id": ["k"], "text": ["x"], "_idx": [1], "a b": [2]}
    left_out = {name: [1] for name in sorted(RESERVED - {"id", "text", "image"})} | {
        "dotted.name": [1],
        "a`tick": [1],
        "": [1],
        "nothing": pa.nulls(1),
        "deep nothing": pa.array([[]], pa.list_(pa.null())),
    }
    source = open_table(local, pa.table(kept | left_out))
    assert source.extra.names == ["_idx", "a b"]
    assert source.layout.left_out == tuple(left_out)
    said = "; ".join(source.describe())
    assert "left out" in said
    assert "dotted.name" in said
    rows, _ = read(source)
    assert columns(rows, "id", "text", "_idx", "a b") == [("k", "x", 1, 2)]


def test_rows_are_numbered_through_the_file_across_row_groups(store):
    table = pa.table({"id": [f"k{n}" for n in range(25)], "text": ["x"] * 25})
    for name in ("a.parquet", "b.parquet"):
        store.put(name, encoded(table, row_group_size=10))
    source = open_source(store.root, Columns())
    assert [unit.rows for unit in source.units()] == [10, 10, 5] * 2
    rows, _ = read(source)
    expected = [(store.uri(name), n, f"k{n}") for name in ("a.parquet", "b.parquet") for n in range(25)]
    assert columns(rows, "_object", "_row", "id") == expected


@settings(max_examples=30)
@given(rows=st.integers(1, 60), image_size=st.integers(0, 300), ceiling=st.integers(1, 2000))
def test_a_batch_is_bounded_in_bytes_and_rows(tmp_path_factory, rows, image_size, ceiling):
    path = tmp_path_factory.mktemp("bounded") / "a.parquet"
    images = [bytes([n]) * image_size for n in range(rows)]
    pq.write_table(pa.table({"image": images}), path, compression="none", use_dictionary=False)
    source = open_source(str(path), Columns(), limits=Limits(batch_bytes=ceiling, batch_rows=20))
    sizes = [len(table) for table, _ in batches(source)]
    assert sum(sizes) == rows
    assert max(sizes) <= 20
    assert max(sizes) <= 16 or max(sizes) * image_size <= ceiling


# Which columns


def test_columns_are_found_by_their_usual_names(local):
    table = pa.table({"description": ["d"], "title": ["t"], "photo": [b"p"], "thumb": [b"t"], "sku": [7], "x": ["e"]})
    source = open_table(local, table)
    assert (source.layout.id, source.layout.text, source.layout.image) == ("sku", ("title",), "photo")
    assert source.extra.names == ["description", "thumb", "x"]
    assert "id: sku, text: title, image: photo, passed through: description, thumb, x" in source.describe()


def test_a_column_with_a_usual_name_but_another_type_is_not_chosen(local):
    table = pa.table({"title": [1], "caption": ["c"], "image": [1]})
    source = open_table(local, table)
    assert (source.layout.id, source.layout.text, source.layout.image) == (None, ("caption",), None)


@pytest.mark.parametrize("values", [[True], [[1]], [{"oid": "a"}]], ids=str)
def test_a_column_named_like_an_id_that_cannot_serve_is_refused(local, values):
    with pytest.raises(UsageError, match=r"column '_id' is named like an id, but a column of type .*--id-column"):
        open_table(local, pa.table({"_id": values, "title": ["x"]}))
    assert open_table(local, pa.table({"_id": values, "sku": ["a"], "title": ["x"]})).layout.id == "sku"


def test_the_only_column_of_bytes_is_the_image(local):
    png = b"\x89PNG\r\n\x1a\n..."
    assert open_table(local, pa.table({"body": [b"1"], "other": [png], "n": [1]})).layout.image == "other"
    with pytest.raises(UsageError, match=r"the columns body, other have images. Name one with --image-column"):
        open_table(local, pa.table({"body": [png], "other": [png]}))


def test_bytes_that_are_no_images_pass_through(local):
    source = open_table(local, pa.table({"title": ["x"], "sha256": [b"\1" * 32], "image_url": ["a.png"]}))
    assert (source.layout.image, source.extra.names) == ("image_url", ["sha256"])
    rows, _ = read(source)
    assert columns(rows, "sha256", "image_uri") == [(b"\1" * 32, "a.png")]


def test_text_that_is_stored_as_bytes_is_text(local):
    source = open_table(local, pa.table({"title": ["Stra\u00dfe".encode(), None, b"x", b"\xff"]}))
    rows, reasons = read(source)
    assert columns(rows, "text") == [("Stra\u00dfe",), (None,), ("x",)]
    assert [*reasons.values()] == ["text_not_utf8"]


def test_named_columns_are_chosen(local):
    table = pa.table({"id": ["a"], "text": ["x"], "image": [b"1"], "nr": [7], "note": ["n"], "scan": [b"2"]})
    source = open_table(local, table, Columns("nr", ("note",), "scan"))
    rows, _ = read(source)
    assert columns(rows, "id", "text", "image") == [("7", "n", b"2")]
    assert source.layout.left_out == ("id", "text", "image"), "their names are taken"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (Columns(id="nope"), r"--id-column nope: no such column; there are id \(string\), text \(string\)"),
        (Columns(text=("text", "pair")), r"--text-column pair: a column of type struct<path: string> can't serve"),
        (Columns(image="price"), r"--image-column price: a column of type double can't serve"),
        (Columns(image="pair"), r"--image-column pair: a column of type struct<path: string> can't serve"),
        (Columns(id="pair"), r"--id-column pair: a column of type struct<path: string> can't serve"),
    ],
)
def test_the_message_for_an_unusable_column_lists_the_columns(local, named, message):
    table = TEXTS.append_column("price", pa.array([1.5] * 3)).append_column("pair", pa.array([{"path": "a"}] * 3))
    with pytest.raises(UsageError, match=message):
        open_table(local, table, named)


def test_the_message_for_nothing_to_embed_lists_the_columns(local):
    with pytest.raises(UsageError, match=r"no column of text or images .* price \(double\).*--text-column"):
        open_table(local, pa.table({"price": [1.5]}))


def test_without_an_id_column_there_are_no_ids(local):
    source = open_table(local, pa.table({"text": ["x"]}))
    assert not source.has_ids
    assert "id: hash of the content" in source.describe()[1]
    rows, _ = read(source)
    assert rows[0]["id"] is None


# Files that differ


def two_files(store, first: dict, second: dict):
    store.put("1.parquet", encoded(pa.table(first)))
    store.put("2.parquet", encoded(pa.table(second)))
    return open_source(store.root, Columns())


def test_a_column_missing_in_a_later_file_is_null(local):
    first = {"id": ["a"], "text": ["x"], "image": [b"1"], "price": [1], "tags": [["t"]]}
    rows, reasons = read(two_files(local, first, {"text": ["y"], "more": [1]}))
    assert reasons == {}
    assert columns(rows, "id", "text", "image", "price", "tags") == [
        ("a", "x", b"1", 1, ["t"]),
        (None, "y", None, None, None),
    ]


def test_no_row_of_a_later_file_without_common_columns_is_lost(local):
    rows, reasons = read(two_files(local, {"id": ["a"], "text": ["x"]}, {"other": [1, 2]}))
    assert len(rows) + len(reasons) == 3


def test_a_wider_type_in_a_later_file_is_that_of_the_column(local):
    first = {"id": pa.array([1], pa.int32()), "text": ["x"], "n": pa.array([1], pa.int32()), "image": [b"1"]}
    image = pa.array([{"bytes": b"2", "path": "p"}])
    second = {"id": [2**40], "text": pa.array(["y"], pa.large_string()), "n": pa.array([2], pa.int64()), "image": image}
    rows, _ = read(two_files(local, first, second))
    assert columns(rows, "id", "text", "n", "image") == [("1", "x", 1, b"1"), (str(2**40), "y", 2, b"2")]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("n", ["many", "7"], "column n: int32 in {}1.parquet, string in {}2.parquet"),
        ("image", [7, None], "column image: binary in {}1.parquet, int64 in {}2.parquet"),
        ("text", [{"de": "x"}, None], "column text: string in {}1.parquet, struct<de: string> in {}2.parquet"),
    ],
)
def test_types_that_no_type_holds_are_said(local, name, values, message):
    first = {"text": ["x", "y"], "n": pa.array([1, 2], pa.int32()), "image": [b"1", b"2"]}
    source = two_files(local, first, first | {name: values})
    second = local.uri("2.parquet")
    said = f"{message}; values of {second} that don't fit are null".replace("{}", local.uri(""))
    assert said in source.describe()
    rows, reasons = read(source)
    assert len(rows) + len(reasons) == 4


def test_the_first_file_does_not_decide_for_all(local):
    first = {"id": ["1"], "caption": pa.nulls(1), "n": pa.array([1], pa.int32()), "image": [b"1"]}
    second = {"id": ["2"], "caption": ["red shoe"], "n": pa.array([2**40]), "image": [b"2"], "brand": ["b"]}
    rows, reasons = read(two_files(local, first, second))
    assert reasons == {}
    assert columns(rows, "text", "n", "brand") == [(None, 1, None), ("red shoe", 2**40, "b")]


def test_columns_are_those_of_a_sample_of_many_files(local):
    for number in range(150):
        odd = {"odd": [1]} if number in (0, 149) else {}
        local.put(f"{number:03}.parquet", encoded(pa.table({"id": [f"{number}"], "text": ["x"]} | odd)))
    local.put("000.parquet", b"damaged")
    source = open_source(local.root, Columns())
    assert source.extra.names == ["odd"]
    rows, reasons = read(source)
    assert (len(rows), len(reasons)) == (149, 1)


def test_a_file_with_too_many_columns_costs_its_own_columns(local):
    second = {"id": ["2"], "text": ["y"]} | {f"c{number}": [1] for number in range(997)}
    source = two_files(local, {"id": ["1"], "text": ["x"], "a": [1], "b": [2]}, second)
    assert any(line.startswith("NOT READ, the columns that only") for line in source.describe())
    rows, reasons = read(source)
    assert (columns(rows, "id", "a", "b"), reasons) == ([("1", 1, 2), ("2", None, None)], {})


# What the tools write


def test_types_of_duckdb(local, tmp_path):
    duckdb.sql(
        "COPY (SELECT i AS id, 'x' AS title, uuid() AS uid, '{}'::JSON AS attrs, MAP {'a': i} AS m, [uuid()] AS uids, "
        "{'j': '1'::JSON, 'u': uuid()} AS s, i::UBIGINT AS u, (i * 1.5)::DECIMAL(38, 4) AS d, TIME '01:02:03' AS t, "
        f"'b'::ENUM('a', 'b') AS e FROM range(3) r(i)) TO '{tmp_path}/a.parquet'"
    )
    rows, reasons = read(open_source(str(tmp_path / "a.parquet"), Columns()))
    assert reasons == {}
    [expected] = duckdb.sql(
        f"SELECT uid::VARCHAR, attrs::VARCHAR, uids::VARCHAR[], u, d, t, e FROM '{tmp_path}/a.parquet' WHERE id = 1"
    ).fetchall()
    [row] = [row for row in rows if row["id"] == "1"]
    assert tuple(row[name] for name in ("uid", "attrs", "uids", "u", "d", "t", "e")) == expected
    assert row["m"] == [{"key": "a", "value": 1}]
    assert row["s"]["j"] == "1"
    assert str(uuid.UUID(row["s"]["u"])) == row["s"]["u"]


def test_types_of_polars_and_pandas(tmp_path):
    frame = pl.DataFrame(
        {
            "id": ["1", "2"],
            "text": ["x", None],
            "c": pl.Series(["a", None], dtype=pl.Categorical),
            "e": pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])),
            "d": pl.Series([1, None], dtype=pl.Duration("us")),
            "l": [["a"], None],
            "arr": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
            "u": pl.Series([2**64 - 1, 0], dtype=pl.UInt64),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    rows, reasons = read(open_source(str(tmp_path / "a.parquet"), Columns()))
    assert (reasons, [{name: row[name] for name in frame.columns} for row in rows]) == ({}, frame.to_dicts())
    pd.DataFrame({"id": ["1"], "text": ["x"], "c": pd.Categorical(["a"]), "n": [float("nan")]}).to_parquet(
        tmp_path / "b.parquet"
    )
    rows, reasons = read(open_source(str(tmp_path / "b.parquet"), Columns()))
    assert (columns(rows, "id", "text", "c", "n"), reasons) == ([("1", "x", "a", None)], {})


@pytest.mark.parametrize("store_schema", [True, False])
def test_int96_timestamps_beyond_nanoseconds_are_read(local, store_schema):
    times = [datetime.datetime(2024, 1, 1), datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 1, 2, 3, 4)]
    table = TEXTS.append_column("t", pa.array(times, pa.timestamp("us")))
    source = open_table(local, table, use_deprecated_int96_timestamps=True, store_schema=store_schema)
    assert "timestamps of the type INT96, in microseconds: t" in source.describe()
    rows, reasons = read(source)
    assert ([row["t"] for row in rows], reasons) == (times, {})


def test_a_column_with_a_dot_is_not_a_part_of_another(local):
    table = TEXTS.append_column("a", pa.array([{"b": n} for n in range(3)])).append_column("a.b", pa.array([7, 8, 9]))
    source = open_table(local, table)
    [batch] = source.format.batches(source.units()[0], ["a"])
    assert batch.table.column_names == ["a"]
    assert source.layout.left_out == ("a.b",)
    rows, _ = read(source)
    assert [row["a"] for row in rows] == [{"b": 0}, {"b": 1}, {"b": 2}]


def test_repeated_names_are_left_out_in_whichever_file_they_are(local):
    local.put("1.parquet", encoded(pa.table({"id": ["1"], "text": ["x"], "n": [1]})))
    local.put("2.parquet", encoded(pa.table([["2"], ["y"], [1], [2]], names=["id", "text", "n", "n"])))
    source = open_source(local.root, Columns())
    assert source.layout.left_out == ("n",)
    rows, reasons = read(source)
    assert (columns(rows, "id", "text"), reasons) == ([("1", "x"), ("2", "y")], {})


def test_groups_files_and_schemas_without_anything(local):
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, TEXTS.schema) as writer:
        for part in (TEXTS.slice(0, 0), TEXTS, TEXTS.slice(0, 0), TEXTS):
            writer.write_table(part)
    local.put("0.parquet", encoded(pa.table({})))
    local.put("1.parquet", encoded(TEXTS.slice(0, 0)))
    local.put("2.parquet", sink.getvalue().to_pybytes())
    rows, reasons = read(open_source(local.root, Columns()))
    assert ([row["_row"] for row in rows], reasons) == (list(range(6)), {})


def test_a_value_of_a_later_file_that_does_not_fit_its_column_is_null(local):
    first = {"text": ["x", "y"], "n": pa.array([1, 2], pa.int32())}
    rows, reasons = read(two_files(local, first, first | {"n": ["many", "7"]}))
    assert reasons == {}
    assert columns(rows, "n") == [(1,), (2,), (None,), (7,)]
    assert rows[2]["_misfits"] == [{"column": "n", "message": "'many' is no int32"}]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [("image", [7, None], "image: 7 is no large_binary"), ("text", [{"de": "x"}, None], "the text {'de': 'x'} is no")],
)
def test_a_text_or_image_of_a_later_file_that_is_none_rejects_its_own_row(local, name, values, message):
    first = {"text": ["x", "y"], "image": [b"1", b"2"]}
    source = two_files(local, first, first | {name: values})
    rows, reasons = read(source)
    assert len(rows) == 3
    assert reasons == {(local.uri("2.parquet"), 0): "column_type"}
    [reject] = [reject for _, rejects in batches(source) for reject in rejects.values()]
    assert message in reject.message


# Damage


def damaged_group(table: pa.Table, column: int, **options) -> bytes:
    """A file in whose second row group part of a column is overwritten."""
    content = bytearray(encoded(table, **options))
    chunk = pq.read_metadata(pa.BufferReader(bytes(content))).row_group(1).column(column)
    start = min(offset for offset in (chunk.data_page_offset, chunk.dictionary_page_offset) if offset)
    middle, end = start + chunk.total_compressed_size // 2, start + chunk.total_compressed_size
    content[middle:end] = b"\xff" * (end - middle)
    return bytes(content)


def test_damage_in_a_row_group_rejects_the_rest_of_its_rows_only(store):
    rng = np.random.default_rng(0)
    table = pa.table({"id": [f"k{n}" for n in range(300)], "image": [rng.bytes(500) for _ in range(300)]})
    content = damaged_group(table, 1, row_group_size=100, data_page_size=2000, use_dictionary=False)
    store.put("a.parquet", content)
    source = open_source(store.root, Columns(), limits=Limits(batch_rows=16, reject_rows=16))
    rows, reasons = read(source)
    good = [row["_row"] for row in rows]
    assert [number for number in good if not 100 <= number < 200] == [*range(100), *range(200, 300)]
    kept = [number for number in good if 100 <= number < 200]
    assert kept == list(range(100, 100 + len(kept)))
    assert 16 <= len(kept) < 100, "what comes before the damage is read"
    assert reasons == {(store.uri("a.parquet"), number): "object_unreadable" for number in range(100 + len(kept), 200)}
    assert columns(rows, "id", "image") == [(f"k{n}", table["image"][n].as_py()) for n in good]
    assert max(len(batch) for batch, _ in batches(source)) <= 16, "rejects are bounded too"


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not parquet at all", None])
def test_a_file_without_a_readable_footer_is_one_reject(store, damage):
    good = encoded(TEXTS)
    store.put("1.parquet", good[:-20] + bytes(20) if damage is None else damage)
    store.put("2.parquet", good)
    source = open_source(store.root, Columns())
    rows, reasons = read(source)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert reasons == {(store.uri("1.parquet"), 0): "object_unreadable"}
    assert [unit.rows for unit in source.units()] == [1, 3]


def test_a_source_without_any_readable_file_is_a_usage_error(store):
    store.put("1.parquet", b"")
    with pytest.raises(UsageError, match=r"no readable Parquet file: .*1\.parquet"):
        open_source(store.root, Columns())


@pytest.mark.parametrize("value", [0x7F, 0xFF])
def test_whatever_byte_is_damaged_each_row_that_is_listed_is_read_or_rejected_once(local, value):
    good = encoded(TEXTS, row_group_size=2, compression="none", store_schema=False, write_statistics=False)
    source = open_table(local, TEXTS)
    for at in range(len(good)):
        local.put("catalog.parquet", good[:at] + bytes([value]) + good[at + 1 :])
        relisted = dataclasses.replace(source.format, listing=list_files(local.root))
        damaged = dataclasses.replace(source, format=relisted)
        for unit in damaged.units():
            numbers = [n for table, _ in damaged.read(unit) for n in table["_row"].to_pylist()]
            assert numbers == list(range(unit.first_row, unit.first_row + unit.rows)), f"byte {at}"
            assert unit.rows > 0


def test_a_file_that_is_replaced_after_listing_is_not_read(store):
    source = open_table(store, TEXTS)
    [unit] = source.units()
    store.put("catalog.parquet", encoded(TEXTS.slice(1)))
    with pytest.raises(SourceChangedError, match=r"catalog\.parquet changed"):
        list(source.read(unit))
    with pytest.raises(SourceChangedError):
        source.units()


def test_a_failing_store_is_not_taken_for_damage(faulty_bucket):
    """A later run can read the rows. Rejecting them would lose them."""
    source = open_table(faulty_bucket, TEXTS)
    [unit] = source.units()
    faulty_bucket.proxy.fail("501", "READ")
    with pytest.raises(SourceError, match=r"\.parquet: OSError.*Not Implemented.*AWS_"):
        list(source.read(unit))


def test_a_catalog_without_rows_has_no_units(local):
    source = open_table(local, TEXTS.slice(0, 0))
    assert sum(unit.rows for unit in source.units()) == 0
    assert read(source) == ([], {})


def test_bytes_of_a_name_that_are_not_utf8_become_escapes(local):
    local.put("a.parquet", encoded(TEXTS))
    odd = local.uri("caf\udce9.parquet")
    local.fs.mv(local.uri("a.parquet"), odd)
    rows, _ = read(open_source(local.root, Columns()))
    assert {row["_object"] for row in rows} == {local.uri("caf\\xe9.parquet")}
