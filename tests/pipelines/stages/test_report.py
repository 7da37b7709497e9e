"""What stages report beside their records: warnings, seconds, and small pictures."""

import io
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.batch_stats import SECONDS, WORK, measured, with_measured
from pipelines.fetching.locations import FetchRules
from pipelines.ingest.pictured import EXAMPLES, ROWS, pictured
from pipelines.reasons import BAD_VECTOR, DUPLICATE_ID
from pipelines.records import FLOW_FIELDS, MEASURED, PICTURE, read_schema, with_rejects
from pipelines.sample_catalog import draw
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.stages.decode import PICTURES, decode
from pipelines.stages.isolation import decode_or_reject
from pipelines.stages.read import Task, read_and_select
from pipelines.stages.report import StageClock, timed
from pipelines.stages.select import Snapshot, file_hashes
from tests.tables import COLUMN, block, commit, new_committer
from vista_core import EncoderSettings

SETTINGS = EncoderSettings("vista-tiny", device="cpu")


def as_selected(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([*read_schema(pa.schema([])), *FLOW_FIELDS]))


def photo(cut: int | None = None) -> bytes:
    """A JPEG that is white above and black below, perhaps cut off."""
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:64] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()[:cut]


def test_seconds_add_up_over_stages_and_batches_and_cost_no_row():
    rows = as_selected([{"id": f"{n}"} for n in range(6)])
    first = with_measured(with_measured(rows.slice(0, 4), SECONDS, {"fetch": 1.0}), SECONDS, {"decode": 2.0})
    second = with_measured(rows.slice(4), SECONDS, {"fetch": 0.5})
    together = with_measured(pa.concat_tables([first, second]), SECONDS, {"encode": 8.0})
    assert measured(together, SECONDS) == {"fetch": 1.5, "decode": 2.0, "encode": 8.0}
    assert together.schema == rows.schema
    assert together.drop_columns([MEASURED]).equals(rows.drop_columns([MEASURED]))
    assert with_measured(rows.slice(0, 0), SECONDS, {"encode": 1.0}).equals(rows.slice(0, 0))


def test_a_timed_stage_says_how_long_it_took():
    @timed("encode")
    def stage(rows: pa.Table) -> pa.Table:
        end = time.perf_counter() + 0.01
        while time.perf_counter() < end:
            pass
        return rows

    assert 0.01 <= measured(stage(as_selected([{"id": "a"}])), SECONDS)["encode"] < 60


def test_no_clock_runs_while_a_consumer_has_the_item():
    clock = StageClock()
    for _ in clock.each("read", range(3)):
        with clock.on("select"):
            end = time.perf_counter() + 0.02
            while time.perf_counter() < end:
                pass
    assert clock.seconds["select"] >= 0.06
    assert clock.seconds["read"] < 0.06
    assert list(StageClock().each("read", [])) == []


@pytest.mark.parametrize("second_pass", [False, True])
def test_a_unit_that_was_read_says_how_long_reading_and_selecting_took(tmp_path, second_pass):
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", "y"]}), tmp_path / "a.parquet")
    source, committer = open_source(str(tmp_path / "a.parquet"), Columns()), new_committer(tmp_path)
    [unit] = source.units()
    snapshot = Snapshot(committer.base, COLUMN, file_hashes([]), file_hashes([]), second_pass)
    rules = FetchRules((), None, 1_000_000, 10.0, "version")
    found = list(read_and_select({"task": [Task(unit).row()["task"]]}, source, rules, snapshot))
    seconds = measured(pa.concat_tables(found), SECONDS)
    assert seconds.keys() == {"read", "select", "fetch"}
    assert min(seconds.values()) > 0


def test_the_seconds_of_all_stages_reach_the_counts_of_the_run(tmp_path):
    committer = new_committer(tmp_path)
    rows = with_measured(block({"a": "one", "b": "two"}), SECONDS, {"decode": 2.0, "encode": 3.0})
    commit(committer, with_measured(rows, WORK, {"tokens": 9}))
    commit(committer, with_measured(block({"c": "three"}), SECONDS, {"decode": 0.5}))
    assert (committer.counts.seconds["decode"], committer.counts.seconds["encode"]) == (2.5, 3.0)
    assert committer.counts.seconds["write"] > 0
    assert committer.counts.work == {"tokens": 9}


def test_a_few_images_of_a_batch_are_pictured_evenly_spaced():
    rows = [{"id": f"{n}", "image": draw("star", "red", "blue") if n % 2 else None, "text": "x"} for n in range(100)]
    found = decode_or_reject(as_selected(rows), lambda records: decode(records, SETTINGS, store_images=False))
    pictures = {row["id"]: row[PICTURE] for row in found.select(["id", PICTURE]).to_pylist() if row[PICTURE]}
    assert len(pictures) == PICTURES
    assert all(int(key) % 2 for key in pictures), "only records with an image have a picture"
    assert max(map(int, pictures)) > 70
    image = Image.open(io.BytesIO(pictures["1"]))
    assert image.format == "WEBP"
    red, _, blue = image.getpixel((2, 2))
    assert blue > red, "it is the record's own image"


def test_an_image_that_is_cut_off_is_pictured_as_far_as_it_goes():
    whole = photo()
    bad = {"cut": photo(len(whole) // 2), "none": b"\xff\xd8\xff", "text": b"no image"}
    found = decode(as_selected([{"id": key, "image": image} for key, image in bad.items()]), SETTINGS, False)
    pictures = {row["id"]: row[PICTURE] for row in found.to_pylist()}
    assert set(found["_reason"].to_pylist()) == {"image_truncated", "image_undecodable"}
    assert (pictures["none"], pictures["text"]) == (None, None)
    image = Image.open(io.BytesIO(pictures["cut"]))
    assert image.getpixel((64, 4)) == (255, 255, 255)


def test_pictures_reach_the_driver_with_what_became_of_their_records(tmp_path):
    events = []
    committer = new_committer(tmp_path, listener=events.append)
    rows = block({f"id {n}": f"text {n}" for n in range(2 * ROWS)})
    pictures = pa.array([b"%d" % n for n in range(len(rows))], pa.binary())
    rows = rows.set_column(rows.schema.get_field_index(PICTURE), PICTURE, pictures)
    commit(committer, rows)
    [pictures] = [event.pictures for event in events if hasattr(event, "pictures")]
    assert len(pictures) == ROWS
    assert {(each.file, each.reason) for each in pictures} == {("a.parquet", None)}
    assert all(each.id == f"id {each.picture.decode()}" for each in pictures)


def test_of_rejected_records_a_few_pictures_of_each_reason_are_kept():
    rows = as_selected([{"id": f"{n}", PICTURE: b"jpeg"} for n in range(20)])
    rows = with_rejects(rows, {n: (BAD_VECTOR if n % 2 else DUPLICATE_ID).reject("m") for n in range(20)})
    found = [each.reason for each in pictured(rows)]
    assert sorted(found) == ["bad_vector"] * EXAMPLES + ["duplicate_id"] * EXAMPLES
