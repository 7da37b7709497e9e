"""Finding the columns of id, text and image, and turning values into records."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reasons import Reject
from pipelines.records import read_schema
from pipelines.sources.columns import Batch, Columns, Layout
from vista_core import UsageError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def layout_of(table: pa.Table, **columns) -> Layout:
    return Layout.of(table.schema, Columns(**columns), "here")


def read(layout: Layout, table: pa.Table, rejects: dict | None = None) -> tuple[list[dict], dict[int, Reject]]:
    records, rejects = layout.records(Batch(table, range(100, 100 + len(table)), rejects or {}), "o")
    assert records.schema == read_schema(layout.extra)
    return records.to_pylist(), rejects


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


# Which column is the image


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"text": pa.string(), "image": pa.string()}, "image"),
        ({"text": pa.string(), "image_url": pa.string(), "blob": pa.binary()}, "blob"),
        ({"text": pa.string(), "image_url": pa.string(), "image": pa.binary()}, "image"),
        ({"text": pa.string(), "image": pa.string(), "jpg": pa.binary()}, "jpg"),
        ({"text": pa.string(), "images": pa.list_(STRUCT)}, "images"),
        ({"text": pa.string(), "image_urls": pa.list_(pa.string())}, "image_urls"),
        ({"text": pa.string(), "file_name": pa.large_string()}, "file_name"),
        ({"text": pa.string(), "url": pa.string()}, None),  # as often the page that the image is on
        ({"text": pa.string(), "image": pa.int64()}, None),
        ({"text": pa.string(), "embedding": pa.list_(pa.float32())}, None),
    ],
)
def test_bytes_are_preferred_to_paths_and_the_url_of_a_page_is_no_image(schema, expected):
    layout = Layout.of(pa.schema(list(schema.items())), Columns(), "here")
    assert layout.image == expected


@pytest.mark.parametrize(("only", "text", "image"), [("text", ("title",), None), ("image", (), "jpg")])
def test_one_of_text_and_image_can_be_left_out(only, text, image):
    table = pa.table({"title": ["x"], "jpg": [b"y"]})
    layout = layout_of(table, only=only)
    assert (layout.text, layout.image) == (text, image)
    [record], rejects = read(layout, table)
    assert (record["text"], record["image"]) == (("x", None) if only == "text" else (None, b"y"))
    assert layout.extra.names == (["jpg"] if only == "text" else ["title"])  # the other passes through
    assert not rejects
    with pytest.raises(UsageError, match="no column of text or images found"):
        layout_of(table.select(["jpg" if only == "text" else "title"]), only=only)


def test_a_named_image_column_can_have_strings_but_no_numbers():
    table = pa.table({"caption": ["x"], "url": ["https://a/b.jpg"], "n": [1]})
    assert layout_of(table, image="url").external_images
    with pytest.raises(UsageError, match=r"--image-column n: a column of type int64 can't serve as this"):
        layout_of(table, image="n")
    with pytest.raises(UsageError, match=r"--image-column picture: no such column; there are caption \(string\), url"):
        layout_of(table, image="picture")


def test_a_named_column_may_have_no_value_in_the_first_records():
    table = pa.table({"text": ["x"], "photo": pa.nulls(1)})
    assert layout_of(table).image is None
    layout = layout_of(table, image="photo")
    rows, _ = read(layout, pa.table({"text": ["x"], "photo": ["a.jpg"]}))
    assert columns(rows, "text", "image_uri") == [("x", "a.jpg")]


def test_the_text_column_does_not_serve_as_the_image_too():
    table = pa.table({"image_path": ["a.jpg"]})
    assert layout_of(table, text=("image_path",)).image is None


def test_the_message_for_nothing_to_embed_lists_the_columns():
    with pytest.raises(UsageError, match=r"here: no column of text or images found among n \(int64\)\. Name them"):
        layout_of(pa.table({"n": [1]}))


def test_columns_with_the_same_name_are_left_out():
    table = pa.table([pa.array(["x"]), pa.array([1]), pa.array([2]), pa.array(["y"])], ["text", "n", "n", "id"])
    layout = layout_of(table)
    rows, _ = read(layout, table)
    assert (layout.left_out, columns(rows, "id", "text")) == (("n",), [("y", "x")])
    with pytest.raises(UsageError, match="--text-column n: no such column"):
        layout_of(table, text=("n",))


def misfits(rows: list[dict]) -> dict[int, dict[str, str]]:
    found = enumerate(row["_misfits"] for row in rows)
    return {at: {each["column"]: each["message"] for each in listed} for at, listed in found if listed}


def test_a_list_of_another_size_is_null():
    first, later = (
        pa.table({"text": ["x"], "v": pa.array([values], pa.list_(pa.float32(), len(values)))})
        for values in ([1, 2], [1, 2, 3])
    )
    rows, rejects = read(layout_of(first), later)
    assert (rows[0]["v"], rejects) == (None, {})
    assert misfits(rows) == {0: {"v": "[1.0, 2.0, 3.0] is no fixed_size_list<item: float>[2]"}}


def test_a_struct_without_fields_is_left_out():
    layout = layout_of(pa.table({"text": ["x"], "options": pa.array([{}], pa.struct([]))}))
    assert (layout.extra.names, layout.left_out) == ([], ("options",))


# External images


def test_paths_and_uris_are_passed_on_and_an_empty_one_is_null():
    table = pa.table({"id": ["a", "b", "c"], "text": ["x", "y", "z"], "image_url": ["https://a/b.jpg", "", None]})
    layout = layout_of(table)
    rows, rejects = read(layout, table)
    assert (layout.external_images, rejects) == (True, {})
    assert columns(rows, "id", "image", "image_uri", "_row") == [
        ("a", None, "https://a/b.jpg", 100),
        ("b", None, None, 101),
        ("c", None, None, 102),
    ]
    assert any("paths or URIs to fetch" in line for line in layout.describe())


def test_bytes_alone_are_no_external_images():
    assert not layout_of(pa.table({"image": [b"1"]})).external_images


# Several images


LISTS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "text": ["x", None, "y", "z"],
        "images": pa.array([[b"1", b"2"], [b"3"], [], None]),
        "price": [1, 2, 3, 4],
    }
)


def test_each_image_of_a_list_is_a_row():
    layout = layout_of(LISTS)
    rows, rejects = read(layout, LISTS, {1: Reject("read", "r", "m"), 3: Reject("read", "s", "m")})
    assert columns(rows, "id", "text", "image", "price", "_row") == [
        ("a#0", "x", b"1", 1, 100),
        ("a#1", "x", b"2", 1, 100),
        ("b#0", None, b"3", 2, 101),
        ("c#0", "y", None, 3, 102),  # so that it keeps its id when it gets an image
        ("d#0", "z", None, 4, 103),
    ]
    assert {at: reject.reason for at, reject in rejects.items()} == {2: "r", 4: "s"}
    assert any("ID#0" in line for line in layout.describe())


def test_with_only_the_first_image_ids_stay_as_they_are():
    rows, _ = read(layout_of(LISTS, images="first"), LISTS)
    assert columns(rows, "id", "image") == [("a", b"1"), ("b", b"3"), ("c", None), ("d", None)]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)], ids=str)
def test_lists_of_uris_of_each_kind(kind):
    table = pa.table({"id": [1, 2], "image_urls": pa.array([["a", "b"], None], kind)})
    layout = layout_of(table)
    rows, _ = read(layout, table)
    assert layout.external_images
    assert columns(rows, "id", "image_uri") == [("1#0", "a"), ("1#1", "b"), ("2#0", None)]


def test_lists_of_structs():
    images = pa.array([[{"bytes": b"1", "path": "p"}, {"bytes": None, "path": "q"}], []], pa.list_(STRUCT))
    rows, _ = read(layout_of(pa.table({"images": images})), pa.table({"images": images}))
    assert columns(rows, "id", "image", "image_uri") == [(None, b"1", "p"), (None, None, "q"), (None, None, None)]


def test_a_file_may_have_one_image_where_others_have_lists_and_the_other_way_round():
    single = pa.table({"id": ["a"], "images": [b"1"]})
    rows, rejects = read(layout_of(LISTS), single)
    assert (columns(rows, "id", "image"), rejects) == ([("a#0", b"1")], {})
    rows, rejects = read(layout_of(single), LISTS.select(["id", "images"]))
    assert [reject.reason for reject in rejects.values()] == ["column_type"] * 3  # the null is no misfit
    assert len(rows) == 4


@given(st.lists(st.none() | st.lists(st.binary(max_size=3) | st.none(), max_size=4), min_size=1), st.integers(0, 3))
def test_no_image_is_lost_or_doubled_in_slices(lists, start):
    table = pa.table({"id": [str(n) for n in range(len(lists))], "images": pa.array(lists, pa.list_(pa.binary()))})
    rows, _ = read(layout_of(table), table.slice(start))
    expected = [
        (f"{n + start}#{at}", image)
        for n, images in enumerate(lists[start:])
        for at, image in enumerate(images or [None])
    ]
    assert columns(rows, "id", "image") == expected


# Text that is not UTF-8


def invalid(kind: pa.DataType) -> pa.Array:
    """Three values of which the second is not UTF-8."""
    offsets = pa.array([b"ok", b"\xff\xfe", None])
    strings = pa.Array.from_buffers(pa.string(), 3, offsets.buffers())
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays([0, 1, 2, 2], strings)
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([strings], fields=[kind.field(0)])
    return strings.cast(kind)


def with_invalid(column: str) -> pa.Table:
    kinds = dict.fromkeys(("id", "text", "image_url", "plain"), pa.string())
    kinds |= {"large": pa.large_string(), "list": pa.list_(pa.string()), "struct": pa.struct([("s", pa.string())])}
    table = pa.table({name: pa.array([None] * 3, kind) for name, kind in kinds.items()})
    return table.set_column(table.schema.get_field_index(column), column, invalid(kinds[column]))


@pytest.mark.parametrize("column", ["id", "text", "image_url"])
def test_text_that_is_not_utf8_rejects_its_own_row(column):
    table = with_invalid(column)
    rows, rejects = read(layout_of(table), table)
    name = {"image_url": "image_uri"}.get(column, column)
    assert {at: reject.reason for at, reject in rejects.items()} == {1: "text_not_utf8"}, "null is not invalid"
    assert name in rejects[1].message
    assert rows[1][name] is None
    assert rows[0][name] == "ok"


@pytest.mark.parametrize("column", ["plain", "large", "list", "struct"])
def test_a_string_that_passes_through_and_is_not_utf8_is_null(column):
    table = with_invalid(column)
    rows, rejects = read(layout_of(table), table)
    assert (rejects, misfits(rows)) == ({}, {1: {column: "it is not valid UTF-8"}})
    assert rows[1][column] is None
    assert rows[0][column] in ("ok", ["ok"], {"s": "ok"})
    _, rejects = read(layout_of(table, strict=True), table)
    assert {at: reject.reason for at, reject in rejects.items()} == {1: "text_not_utf8"}


def test_a_misfit_in_a_column_that_no_record_has_is_counted_and_one_in_the_text_rejects():
    table = pa.table({"id": ["a", "b"], "text": ["x", None]})
    found = {0: {"cls": "'?' is no int64"}, 1: {"text": "it is a list"}}
    records, rejects = layout_of(table).records(Batch(table, range(2), {}, found), "o")
    assert misfits(records.to_pylist()) == {0: found[0]}
    assert [*rejects] == [1]
    assert rejects[1].reason == "column_type"
