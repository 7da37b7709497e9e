"""A backfill fills a column of anybody's table from the table's own rows, and nothing else of it changes."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.backfill.run import Setup
from pipelines.events import Counts
from pipelines.gates.judge import GateError
from pipelines.records import ID, VECTOR, embeddable, replace_column
from pipelines.stages.pool import Stages
from pipelines.tables.vector_column import VectorColumn
from tests.pipelines.backfill.tables import BROKEN, COLUMN, ROWS, backfill, check, make, products
from tests.pipelines.embed.on_warm_workers import encode
from vista_core import Record, UsageError

BAD = len([n for n in range(ROWS) if n % 21 == 0])


def rejects(db) -> list[dict]:
    return lance.dataset(f"{db}/shop_rejects.lance").to_table().to_pylist()


def without_column(table: lance.LanceDataset) -> pa.Table:
    return table.to_table(columns=[name for name in table.schema.names if not name.startswith(COLUMN)])


def figures(counts: Counts) -> dict[str, int]:
    names = ("read", "written", "unchanged", "empty", "rejected")
    return {name: getattr(counts, name) for name in names if getattr(counts, name)}


class Counting:
    """An encoder for warm workers that notes the ids of what it encodes in a file."""

    def __init__(self, path) -> None:
        self.path = path

    def stages(self) -> Stages:
        return Stages(encoder=functools.partial(noting, path=str(self.path)))

    @property
    def encoded(self) -> Counter[str]:
        return Counter(self.path.read_text().split()) if self.path.exists() else Counter()


def noting(records, settings, identity, actors_per_node, slot, path):
    ids = [key for key, live in zip(records[ID].to_pylist(), embeddable(records, slot.number), strict=True) if live]
    with Path(path).open("a") as file:
        file.write("".join(f"{key}\n" for key in ids))
    return encode(records, settings, identity, actors_per_node, slot)


@pytest.fixture
def counting(tmp_path) -> Counting:
    return Counting(tmp_path / "encoded")


def test_a_new_column_has_the_vector_of_each_row_and_a_second_run_has_nothing_to_do(ray_cluster, tmp_path):
    uri = make(tmp_path)
    lance.dataset(uri).delete("price IN (5, 39)")
    lance.dataset(uri).create_scalar_index("sku", "BTREE", name="of_sku")
    before = without_column(lance.dataset(uri))

    summary = backfill(tmp_path)
    table = check(uri)
    assert without_column(table).equals(before)
    assert [index.name for index in table.describe_indices()] == ["of_sku"]
    there = ROWS - 2
    assert figures(summary.counts) == {"read": there, "written": there - BAD, "rejected": BAD}
    assert summary.counts.work["texts"] + summary.counts.work["images"] == there - BAD
    assert {(row["id"], row["reason"]) for row in rejects(tmp_path)} == {
        (f"p{n}", "image_undecodable") for n in range(ROWS) if n % 21 == 0
    }
    again = backfill(tmp_path)
    assert figures(again.counts) == {}
    assert len(rejects(tmp_path)) == BAD
    assert not [each for each in tmp_path.iterdir() if each.name == "shop_backfill.lance"]


def test_only_what_changed_is_encoded_again(ray_cluster, tmp_path, counting):
    uri = make(tmp_path)
    backfill(tmp_path)
    lance.dataset(uri).update({"caption": "'another caption'"}, where="sku IN ('p1', 'p22')")
    lance.dataset(uri).update({"price": "-1"}, where="sku = 'p2'")
    lance.write_dataset(products([100, 101]), uri, mode="append")
    lance.dataset(uri).delete("sku = 'p40'")
    backfill(tmp_path, Setup(stages=counting.stages()))
    check(uri)
    assert counting.encoded == Counter(["p1", "p22", "p100", "p101"])


def test_nothing_is_encoded_after_a_compaction(ray_cluster, tmp_path, counting):
    uri = make(tmp_path)
    backfill(tmp_path)
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1_000)
    summary = backfill(tmp_path, Setup(stages=counting.stages()))
    check(uri)
    assert not counting.encoded
    assert figures(summary.counts) == {"read": ROWS, "unchanged": ROWS - BAD, "rejected": BAD}
    assert figures(backfill(tmp_path).counts) == {}
    assert len(rejects(tmp_path)) == BAD


def test_a_row_that_is_mended_gets_its_vector_and_loses_its_reject(ray_cluster, tmp_path):
    uri = make(tmp_path)
    backfill(tmp_path)
    mended = products([21]).set_column(2, "photo", products([3])["photo"])
    lance.dataset(uri).merge_insert("sku").when_matched_update_all().execute(mended)
    backfill(tmp_path)
    check(uri)
    assert "p21" not in {row["id"] for row in rejects(tmp_path)}


def test_a_row_that_is_spoiled_loses_its_vector(ray_cluster, tmp_path):
    uri = make(tmp_path)
    backfill(tmp_path)
    spoiled = products([3]).set_column(2, "photo", pa.array([BROKEN], pa.large_binary()))
    lance.dataset(uri).merge_insert("sku").when_matched_update_all().execute(spoiled)
    backfill(tmp_path)
    check(uri)
    assert "p3" in {row["id"] for row in rejects(tmp_path)}


def test_rows_with_nothing_to_embed_have_no_vector_and_are_no_rejects(ray_cluster, tmp_path):
    rows = products(range(1, 9), caption=pa.array(["", None, "a", "b", "c", "d", "e", "f"]))
    uri = make(tmp_path, rows)
    summary = backfill(tmp_path)
    check(uri)
    assert figures(summary.counts) == {"read": 8, "written": 6, "empty": 2}
    assert rejects(tmp_path) == []
    assert figures(backfill(tmp_path).counts) == {}


def test_a_filter_fills_some_rows_and_the_column_is_complete_once_all_are_filled(ray_cluster, tmp_path, counting):
    uri = make(tmp_path)
    summary = backfill(tmp_path, where="price < 30")
    check(uri, among=lambda row: row["price"] < 30)
    assert summary.counts.read == 30
    assert "incomplete" in str(summary)
    summary = backfill(tmp_path, Setup(stages=counting.stages()))
    check(uri)
    assert "complete, at version" in str(summary)
    assert counting.encoded == Counter(f"p{n}" for n in range(30, ROWS) if n % 21)


def test_several_columns_are_filled_in_one_pass(ray_cluster, tmp_path):
    uri = make(tmp_path)
    backfill(tmp_path, column=("plain",), model=("vista-tiny",))
    both = {"column": ("plain", "white"), "model": ("vista-tiny", "vista-tiny")}
    summary = backfill(tmp_path, **both)
    assert figures(summary.counts) == {"read": ROWS, "written": ROWS - BAD, "rejected": BAD}
    check(uri, "plain")
    check(uri, "white")


def test_texts_of_several_columns_are_joined_and_stay_so(ray_cluster, tmp_path):
    rows = products(range(10), brand=pa.array([f"brand {n}" for n in range(10)]))
    uri = make(tmp_path, rows)

    def record(row: dict) -> Record:
        return Record(f"{row['brand']}\n{row['caption']}", row["photo"])

    backfill(tmp_path, text_column=("brand", "caption"))
    check(uri, record=record)
    lance.write_dataset(products([50], brand=pa.array(["new"])), uri, mode="append")
    backfill(tmp_path)
    check(uri, record=record)
    with pytest.raises(UsageError, match="was filled from other columns"):
        backfill(tmp_path, text_column=("caption",))


def test_images_by_path_are_fetched(ray_cluster, tmp_path):
    rows = products(range(12))
    paths = []
    for number, photo in enumerate(rows["photo"].to_pylist()):
        paths.append(f"images/{number}.png" if photo else None)
        if photo:
            (tmp_path / "images").mkdir(exist_ok=True)
            (tmp_path / "images" / f"{number}.png").write_bytes(photo)
    rows = rows.drop_columns(["photo"]).append_column("image_url", pa.array(paths))
    uri = make(tmp_path, rows)

    def record(row: dict) -> Record:
        path = row["image_url"]
        return Record(row["caption"], (tmp_path / path).read_bytes() if path else None)

    backfill(tmp_path)
    check(uri, record=record)
    (tmp_path / "images" / "3.png").write_bytes(products([6])["photo"][0].as_py())
    assert figures(backfill(tmp_path).counts) == {}
    summary = backfill(tmp_path, read_all=True)
    assert summary.counts.written == 1
    check(uri, record=record)


def test_an_image_that_cannot_be_fetched_now_is_tried_again(ray_cluster, tmp_path):
    rows = products(range(4)).drop_columns(["photo"])
    rows = rows.append_column("image_url", pa.array(["1.png", None, None, "2.png"]))
    uri = make(tmp_path, rows)
    (tmp_path / "2.png").write_bytes(products([3])["photo"][0].as_py())
    summary = backfill(tmp_path)
    assert summary.counts.reasons == Counter(fetch_not_found=1)
    (tmp_path / "1.png").write_bytes(products([3])["photo"][0].as_py())
    assert backfill(tmp_path).counts.written == 1
    check(
        uri, record=lambda row: Record(row["caption"], row["image_url"] and (tmp_path / row["image_url"]).read_bytes())
    )
    assert rejects(tmp_path) == []


def test_too_many_rejects_fail_and_the_column_stays_incomplete(ray_cluster, tmp_path):
    uri = make(tmp_path)
    message = r"^the column is not complete: reject rate: 3 of 60 rows are rejected .* more than --max-reject-rate 0.01"
    with pytest.raises(GateError, match=message):
        backfill(tmp_path, max_reject_rate=0.01)
    assert VectorColumn.of(lance.dataset(uri).schema, COLUMN).filling
    backfill(tmp_path)
    check(uri)


def spoiling(records, settings, identity, actors_per_node, slot):
    """An encoder that gives each record the vector of the one before."""
    found = encode(records, settings, identity, actors_per_node, slot)
    mixed = found[slot.named(VECTOR)].take(pa.array(np.roll(np.arange(len(found)), 1)))
    return replace_column(found, slot.named(VECTOR), mixed)


def test_vectors_of_other_rows_are_found_by_the_canary(ray_cluster, tmp_path):
    uri = make(tmp_path, products(range(1, 20)))
    with pytest.raises(GateError, match=r"canary: .*the encoder gave another vector"):
        backfill(tmp_path, Setup(stages=Stages(encoder=spoiling)))
    assert lance.dataset(uri).count_rows() == 19


def test_another_encoder_is_refused(ray_cluster, tmp_path):
    uri = make(tmp_path, products(range(5)))
    backfill(tmp_path, max_tokens=16)
    check(uri, max_tokens=16)
    with pytest.raises(UsageError, match=r"was embedded with another encoder.*max_tokens"):
        backfill(tmp_path, max_tokens=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "nothing"}, "there is no table nothing"),
        ({"column": ("sku",)}, "a column of this name without vectors"),
        ({"column": ("foreign",)}, "does not name the encoder"),
        ({"column": ("a", "a"), "model": ("vista-tiny",) * 2}, "named twice"),
        ({"model": ("vista-tiny",) * 2}, "--model: 2 for 1 columns"),
        ({"image_column": "price"}, "can't serve"),
        ({"text_column": ("nothing",)}, "no such column"),
        ({"where": "no_such_column = 1"}, "--where"),
        ({"model": ("nothing",)}, "nothing"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(ray_cluster, tmp_path, options, message):
    foreign = pa.FixedSizeListArray.from_arrays(pa.array([0.0] * 20, pa.float32()), 4)
    uri = make(tmp_path, products(range(5), foreign=foreign))
    with pytest.raises(UsageError, match=message):
        backfill(tmp_path, **options)
    assert lance.dataset(uri).version == 1
    assert [each.name for each in tmp_path.iterdir()] == ["shop.lance"]


def test_an_empty_table_gets_its_column(ray_cluster, tmp_path):
    uri = make(tmp_path, products([]))
    summary = backfill(tmp_path)
    assert "complete" in str(summary)
    assert COLUMN in lance.dataset(uri).schema.names


def test_settings_are_those_of_the_column(ray_cluster, tmp_path):
    uri = make(tmp_path, products(range(6)))
    backfill(tmp_path, max_tokens=16)
    lance.write_dataset(products([9]), uri, mode="append")
    backfill(tmp_path)
    check(uri, max_tokens=16)
