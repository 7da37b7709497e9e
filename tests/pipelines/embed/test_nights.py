"""Nightly runs on one table: only changes are embedded, missing rows are counted, readers see only complete runs."""

import dataclasses
import json
from datetime import timedelta

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.embed.config import EmbedConfig
from pipelines.embed.plan import Plan
from pipelines.embed.run import Setup
from pipelines.events import BundleCommitted
from pipelines.gates.judge import GateError
from pipelines.records import VECTOR
from pipelines.report.nights import read_nights
from pipelines.rollback import RollbackConfig, roll_back_table
from pipelines.sample_catalog import draw
from pipelines.stages.encode import EncodeActor
from pipelines.stages.pool import Stages
from pipelines.tables.dataset import open_dataset, published
from pipelines.tables.lease import LeaseHeldError, hold
from pipelines.tables.origin import vista_column
from tests.pipelines.embed.on_warm_workers import embed
from tests.tables import NO_RUNS
from vista_core import UsageError, VistaError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def write(folder, group: int = 3, **files: dict[str, str | bytes]) -> str:
    """Write Parquet files from records given as {id: text or image}, and return the folder."""
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        texts = [value if isinstance(value, str) else None for value in rows.values()]
        images = [value if isinstance(value, bytes) else None for value in rows.values()]
        columns = {"id": list(rows), "text": pa.array(texts, pa.string()), "image": pa.array(images, pa.binary())}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=group)
    return str(folder)


def table(db, version="published"):
    return lance.dataset(f"{db}/t.lance", version=version)


def rows(db, version="published"):
    return {row["id"]: row for row in table(db, version).to_table().to_pylist()}


def files(db) -> dict[str, str]:
    """The name of the file that each row came from, by id."""
    return {key: row["_object"].rpartition("/")[2] for key, row in rows(db).items()}


def rejects(db) -> list[tuple[str, str, str]]:
    found = lance.dataset(f"{db}/t_rejects.lance").to_table().to_pylist()
    return sorted((row["id"], row["object"].rpartition("/")[2], row["reason"]) for row in found)


def runs(db):
    return sorted(lance.dataset(f"{db}/t_runs.lance").to_table().to_pylist(), key=lambda run: run["started"])


def test_a_night_with_changed_moved_duplicate_broken_and_missing_records(tmp_path):
    image, other = draw("star", "red", "blue"), draw("ring", "red", "blue")
    before = {f"a{n}": f"text {n}" for n in range(8)} | {"image": image}
    source = write(
        tmp_path / "in", a=before, b={"b0": "x", "b1": "y"}, c={"c0": "z"}, d={f"d{n}": "d" for n in range(9)}
    )
    config = EmbedConfig(source, str(tmp_path), "t", max_reject_rate=1)
    embed(config)
    first = rows(tmp_path)

    after = before | {"a0": "changed", "image": other}
    for key in ("a1", "a2"):
        del after[key]
    b = {"b0": "x", "b1": "y", "a1": "text 1", "a3": "too late"}
    write(tmp_path / "in", a=after, b=b, bad={"x": b"no image"})
    (tmp_path / "in" / "c.parquet").unlink()
    summary = embed(config)
    counts = summary.counts
    assert (counts.read, counts.written, counts.rewritten, counts.unchanged, counts.rejected) == (12, 2, 1, 7, 2)
    assert (counts.skipped, counts.missing) == (9, 2)
    assert "skipped, unchanged: 1 files, 9 rows" in str(summary)
    assert "2 rows are no longer in the source (--delete-missing removes them)" in str(summary)
    assert rejects(tmp_path) == [("a3", "b.parquet", "duplicate_id"), ("x", "bad.parquet", "image_undecodable")]
    second = rows(tmp_path)
    assert files(tmp_path)["a1"] == "b.parquet", "the record moved to another file"
    assert second["a1"]["vector"] == first["a1"]["vector"]
    assert second["a3"] == first["a3"]
    assert second.keys() == first.keys()

    counts = embed(config).counts
    assert (counts.read, counts.missing) == (4, 2), "only the file with a duplicate id is read again"
    summary = embed(dataclasses.replace(config, delete_missing=True))
    assert (summary.counts.deleted, summary.counts.read) == (2, 11), "the file with a missing row is read again, too"
    assert "removed 2 rows that are no longer in the source" in str(summary)
    expected = {key: row["vector"] for key, row in second.items() if key not in ("a2", "c0")}
    assert {key: row["vector"] for key, row in rows(tmp_path).items()} == expected
    again = embed(dataclasses.replace(config, read_all=True, delete_missing=True)).counts
    assert (again.read, again.unchanged, again.rejected, again.missing) == (21, 19, 2, 0)
    assert [run["deleted"] for run in runs(tmp_path)] == [0, 0, 0, 2, 0]
    assert rejects(tmp_path) == [("a3", "b.parquet", "duplicate_id"), ("x", "bad.parquet", "image_undecodable")]


def test_a_source_that_lost_most_of_its_rows_fails_unless_the_number_is_confirmed(tmp_path):
    source = write(tmp_path / "in", a={f"a{n}": "x" for n in range(4)}, b={"b": "x"})
    config = EmbedConfig(source, str(tmp_path), "t", delete_missing=True)
    embed(config)
    (tmp_path / "in" / "a.parquet").unlink()
    with pytest.raises(GateError, match=r"missing rows: not removing 4 missing rows, 80.0% .* --delete-at-most 4"):
        embed(config)
    assert len(rows(tmp_path)) == len(rows(tmp_path, None)) == 5
    assert json.loads(runs(tmp_path)[-1]["gates"])[-1]["passed"] is False
    assert embed(dataclasses.replace(config, delete_at_most=4)).counts.deleted == 4
    assert rows(tmp_path).keys() == {"b"}


def test_two_sources_of_one_table_do_not_affect_each_other(tmp_path):
    shop = write(tmp_path / "shop", a={"s0": "x", "s1": "y", "s2": "x"})
    museum = write(tmp_path / "museum", a={"m0": "x", "s1": "not the shop's", "s3": "z"})
    first = EmbedConfig(shop, str(tmp_path), "t", source_name="shop", max_reject_rate=1)
    second = dataclasses.replace(first, source=museum, source_name="museum", delete_at_most=9)
    embed(first)
    counts = embed(second).counts
    assert (counts.written, counts.rejected, counts.missing) == (2, 1, 0)
    assert rejects(tmp_path) == [("s1", "a.parquet", "duplicate_id")]
    moved = tmp_path / "moved"
    (tmp_path / "shop").rename(moved)
    write(moved, a={"s0": "x", "s1": "y"})
    counts = embed(dataclasses.replace(first, source=str(moved), delete_at_most=9)).counts
    assert (counts.rewritten, counts.deleted) == (2, 1), "a source is identified by its name, not by its location"
    assert {row["_object"].partition("#")[0] for row in rows(tmp_path).values()} == {"shop", "museum"}
    assert rows(tmp_path).keys() == {"s0", "s1", "m0", "s3"}
    roll_back_table(RollbackConfig(str(tmp_path), "t"))
    assert "s2" in rows(tmp_path)
    assert [run["status"] for run in runs(tmp_path)] == ["done"] * 4


def test_a_second_driver_is_refused_without_disturbing_the_first(tmp_path):
    source = write(tmp_path / "in", a={"a": "x"})
    config = EmbedConfig(source, str(tmp_path), "t")
    embed(config)
    before = published(table(tmp_path))
    write(tmp_path / "in", a={"a": "y"})
    uri = f"{tmp_path}/t.lance"
    with hold(lance.dataset(uri), NO_RUNS) as (held, lease):
        with pytest.raises(LeaseHeldError, match=rf"is being written to by run {lease.run} \(process \d+ on .*since"):
            embed(config)
        assert lance.dataset(uri).version == held.version
        lease.check(lance.dataset(uri))
        assert embed(dataclasses.replace(config, take_over=True)).counts.written == 1
        with pytest.raises(VistaError, match="taken for dead"):
            lease.check(lance.dataset(uri))
    assert published(table(tmp_path)) > before
    assert [run["status"] for run in runs(tmp_path)] == ["done", "done"], "a run that was refused never began"


def test_a_run_after_one_that_was_killed_and_whose_clock_ran_ahead(tmp_path):
    texts = {f"a{n}": "x" for n in range(10)}
    config = EmbedConfig(write(tmp_path / "in", a=texts | {"gone": "x"}), str(tmp_path), "t", delete_missing=True)
    embed(config)
    ahead = "20990101T000000000000-ffff"
    lance.dataset(f"{tmp_path}/t_runs.lance").update({"status": "'running'", "run": f"'{ahead}'"})
    table(tmp_path, None).update({"_run": f"'{ahead}'"})
    write(tmp_path / "in", a=texts | {"new": "y"})
    counts = embed(config).counts
    assert (counts.written, counts.missing, counts.deleted) == (1, 1, 1)
    assert rows(tmp_path).keys() == texts.keys() | {"new"}
    killed, done = runs(tmp_path)
    assert (killed["run"], killed["status"], done["status"]) == (ahead, "dead", "done")
    assert done["run"] > ahead
    assert rows(tmp_path)["new"]["_run"] == done["run"]
    [canary] = [gate for gate in json.loads(done["gates"]) if gate["gate"] == "canary"]
    assert canary["message"].startswith("11 of 11 rows encoded again")


class Confused(EncodeActor):
    """Gives each record the vector of its neighbour in the batch, which has norm 1 but is wrong."""

    def __call__(self, records):
        encoded = super().__call__(records)
        values = np.array(encoded[VECTOR].to_pylist(), np.float16)
        filled = np.flatnonzero(np.linalg.norm(values, axis=1))
        values[filled] = values[np.roll(filled, 1)]
        column = pa.array(values.tolist(), encoded[VECTOR].type)
        return encoded.set_column(encoded.schema.get_field_index(VECTOR), VECTOR, column)


def test_rows_that_failed_a_gate_are_judged_in_every_run_until_they_are_repaired(tmp_path):
    texts = {f"a{n}": f"text {n}" for n in range(12)}
    config = EmbedConfig(write(tmp_path / "in", a={"a0": "x"}), str(tmp_path), "t")
    embed(config)
    before = published(table(tmp_path))
    write(tmp_path / "in", a=texts)
    with pytest.raises(GateError, match=r"canary: 12 of 12 rows .* less than 0\.999"):
        embed(config, Setup(stages=Stages(encoder=Confused)))
    assert GateError.exit_code == 3
    assert published(table(tmp_path)) == before
    with pytest.raises(GateError, match="canary"):
        embed(config)  # nothing is written, and the rows are still wrong
    assert runs(tmp_path)[-1]["skipped"] == 12
    assert published(table(tmp_path)) == before
    assert embed(dataclasses.replace(config, reembed=True)).counts.written == 12
    assert {key: row["text"] for key, row in rows(tmp_path).items()} == texts


def test_rows_that_failed_a_gate_are_not_published_by_the_run_of_another_source(tmp_path):
    shop = EmbedConfig(write(tmp_path / "shop", a={"s0": "x", "s1": "y"}), str(tmp_path), "t", source_name="shop")
    museum = dataclasses.replace(shop, source=write(tmp_path / "museum", a={"m0": "z"}), source_name="museum")
    with pytest.raises(GateError, match="canary"):
        embed(shop, Setup(stages=Stages(encoder=Confused)))
    with pytest.raises(GateError, match=r"other sources: 's\d' .* of shop#.* by run \w+.* Run the job for that source"):
        embed(museum)
    assert published(table(tmp_path, None)) is None
    write(tmp_path / "shop", a={"s0": "other", "s1": "texts"})
    assert embed(shop).counts.written == 2
    assert rows(tmp_path).keys() == {"s0", "s1", "m0"}, "the rows of the museum passed all other gates in its own run"


def test_readers_see_a_reembedded_column_only_when_all_of_it_is_replaced(tmp_path):
    texts = {f"a{n}": f"text {n} " * 9 for n in range(200)}
    source = write(tmp_path / "in", 40, a=texts, b={"b": "x"})
    config = EmbedConfig(source, str(tmp_path), "t", commit_seconds=0)
    embed(config)
    table(tmp_path, None).add_columns({"note": "concat('on ', id)"})
    embed(config)
    old = vista_column(table(tmp_path))
    with pytest.raises(UsageError, match=r"max_tokens: .*or replace the whole column by `vista embed --reembed`"):
        embed(dataclasses.replace(config, max_tokens=20))

    new = dataclasses.replace(config, max_tokens=20, reembed=True)
    commits = iter(range(9))

    def crash(event):
        if isinstance(event, BundleCommitted) and next(commits) == 1:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        embed(new, Setup([crash]))
    assert vista_column(table(tmp_path)) == old, "readers still see the old column"
    (tmp_path / "in" / "b.parquet").unlink()
    with pytest.raises(GateError, match="1 rows still have the vectors of another encoder"):
        embed(dataclasses.replace(new, reembed=False))  # continues the re-embedding, since the encoder is the same
    assert 0 < runs(tmp_path)[-1]["unchanged"] < 200, "rows that the first run embedded are not embedded again"
    summary = embed(dataclasses.replace(new, delete_missing=True))
    assert (summary.counts.written, summary.counts.deleted) == (0, 1)
    assert vista_column(table(tmp_path)) == summary.job.column != old
    found = rows(tmp_path)
    assert {key: row["text"] for key, row in found.items()} == texts
    assert all(row["truncated"] and row["note"] == f"on {key}" for key, row in found.items())


def test_what_another_client_does_to_the_table_costs_no_night(tmp_path):
    config = EmbedConfig(write(tmp_path / "in", a={"a0": "x", "a1": "y"}), str(tmp_path), "t")
    embed(config)
    other = lancedb.connect(str(tmp_path)).open_table("t")
    before = rows(tmp_path)
    other.add([{"id": key, "vector": before["a0"]["vector"], "text": "by hand"} for key in ("b0", "b1")])
    other.add_columns({"stars": "5"})
    wide = pa.list_(pa.float32(), 128)
    other.alter_columns({"path": "vector", "data_type": wide})
    write(tmp_path / "in", a={"a0": "x", "a1": "changed", "b0": "in the catalog now"})
    summary = embed(config)
    counts = summary.counts
    assert (counts.written, counts.unchanged, counts.missing, counts.foreign) == (2, 1, 0, 1)
    assert "1 rows are those of other clients (`_object IS NULL`), and stay" in str(summary)
    after = rows(tmp_path)
    assert {key: (row["text"], row["stars"]) for key, row in after.items()} == {
        "a0": ("x", 5),
        "a1": ("changed", None),
        "b0": ("in the catalog now", 5),
        "b1": ("by hand", 5),
    }
    assert after["a0"]["vector"] == before["a0"]["vector"]
    assert vista_column(table(tmp_path)) == summary.job.column
    assert table(tmp_path).schema.field("vector").type == wide


def test_a_plan_reports_the_work_of_a_run_and_writes_nothing(tmp_path):
    source = write(tmp_path / "in", a={f"a{n}": "x" for n in range(8)}, b={"b": "x"})
    config = EmbedConfig(source, str(tmp_path / "db"), "t", plan=True, price_per_hour=3.6)
    said = str(embed(config))
    assert "t: 2 of 2 files to read (2 of them without rows in the table)" in said
    assert "9 rows in files that the table has no rows of; 100.0% of them to embed" in said
    assert "about 9 rows to embed: " in said and "measured here" in said
    decoding, bottleneck, cost = said.splitlines()[-3:]
    assert decoding.startswith("decoding: ") and "; encoding: " in decoding
    assert bottleneck.startswith("bottleneck: ")
    assert cost.startswith("cost: ") and "; a million rows: " in cost
    assert not (tmp_path / "db").exists()
    embed(dataclasses.replace(config, plan=False))
    write(tmp_path / "in", a={f"a{n}": "x" if n < 6 else "changed" for n in range(8)}, c={"c": "x"})
    (tmp_path / "in" / "b.parquet").unlink()
    before = open_dataset(f"{tmp_path}/db/t.lance").version
    plan = embed(config)
    assert isinstance(plan, Plan)
    assert plan.lines[:4] == [
        plan.lines[0],
        "files that are gone: 1, of which the table has 1 rows",
        "1 rows in files that the table has no rows of; 100.0% of them to embed, by a sample of 1 rows",
        "8 rows in files that changed or were not read in full; 25.0% of them to embed, by a sample of 8 rows",
    ]
    assert "about 3 rows to embed" in plan.lines[4]
    assert open_dataset(f"{tmp_path}/db/t.lance").version == before
    assert len(runs(tmp_path / "db")) == 1


def test_a_plan_says_if_no_record_can_be_embedded(tmp_path):
    source = write(tmp_path / "in", a={f"a{n}": draw("star", "red", "blue")[:40] for n in range(4)})
    said = str(embed(EmbedConfig(source, str(tmp_path / "db"), "t", plan=True, price_per_hour=1.0)))
    assert "about 4 rows to embed, but those that were tried are all rejected" in said


def test_a_plan_goes_by_former_runs_of_similar_work(tmp_path):
    source = write(tmp_path / "in", a={f"a{n}": "x" for n in range(8)})
    config = EmbedConfig(source, str(tmp_path / "db"), "t")
    embed(config)
    last(tmp_path / "db", seconds=10, rows_per_second=2.0)
    plan = dataclasses.replace(config, plan=True)
    write(tmp_path / "in", a={f"a{n}": "x" if n else "changed" for n in range(8)})
    said = str(embed(plan))
    assert "about 1 rows to embed" in said
    assert "the median of" not in said, "a run that embeds all that it reads says nothing of one that mostly reads"
    write(tmp_path / "in", b={f"b{n}": "x" for n in range(11)})
    said = str(embed(plan))
    assert "about 12 rows to embed: 12 s at 2.0 rows/s (the median of the last 1 runs; " in said, "6 s around them"
    assert "measured here: " in said


def last(db, seconds: int, **values: float) -> None:
    """Let the runs so far have taken this long."""
    recorded = lance.dataset(f"{db}/t_runs.lance")
    changed = [row | values | {"started": row["finished"] - timedelta(seconds=seconds)} for row in runs(db)]
    lance.write_dataset(pa.Table.from_pylist(changed, recorded.schema), recorded.uri, mode="overwrite")


def test_a_night_forecasts_how_long_it_takes_and_keeps_that_beside_how_long_it_took(tmp_path):
    source = write(tmp_path / "in", a={f"a{n}": "x" for n in range(8)})
    config = EmbedConfig(source, str(tmp_path), "t")
    embed(config)
    last(tmp_path, seconds=100)
    write(tmp_path / "in", a={f"a{n}": "changed" for n in range(8)})
    embed(config)
    first, second = runs(tmp_path)
    assert (first["forecast_seconds"], first["forecast_after"]) == (None, None)
    assert second["forecast_seconds"] == pytest.approx(100, abs=1), "as long as the run before"
    assert 0 < second["forecast_after"] < 100
    nights = read_nights(f"{tmp_path}/t_runs.lance")
    assert [night.deviation_percent is None for night in nights] == [True, False]
    assert -100 < nights[1].deviation_percent < 0


def test_a_plan_names_the_reasons_for_which_records_are_rejected(tmp_path):
    table = pa.table({"id": ["a", "b", None], "text": ["x", " ", "y"]})
    pq.write_table(table, tmp_path / "a.parquet")
    said = str(embed(EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path / "db"), "t", plan=True)))
    assert "3 rows in files that the table has no rows of; 33.3% of them to embed" in said
    assert "rejected in this sample, before images are decoded: empty_record 1, missing_id 1" in said
