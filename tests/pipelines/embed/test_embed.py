"""Runs from a source to a published table, through the function that the job calls."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.embed import run
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup
from pipelines.events import Counts
from pipelines.gates.judge import GateError, TooManyRejectsError
from pipelines.progress import Timing
from pipelines.sample_catalog import draw, records
from pipelines.stages.decode import decode
from pipelines.stages.encode import EncodeActor
from pipelines.stages.pool import Stages
from pipelines.stages.report import reports_warnings
from pipelines.tables.dataset import open_dataset, published
from pipelines.tables.origin import vista_column
from tests.pipelines.embed.on_warm_workers import embed
from vista_core import Encoder, EncoderSettings, Record, UsageError

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("ray_cluster")


def table(db, name="t", version="published"):
    return lance.dataset(f"{db}/{name}.lance", version=version)


def rows(db, name="t", version="published"):
    return {row["id"]: row for row in table(db, name, version).to_table().to_pylist()}


def rejects(db, name="t"):
    return lance.dataset(f"{db}/{name}_rejects.lance").to_table().to_pylist()


def runs(db, name="t"):
    found = lance.dataset(f"{db}/{name}_runs.lance").to_table().to_pylist()
    return sorted(found, key=lambda run: run["started"])


def write_texts(path: Path, texts: dict[str, str], row_group_size: int = 100) -> str:
    pq.write_table(pa.table({"id": list(texts), "text": list(texts.values())}), path, row_group_size=row_group_size)
    return str(path)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, catalog):
    """The sample catalog, embedded once, by an encode actor. Tests must not change the table's rows."""
    db = tmp_path_factory.mktemp("db")
    return db, run.embed(EmbedConfig(str(catalog), str(db), "t"))


def test_each_record_is_once_in_the_table_or_once_in_the_rejects(embedded):
    db, summary = embedded
    expected = {row["id"] for row in records()}
    found = table(db).to_table(columns=["id"])["id"].to_pylist()
    bad = [reject["id"] for reject in rejects(db)]
    assert len(found) == len(set(found)) == 335
    assert set(found) | set(bad) == expected
    assert [(reject["reason"], reject["stage"]) for reject in rejects(db)] == [("image_truncated", "decode")]
    assert (summary.counts.read, summary.counts.written, summary.counts.rejected) == (336, 335, 1)
    assert "rejected 1" in str(summary)
    assert "vista-tiny" in str(summary)


def test_unchanged_rows_do_not_count_as_encoder_throughput(embedded):
    _, summary = embedded
    counts = Counts(read=4442, written=3442, unchanged=1000)
    resumed = dataclasses.replace(summary, counts=counts, seconds=560, timing=Timing(100, 64, 551))
    assert resumed.rows_per_second == (3442 - 64) / 451
    assert "7.5 rows/s encoded" in str(resumed)
    quiet = dataclasses.replace(resumed, counts=Counts(read=4442, unchanged=4442))
    assert quiet.rows_per_second is None


def test_each_row_has_the_vector_of_its_own_record(embedded):
    db, _ = embedded
    encoder = Encoder.load(EncoderSettings(dtype="float32", device="cpu"))
    source = {row["id"]: row for row in records()}
    found = rows(db)
    expected = encoder.encode([Record(text=source[key]["text"], image=source[key]["image"]) for key in found])
    vectors = np.array([row["vector"] for row in found.values()], np.float32)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-3
    assert (vectors * expected).sum(1).min() >= 0.999
    assert {row["modality"] for row in found.values()} == {"text", "image", "image_text"}


def test_the_table_has_the_documented_columns_indexes_and_run_record(embedded):
    db, summary = embedded
    schema = table(db).schema
    assert schema.field("vector").type == pa.list_(pa.float16(), 128)
    assert schema.names == [
        *["id", "vector", "text", "price", "shape"],
        *["modality", "truncated", "vector_fingerprint", "_object", "_run"],
    ]
    assert vista_column(table(db)) == summary.job.column
    assert {index.name for index in table(db).describe_indices()} == {"id_idx", "_object_idx"}
    opened = lancedb.connect(str(db)).open_table("t")
    opened.checkout("published")
    assert opened.count_rows() == 335
    [run] = runs(db)
    assert (run["status"], run["read"], run["written"], run["rejected"]) == ("done", 336, 335, 1)
    assert run["published_version"] == table(db).version
    assert json.loads(run["configuration"])["encoder"]["model"] == "vista-tiny"
    assert json.loads(run["gates"])[0]["passed"]


def test_a_second_run_writes_nothing_and_keeps_the_reject(embedded, catalog):
    db, _ = embedded
    before = table(db).version
    summary = embed(EmbedConfig(str(catalog), str(db), "t"))
    assert (summary.counts.read, summary.counts.skipped, summary.counts.skipped_rejected) == (0, 335, 1)
    assert "skipped, unchanged: 1 files, 335 rows" in str(summary)
    summary = embed(EmbedConfig(str(catalog), str(db), "t", read_all=True))
    assert (summary.counts.written, summary.counts.unchanged, summary.counts.rejected) == (0, 335, 1)
    assert table(db).version == before
    assert len(rejects(db)) == 1
    assert [run["status"] for run in runs(db)] == ["done", "done", "done"]


def test_only_new_and_changed_records_are_embedded_and_a_price_change_costs_no_encoding(tmp_path):
    night = {"id": ["a", "b", "c", "d"], "text": ["one", "two", "three", "four"], "price": [1, 2, 3, 4]}
    pq.write_table(pa.table(night), tmp_path / "a.parquet")
    config = EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t")
    embed(config)
    first = rows(tmp_path)
    texts = ["one", "two", "THREE, changed", "many words " * 500]
    pq.write_table(
        pa.table({"id": ["a", "b", "c", "e"], "text": texts, "price": [1, 20, 3, 5]}), tmp_path / "a.parquet"
    )
    counts = embed(config).counts
    assert (counts.read, counts.written, counts.rewritten, counts.unchanged) == (4, 2, 1, 1)
    second = rows(tmp_path)
    assert second["a"] == first["a"]
    assert second["b"] == first["b"] | {"price": 20, "_run": second["b"]["_run"]}
    assert second["c"]["text"] == "THREE, changed"
    assert second["c"]["vector"] != first["c"]["vector"]
    assert set(second) == {"a", "b", "c", "d", "e"}  # rows that vanished from the source stay
    assert {key for key, row in second.items() if row["truncated"]} == {"e"}, "texts that are too long are marked"
    assert runs(tmp_path)[-1]["rewritten"] == 1
    assert embed(config).counts.skipped == 5, "the row that vanished is still counted to its file"


def test_a_record_with_a_broken_image_leaves_the_table_until_the_image_is_repaired(tmp_path):
    image = draw("star", "red", "blue")
    for content, found, keep in (
        (image, "ab", False),
        (b"broken", "a", False),
        (image, "ab", False),
        (b"", "ab", True),
    ):
        table_of = pa.table({"id": ["a", "b"], "text": ["one", "two"], "image": [image, content]})
        pq.write_table(table_of, tmp_path / "a.parquet")
        config = EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t", max_reject_rate=1, keep_stale=keep)
        summary = embed(config)
        assert rows(tmp_path).keys() == set(found)
        assert ("removed 1 rows" in str(summary)) == (found == "a")


def test_an_unreachable_database_is_reported_with_the_remedy(tmp_path, s3):
    source = write_texts(tmp_path / "a.parquet", {"a": "one"})
    with pytest.raises(
        UsageError, match=r"--db: s3://nobody-has-this/db/t\.lance cannot be opened: .*AWS_ACCESS_KEY_ID"
    ):
        embed(EmbedConfig(source, "s3://nobody-has-this/db", "t"))


def test_duplicate_ids_make_one_row_and_the_rest_rejects_in_every_run(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b", "a"], "text": ["one", "two", "three"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["b", "c"], "text": ["two", "four"]}), tmp_path / "b.parquet")
    config = EmbedConfig(f"{tmp_path}/*.parquet", str(tmp_path / "db"), "t", max_reject_rate=1)
    for _ in range(2):
        summary = embed(config)
        assert set(rows(tmp_path / "db")) == {"a", "b", "c"}
        assert sorted(reject["id"] for reject in rejects(tmp_path / "db")) == ["a", "b"]
        assert summary.counts.read == summary.counts.resolved == 5


def test_records_without_an_id_are_identified_by_their_content(tmp_path):
    pq.write_table(pa.table({"caption": ["one", "two", "one"]}), tmp_path / "a.parquet")
    config = EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t")
    summary = embed(config)
    assert (summary.counts.written, dict(summary.counts.reasons)) == (2, {"repeated_content": 1})
    assert embed(config).counts.written == 0


def loses_a_record(batch, **options):
    """A decode stage that drops a record without a trace."""
    return decode(batch, **options).filter(pa.compute.not_equal(batch["id"].fill_null(""), "a"))


def test_runs_that_lost_a_record_or_rejected_too_many_are_not_published(tmp_path):
    source = write_texts(tmp_path / "a.parquet", {"a": "one", "b": "two"})
    with pytest.raises(GateError, match="read 2 != written 1"):
        embed(EmbedConfig(source, str(tmp_path), "t"), Setup(stages=Stages(decode=loses_a_record)))
    assert published(open_dataset(f"{tmp_path}/t.lance")) is None
    counts = embed(EmbedConfig(source, str(tmp_path), "t")).counts
    assert (counts.written, counts.unchanged) == (1, 1), "the file was not recorded as read"
    before = published(table(tmp_path))
    images = [draw("star", "red", "blue"), b"no image", b"none either"]
    texts = pa.nulls(3, pa.string())
    pq.write_table(pa.table({"id": ["x", "y", "z"], "text": texts, "image": images}), tmp_path / "a.parquet")
    with pytest.raises(TooManyRejectsError, match=r"2 of 3 rows .*image_undecodable 2\. For example: \w.*t_rejects"):
        embed(EmbedConfig(source, str(tmp_path), "t", image_column="image"))
    assert published(open_dataset(f"{tmp_path}/t.lance")) == before
    assert runs(tmp_path)[-1]["status"] == "failed"
    assert "image_undecodable" in runs(tmp_path)[-1]["error"]
    assert len(rejects(tmp_path)) == 2  # the rejects of a failed run are kept, to show why it failed


def test_another_encoder_is_refused_and_the_message_names_the_difference(tmp_path):
    source = write_texts(tmp_path / "a.parquet", {"a": "one"})
    how = {"alpha": "white", "max_tokens": 20, "resize": "exact"}
    first = embed(EmbedConfig(source, str(tmp_path), "t", **how, transport_rows=7, inference_tokens=99))
    assert (first.job.resources.transport_rows, first.job.kept[0].settings.inference_tokens) == (7, 99)
    with pytest.raises(UsageError, match=r"another encoder.*alpha: drop here, white in the table"):
        embed(EmbedConfig(source, str(tmp_path), "t", alpha="drop"))
    same = embed(EmbedConfig(source, str(tmp_path), "t"))  # unset options are taken from the column
    assert (same.job.column.identity.alpha, same.job.kept[0].settings.resize, same.counts.skipped) == (
        "white",
        "exact",
        1,
    )


def test_a_table_that_vista_did_not_create_is_refused(tmp_path):
    source = write_texts(tmp_path / "a.parquet", {"a": "one"})
    lancedb.connect(str(tmp_path)).create_table("t", pa.table({"id": ["x"], "vector": [[1.0]]}))
    with pytest.raises(UsageError, match="was not made by this job"):
        embed(EmbedConfig(source, str(tmp_path), "t"))


def test_s3_with_stored_images_and_a_folder_of_images_give_the_same_vectors_as_local_parquet(
    s3, catalog, embedded, tmp_path
):
    db, _ = embedded
    expected = rows(db)
    s3.put("e2e/catalog.parquet", catalog.read_bytes())
    embed(EmbedConfig(s3.url("e2e/*.parquet"), s3.url("e2e-db"), "t", store_images=True))
    found = rows(s3.url("e2e-db"))
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert np.dot(row["vector"], expected[key]["vector"]) > 0.999
    assert {key: row["image"] for key, row in found.items()} == {
        row["id"]: row["image"] for row in records() if row["id"] in found
    }, "the images are stored byte for byte"

    for row in records():
        if row["image"] is not None and row["id"] in expected:
            (tmp_path / f"{row['id']}.png").write_bytes(row["image"])
            if row["text"]:
                (tmp_path / f"{row['id']}.txt").write_text(row["text"])
    summary = embed(EmbedConfig(str(tmp_path), str(tmp_path / "db"), "t"))
    folder = rows(tmp_path / "db")
    assert summary.counts.written == len(folder) == len(list(tmp_path.glob("*.png")))
    for key, row in folder.items():
        assert np.dot(row["vector"], expected[key.removesuffix(".png")]["vector"]) > 0.999


def test_a_killed_driver_loses_and_duplicates_nothing(tmp_path):
    import ray

    texts = {f"id{number}": f"text number {number}" for number in range(2000)}
    source = write_texts(tmp_path / "a.parquet", texts, row_group_size=50)
    command = [sys.executable, str(ROOT / "jobs/embed_corpus.py"), "--source", source, "--db", str(tmp_path)]
    command += ["--table", "t", "--commit-seconds", "0"]
    address = ray.get_runtime_context().gcs_address
    environment = os.environ | {"RAY_ADDRESS": address}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None:
        dataset = open_dataset(f"{tmp_path}/t.lance")
        if dataset is not None and dataset.count_rows() > 0:
            os.kill(driver.pid, signal.SIGKILL)
            break
        time.sleep(0.01)  # between two polls; the kill itself waits for the first committed rows
    driver.wait()
    assert driver.returncode == -signal.SIGKILL
    committed = open_dataset(f"{tmp_path}/t.lance").count_rows()
    assert 0 < committed < len(texts), "the kill came too late for this test"
    assert published(open_dataset(f"{tmp_path}/t.lance")) is None

    summary = embed(EmbedConfig(source, str(tmp_path), "t"))
    assert summary.counts.unchanged >= committed
    assert summary.counts.unchanged + summary.counts.written == len(texts)
    found = table(tmp_path).to_table(columns=["id", "text"])
    assert len(found) == len(texts)
    assert dict(zip(found["id"].to_pylist(), found["text"].to_pylist(), strict=True)) == texts


def test_a_catalog_that_gains_columns_keeps_its_id_and_text_columns(tmp_path):
    """Detecting another id column would add every row again under a new id."""
    table_of = {"sku": ["a", "b"], "title": ["one", "two"]}
    pq.write_table(pa.table(table_of), tmp_path / "a.parquet")
    config = EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t")
    embed(config)
    pq.write_table(pa.table(table_of | {"id": [1, 2], "text": ["x", "y"]}), tmp_path / "a.parquet")
    assert embed(config).counts.unchanged == 2
    pq.write_table(pa.table({"id": [1, 2], "text": ["x", "y"]}), tmp_path / "a.parquet")
    said = r"--id-column sku: no such column.*t was filled with id: sku, text: title.*found: 1 Parquet file"
    with pytest.raises(UsageError, match=said):
        embed(config)
    assert set(rows(tmp_path)) == {"a", "b"}


def test_a_text_format_takes_the_types_of_the_source_columns_from_the_table(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"caption": "one", "price": 1.5}')
    config = EmbedConfig(str(source), str(tmp_path / "db"), "t")
    embed(config)
    source.write_text('{"caption": "one", "price": 1.5}\n{"caption": "two", "price": 2}\n{"caption": "three"}')
    summary = embed(config)
    assert (summary.counts.written, summary.counts.unchanged) == (2, 1)
    assert {row["text"]: row["price"] for row in rows(tmp_path / "db").values()} == {
        "one": 1.5,
        "two": 2,
        "three": None,
    }


class DiesOnce(EncodeActor):
    """An encode actor that kills its process when the first batch is encoded; the actor that replaces it works."""

    def __call__(self, batch):
        encoded = super().__call__(batch)
        marker = Path(os.environ["VISTA_TEST_MARKER"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encoded


def test_a_large_unit_is_committed_in_parts_and_a_killed_encoder_costs_no_restart(tmp_path):
    """A unit can be hours of work for a slow encoder, and a crash must not lose all of it."""
    marker = tmp_path / "died"

    class Marked(DiesOnce):
        def __init__(self, *arguments):
            os.environ["VISTA_TEST_MARKER"] = str(marker)
            super().__init__(*arguments)

    texts = {f"id{number}": f"text {number}" for number in range(1000)}
    source = write_texts(tmp_path / "a.parquet", texts, row_group_size=1000)
    config = EmbedConfig(source, str(tmp_path), "t", commit_seconds=0)
    summary = embed(config, Setup(stages=Stages(encoder=Marked)))
    assert marker.exists()
    assert (summary.counts.read, summary.counts.written) == (1000, 1000)
    assert summary.counts.work["texts"] == 1000, "the batch that was encoded twice is counted once"
    assert {key: row["text"] for key, row in rows(tmp_path).items()} == texts
    sizes = {entry["metadata"]["total_rows"] for entry in table(tmp_path).versions()}
    assert len(sizes) > 5
    assert len(table(tmp_path).get_fragments()) == 1, "small fragments are merged at the end of the run"


def test_decoding_starts_when_the_encoder_is_loaded_and_its_warnings_reach_the_log_of_the_driver(tmp_path, caplog):
    """Loading weights can take long, and decoded pixels would fill the object store meanwhile."""
    decoded = tmp_path / "decoded"

    class Slow(EncodeActor):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            deadline = time.monotonic() + 5  # enough time to read and decode, if decoding did not wait
            while time.monotonic() < deadline:
                assert not decoded.exists()
                time.sleep(0.05)

    @reports_warnings
    def watched(batch, **options):
        decoded.touch()
        logging.getLogger("pipelines.stages.decode").warning("the disk of this worker is slow")
        return decode(batch, **options)

    config = EmbedConfig(write_texts(tmp_path / "a.parquet", {"a": "a red star"}), str(tmp_path), "t")
    counts = embed(config, Setup(stages=Stages(watched, Slow))).counts
    assert decoded.exists()
    assert (counts.read, counts.written) == (1, 1), "a warning is no record"
    [warning] = [record for record in caplog.records if "the disk of this worker is slow" in record.message]
    assert (warning.name, warning.levelname) == ("pipelines.stages.decode", "WARNING")


def test_only_the_text_or_the_image_is_embedded_if_that_is_asked_for(tmp_path):
    records = [{"id": "a", "title": "red", "jpg": draw("star", "red", "blue")}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    config = EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t", only="image")
    embed(config)
    [row] = rows(tmp_path).values()
    assert (row["modality"], row["title"]) == ("image", "red")
    assert not embed(config).counts.written
    with pytest.raises(UsageError, match=r"filled without a column for 'text'.*--text-column title"):
        embed(dataclasses.replace(config, only=None))
    with pytest.raises(UsageError, match="--only image: that leaves out the column"):
        dataclasses.replace(config, text_column=("text",))


def test_a_catalog_without_records_is_an_error_that_names_the_file(tmp_path):
    empty = pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "a.parquet")
    source = str(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet: there are no records"):
        embed(EmbedConfig(source, str(tmp_path), "t"))


def test_an_image_given_by_path_is_fetched_and_a_missing_one_is_retried_in_the_next_run(tmp_path):
    images = [
        {"bytes": draw("star", "red", "blue"), "path": "a.png"},
        *({"bytes": None, "path": p} for p in "bc"),
        None,
    ]
    table_of = pa.table({"id": ["a", "b", "c", "d"], "text": ["x", "y", "z", "z"], "image": images})
    pq.write_table(table_of, tmp_path / "a.parquet")
    (tmp_path / "b").write_bytes(draw("star", "red", "blue"))
    config = EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t", max_reject_rate=1)
    embed(config)
    assert {key: row["modality"] for key, row in rows(tmp_path).items()} == {
        **dict.fromkeys("ab", "image_text"),
        "d": "text",
    }
    assert [(reject["id"], reject["reason"]) for reject in rejects(tmp_path)] == [("c", "fetch_not_found")]
    (tmp_path / "c").write_bytes(draw("ring", "red", "blue"))
    summary = embed(config)
    assert (summary.counts.written, summary.counts.unchanged, rejects(tmp_path)) == (1, 3, [])


def test_images_are_relative_to_the_file_and_outside_its_folder_read_only_if_allowed(tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(draw("star", "red", "blue"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "inside.png").write_bytes(draw("star", "red", "blue"))
    lines = [{"id": "a", "image": str(outside)}, {"id": "b", "image": "../outside.png"}, {"id": "c", "text": "x"}]
    lines.append({"id": "d", "image": "inside.png"})
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = EmbedConfig(str(tmp_path / "in"), str(tmp_path), "t", source_name="shop", max_reject_rate=1)
    embed(config)
    assert {key: (row["modality"], row["_object"]) for key, row in rows(tmp_path).items()} == {
        "c": ("text", f"shop#{tmp_path}/in/a.jsonl"),
        "d": ("image", f"shop#{tmp_path}/in/a.jsonl"),
    }
    assert {reject["id"]: reject["reason"] for reject in rejects(tmp_path)} == {
        "a": "uri_not_allowed",
        "b": "uri_invalid",
    }
    embed(dataclasses.replace(config, allow_prefix=(str(tmp_path),)))
    assert rows(tmp_path).keys() == {"a", "c", "d"}


def test_limit_and_sample_embed_a_part_of_the_source(tmp_path):
    texts = {f"id{n}": f"text {n}" for n in range(200)}
    source = write_texts(tmp_path / "a.parquet", texts, row_group_size=30)
    config = EmbedConfig(source, str(tmp_path), "t")
    summary = embed(dataclasses.replace(config, limit=45))
    assert (summary.counts.read, summary.counts.written) == (45, 45)
    assert "ONLY the first 45 records" in str(summary)
    assert rows(tmp_path).keys() == set(list(texts)[:45])
    shared = embed(dataclasses.replace(config, sample=0.5)).counts
    assert 60 < shared.read < 140
    whole = embed(config).counts
    assert (whole.read, whole.unchanged) == (200, 45 + shared.written)
    assert rows(tmp_path).keys() == texts.keys()


def test_options_that_a_table_was_filled_with_are_kept_and_cannot_change(tmp_path):
    (tmp_path / "a.png").write_bytes(draw("star", "red", "blue"))
    pq.write_table(pa.table({"id": ["a"], "images": [["a.png"]]}), tmp_path / "a.parquet")
    config = EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t", images="first", image_identity="content")
    embed(config)
    assert rows(tmp_path).keys() == {"a"}
    same = dataclasses.replace(config, images=None, image_identity=None)
    assert embed(same).counts.unchanged == 1
    for option in ({"images": "each"}, {"image_identity": "uri"}):
        with pytest.raises(UsageError, match=f"--{next(iter(option)).replace('_', '-')} .*t was filled with"):
            embed(dataclasses.replace(same, **option))
