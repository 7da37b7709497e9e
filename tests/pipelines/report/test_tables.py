"""What a report reads from tables: a sample with neighbours, rejects, and the nights before. Of real tables."""

import dataclasses
import io
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.events import Counts
from pipelines.fetching.fetcher import shared_fetcher
from pipelines.fetching.locations import FetchRules
from pipelines.records import REJECT_SCHEMA, Pictured
from pipelines.report.neighbours import NEIGHBOURS, SHOWN, sample_rows
from pipelines.report.nights import NIGHTS, read_nights
from pipelines.report.rejects import EXAMPLES, read_rejects, rejects_section
from pipelines.report.sample_pictures import drawn, pictures_of
from pipelines.tables.dataset import TableVersion
from pipelines.tables.origin import Origin
from pipelines.tables.runs import RUN_SCHEMA
from pipelines.tables.schema import table_schema
from tests.images_over_http import serve_images
from tests.pipelines.report.pages import check
from tests.pipelines.report.test_page import page_of
from tests.tables import COLUMN, run_id, vector_of

NO_IMAGES = FetchRules((), None, 1_000_000, 10.0, "version")


def png(colour: tuple[int, int, int], side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def rows_of(number: int) -> list[dict]:
    return [
        {"id": f"id {n}", "vector": vector_of(f"text {n}"), "text": f"text {n}", "modality": "image_text", "_run": "r"}
        for n in range(number)
    ]


def table_of(folder, rows: list[dict], **options) -> TableVersion:
    schema = table_schema(pa.schema([]), COLUMN, Origin("vista-tiny"), **options)
    dataset = lance.write_dataset(pa.Table.from_pylist(rows, schema=schema), f"{folder}/t.lance")
    return TableVersion(dataset.uri, dataset.version)


def cosines(version: TableVersion, key: str) -> list[tuple[str, float]]:
    """All other rows by their cosine to one, as numpy has them."""
    rows = version.open().to_table(["id", "vector"]).to_pylist()
    vectors = {row["id"]: np.array(row["vector"], np.float32) for row in rows}
    found = [(other, float(vector @ vectors[key])) for other, vector in vectors.items() if other != key]
    return sorted(found, key=lambda pair: -pair[1])


def near(sampled) -> list[tuple[str, float]]:
    return [(each.row["id"], pytest.approx(each.cosine, abs=1e-3)) for each in sampled.neighbours]


def test_neighbours_of_a_small_table_are_exact_and_begin_with_what_the_run_wrote(tmp_path):
    version = table_of(tmp_path, rows_of(300))
    pictures = [Pictured(f"id {n}", "a", n, None, b"picture") for n in (7, 8)]
    pictures.append(Pictured("id 9", "a", 9, "bad_vector", b"picture"))
    sample = sample_rows(version, COLUMN, pictures)
    assert sample.among == "all 300 rows of the table"
    assert len(sample.rows) == SHOWN
    assert {"id 7", "id 8"} <= {each.row["id"] for each in sample.rows}
    for each in sample.rows:
        assert near(each) == cosines(version, each.row["id"])[:NEIGHBOURS]
    assert sample.pictures == {"id 7": b"picture", "id 8": b"picture"}


def test_of_a_large_table_a_bounded_number_of_rows_is_read(tmp_path):
    version = table_of(tmp_path, rows_of(1000))
    sample = sample_rows(version, COLUMN, [], compared=80)
    assert sample.among == "80 of the 1,000 rows of the table"
    numbers = [int(key.removeprefix("id ")) for key in sample.ids]
    assert min(numbers) < 100, "from the beginning"
    assert max(numbers) >= 900, "and from the end"
    assert len(sample.rows) == SHOWN


def test_an_index_is_used_and_no_vectors_are_read_without_it(tmp_path):
    version = table_of(tmp_path, rows_of(600))
    table = version.open()
    table.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=1)
    table = lance.dataset(table.uri)
    sample = sample_rows(TableVersion(table.uri, table.version), COLUMN, [], compared=8)
    assert sample.among == "the 600 rows of the table, by the index vector_idx"
    assert len(sample.rows) == SHOWN
    for each in sample.rows:
        assert near(each) == cosines(version, each.row["id"])[:NEIGHBOURS]


def test_rows_of_others_without_vectors_ids_or_of_another_encoder_are_no_neighbours(tmp_path):
    rows = rows_of(20)
    rows[3] |= {"vector": None}
    rows[4] |= {"id": None}
    rows[5] |= {"_run": None}
    rows += [{"id": f"old {n}", "vector": vector_of(f"text {n}"), "_run": run_id(1)} for n in range(5)]
    version = table_of(tmp_path, rows)
    assert {"id 3", None}.isdisjoint(sample_rows(version, COLUMN, []).ids)
    replaced = [row | {"_run": run_id(3)} for row in rows_of(9)]
    table = lance.write_dataset(
        pa.Table.from_pylist(replaced, schema=version.open().schema), version.uri, mode="append"
    )
    ids = sample_rows(TableVersion(table.uri, table.version), dataclasses.replace(COLUMN, since=run_id(2)), []).ids
    assert set(ids) == {f"id {n}" for n in range(9)}


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_next_to_no_rows(tmp_path, rows):
    sample = sample_rows(table_of(tmp_path, rows_of(rows)), COLUMN, [])
    assert [len(each.neighbours) for each in sample.rows] == [rows - 1] * rows


def test_stored_images_are_pictured_and_damaged_ones_cost_nothing_but_themselves(tmp_path):
    rows = rows_of(5)
    images = [png((200, 0, 0), 300), png((0, 0, 200)), b"no image", b"", None]
    with_images = [row | {"image": image} for row, image in zip(rows, images, strict=True)]
    version = table_of(tmp_path, with_images, store_images=True)
    found = pictures_of(version, [row["id"] for row in rows], NO_IMAGES)
    assert found.keys() == {"id 0", "id 1"}
    assert all(Image.open(io.BytesIO(each)).format == "WEBP" for each in found.values())
    assert Image.open(io.BytesIO(found["id 0"])).size == (128, 128)
    assert pictures_of(version, [], NO_IMAGES) == {}


def die_of(image: bytes) -> bytes:
    """In place of a decoder: one image ends its process."""
    if image == b"bad":
        os.abort()
    return image


def test_an_image_that_ends_its_process_costs_only_its_own_picture():
    images = [("a", b"good"), ("b", b"bad"), ("c", b"good")]
    assert drawn(images, die_of) == {"a": b"good", "c": b"good"}


def test_external_images_are_fetched_only_from_where_the_run_may_fetch_them(tmp_path):
    with serve_images() as server:
        server.image = lambda path: png((0, 200, 0))
        uris = [f"{server.url}/good/1.png", f"{server.url}/missing/2.png", "http://a.example/3.png", "/etc/passwd"]
        rows = [row | {"image_uri": uri, "_object": "/a.jsonl"} for row, uri in zip(rows_of(4), uris, strict=True)]
        version = table_of(tmp_path, rows, image_uri=True)
        rules = dataclasses.replace(NO_IMAGES, allowed=(f"{server.url}/",))
        assert pictures_of(version, [row["id"] for row in rows], rules).keys() == {"id 0"}
    shared_fetcher.cache_clear()


def test_a_table_without_images_has_no_pictures(tmp_path):
    assert pictures_of(table_of(tmp_path, rows_of(2)), ["id 0"], NO_IMAGES) == {}


def rejects_of(folder, rows: list[tuple]) -> str:
    names = ("id", "object", "row", "reason", "run")
    values = [dict(zip(names, row, strict=True)) | {"stage": "decode", "message": f"m {row[0]}"} for row in rows]
    uri = f"{folder}/t_rejects.lance"
    lance.write_dataset(pa.Table.from_pylist(values, schema=REJECT_SCHEMA), uri)
    return uri


def test_rejects_of_this_run_and_of_skipped_files_are_counted_with_examples(tmp_path):
    old = [(f"old {n}", "skipped.parquet", n, "image_truncated", "run-1") for n in range(6)]
    stale = [("stale", "read.parquet", 1, "image_truncated", "run-1"), ("other", "shop#a", 1, "bad_vector", "run-1")]
    new = [(f"new {n}", "read.parquet", n, "image_truncated", "run-2") for n in range(2)]
    found = read_rejects(rejects_of(tmp_path, [*old, *stale, *new]), "run-2", {"skipped.parquet"})
    assert found.earlier == {"image_truncated": 6}
    ids = [row["id"] for row in found.examples["image_truncated"]]
    assert len(ids) == EXAMPLES
    assert {"new 0", "new 1"} <= set(ids), "examples of this run come first"
    assert found.complete
    picture = Pictured("new 1", "read.parquet", 1, "image_truncated", b"\xff\xd8 jpeg")
    section = rejects_section(Counts(reasons=Counter(image_truncated=2)), found, [picture])
    text = "".join(check(page_of(section)).text)
    assert "new 1" in text
    assert "read.parquet, row 1" in text
    assert section.body.count("<img") == 1


def test_a_bounded_number_of_rejects_is_read(tmp_path):
    rows = [(f"{n}", "skipped.parquet", n, "image_truncated", "run-1") for n in range(20_000)]
    found = read_rejects(rejects_of(tmp_path, rows), "run-2", {"skipped.parquet"}, scanned=8_192)
    assert not found.complete
    assert found.earlier["image_truncated"] == 8_192
    assert "at least 8,192" in page_of(rejects_section(Counts(), found, []))


def test_no_rejects_and_no_runs_yet(tmp_path):
    assert not read_rejects(f"{tmp_path}/t_rejects.lance", "run-1", set()).examples
    assert read_nights(f"{tmp_path}/t_runs.lance") == []


def test_the_last_nights_come_oldest_first(tmp_path):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {
            "run": run_id(n),
            "status": "done" if n % 2 else "dead",
            "started": start + timedelta(days=n),
            "heartbeat": start + timedelta(days=n, minutes=3),
            "finished": start + timedelta(days=n, minutes=5) if n % 2 else None,
            "read": 200,
            "rejected": 10,
        }
        for n in range(40)
    ]
    others = ({"index": {"table": "t"}}, {"rollback": True, "to": 3}, {"switch": True}, {"drop_column": "vector_b"})
    for n, other in enumerate(others, 40):
        rows.append({"run": run_id(n), "status": "done", "configuration": json.dumps(other)})
    lance.write_dataset(pa.Table.from_pylist(rows[::-1], schema=RUN_SCHEMA), f"{tmp_path}/t_runs.lance")
    nights = read_nights(f"{tmp_path}/t_runs.lance")
    assert [night.run for night in nights] == [run_id(n) for n in range(40 - NIGHTS, 40)]
    assert [night.minutes for night in nights[-2:]] == [3, 5], "of a run that was killed, until its last heartbeat"
    assert (nights[0].reject_percent, nights[0].written) == (5, 0)
