"""Night after night on one table: what changed is embedded, what is gone is said, and readers see whole nights only."""

import dataclasses
import json

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.embed
from pipelines.embed import GateError, embed
from pipelines.plan import Plan
from pipelines.run_config import EmbedConfig
from pipelines.sample_catalog import draw
from pipelines.sink.lease import LeaseHeldError, hold
from pipelines.sink.table import open_dataset, published, stored_identity
from vista_core import UsageError, VistaError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def write(folder, group: int = 3, **files: dict[str, str | bytes]) -> str:
    """Parquet files of records, id to text or image; returns the folder."""
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
    """By id the name of the file that the row came from."""
    return {key: row["_object"].rpartition("/")[2] for key, row in rows(db).items()}


def rejects(db) -> list[tuple[str, str, str]]:
    found = lance.dataset(f"{db}/t_rejects.lance").to_table().to_pylist()
    return sorted((row["id"], row["object"].rpartition("/")[2], row["reason"]) for row in found)


def runs(db):
    return sorted(lance.dataset(f"{db}/t_runs.lance").to_table().to_pylist(), key=lambda run: run["started"])


def test_a_night_in_which_everything_happens(tmp_path):
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
    assert "not read, being as they were: 1 objects, 9 rows" in str(summary)
    assert "2 rows are no longer in the source (--delete-missing removes them)" in str(summary)
    assert rejects(tmp_path) == [("a3", "b.parquet", "duplicate_id"), ("x", "bad.parquet", "image_undecodable")]
    second = rows(tmp_path)
    assert files(tmp_path)["a1"] == "b.parquet", "it moved"
    assert second["a1"]["vector"] == first["a1"]["vector"]
    assert second["a3"] == first["a3"]
    assert second.keys() == first.keys()

    counts = embed(config).counts
    assert (counts.read, counts.missing) == (4, 2), "only the file with a doubled id is read again"
    summary = embed(dataclasses.replace(config, delete_missing=True))
    assert (summary.counts.deleted, summary.counts.read) == (2, 11), "and that with a missing row"
    assert "removed 2 rows that are no longer in the source" in str(summary)
    expected = {key: row["vector"] for key, row in second.items() if key not in ("a2", "c0")}
    assert {key: row["vector"] for key, row in rows(tmp_path).items()} == expected
    again = embed(dataclasses.replace(config, read_all=True, delete_missing=True)).counts
    assert (again.read, again.unchanged, again.rejected, again.missing) == (21, 19, 2, 0)
    assert [run["deleted"] for run in runs(tmp_path)] == [0, 0, 0, 2, 0]
    assert rejects(tmp_path) == [("a3", "b.parquet", "duplicate_id"), ("x", "bad.parquet", "image_undecodable")]


def test_a_source_that_lost_most_of_itself_is_not_believed(tmp_path):
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


def test_two_sources_of_one_table_keep_to_themselves(tmp_path):
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
    assert (counts.rewritten, counts.deleted) == (2, 1), "a source is known by its name, wherever it lies"
    assert {row["_object"].partition("#")[0] for row in rows(tmp_path).values()} == {"shop", "museum"}
    assert rows(tmp_path).keys() == {"s0", "s1", "m0", "s3"}
    embed(dataclasses.replace(first, rollback=True))
    assert "s2" in rows(tmp_path)
    assert [run["status"] for run in runs(tmp_path)] == ["done"] * 4


def test_a_second_driver_is_refused_and_the_first_is_not_disturbed(tmp_path):
    source = write(tmp_path / "in", a={"a": "x"})
    config = EmbedConfig(source, str(tmp_path), "t")
    embed(config)
    before = published(table(tmp_path))
    write(tmp_path / "in", a={"a": "y"})
    uri = f"{tmp_path}/t.lance"
    with hold(uri, "20260101T000000", lambda run: None) as (held, lease):
        with pytest.raises(
            LeaseHeldError, match=r"is being written to by run 20260101T000000 \(process \d+ on .*since"
        ):
            embed(config)
        assert lance.dataset(uri).version == held.version
        lease.check(lance.dataset(uri))
        assert embed(dataclasses.replace(config, take_over=True)).counts.written == 1
        with pytest.raises(VistaError, match="taken for dead"):
            lease.check(lance.dataset(uri))
    assert published(table(tmp_path)) > before
    assert [run["status"] for run in runs(tmp_path)] == ["done", "failed", "done"]


def test_a_run_that_was_killed_is_called_dead_by_the_next(tmp_path):
    config = EmbedConfig(write(tmp_path / "in", a={"a": "x"}), str(tmp_path), "t")
    embed(config)
    lance.dataset(f"{tmp_path}/t_runs.lance").update({"status": "'running'"})
    embed(config)
    assert [run["status"] for run in runs(tmp_path)] == ["dead", "done"]


class Confused(pipelines.embed.EncodeActor):
    """Gives each record of a batch the vector of its neighbour: of norm 1, and wrong."""

    def __call__(self, records):
        encoded = super().__call__(records)
        values = np.array(encoded["vector"].to_pylist(), np.float16)
        live = np.flatnonzero(np.linalg.norm(values, axis=1))
        values[live] = values[np.roll(live, 1)]
        column = pa.array(values.tolist(), encoded["vector"].type)
        return encoded.set_column(encoded.schema.get_field_index("vector"), "vector", column)


def test_rows_that_failed_a_gate_are_judged_again_until_they_are_mended(tmp_path, monkeypatch):
    texts = {f"a{n}": f"text {n}" for n in range(12)}
    config = EmbedConfig(write(tmp_path / "in", a={"a0": "x"}), str(tmp_path), "t")
    embed(config)
    before = published(table(tmp_path))
    write(tmp_path / "in", a=texts)
    with monkeypatch.context() as patch:
        patch.setattr(pipelines.embed, "EncodeActor", Confused)
        with pytest.raises(GateError, match=r"canary: 12 of 12 rows .* less than 0\.999"):
            embed(config)
    assert GateError.exit_code == 3
    assert published(table(tmp_path)) == before
    with pytest.raises(GateError, match="canary"):
        embed(config)  # nothing is written, and the rows are as wrong as they were
    assert runs(tmp_path)[-1]["skipped"] == 12
    assert published(table(tmp_path)) == before
    assert embed(dataclasses.replace(config, reembed=True)).counts.written == 12
    assert {key: row["text"] for key, row in rows(tmp_path).items()} == texts


def test_a_column_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    texts = {f"a{n}": f"text {n} " * 9 for n in range(200)}
    source = write(tmp_path / "in", 40, a=texts, b={"b": "x"})
    config = EmbedConfig(source, str(tmp_path), "t", commit_seconds=0)
    embed(config)
    table(tmp_path, None).add_columns({"note": "concat('on ', id)"})
    embed(config)
    old = stored_identity(table(tmp_path))
    with pytest.raises(UsageError, match=r"max_tokens: .*or replace the whole column with --reembed"):
        embed(dataclasses.replace(config, max_tokens=20))

    new = dataclasses.replace(config, max_tokens=20, reembed=True)
    check, times = pipelines.embed.check_reject_rate, iter(range(9))

    def dies(*arguments):
        check(*arguments)
        if next(times) == 1:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(pipelines.embed, "check_reject_rate", dies)
        with pytest.raises(RuntimeError, match="killed"):
            embed(new)
    assert stored_identity(table(tmp_path)) == old, "readers see the column as it was"
    (tmp_path / "in" / "b.parquet").unlink()
    with pytest.raises(GateError, match="1 rows still have the vectors of another encoder"):
        embed(dataclasses.replace(new, reembed=False))  # it is under way, and this is its encoder
    assert 0 < runs(tmp_path)[-1]["unchanged"] < 200, "what the first run did is not done again"
    summary = embed(dataclasses.replace(new, delete_missing=True))
    assert (summary.counts.written, summary.counts.deleted) == (0, 1)
    assert stored_identity(table(tmp_path)) == summary.job.identity != old
    found = rows(tmp_path)
    assert {key: row["text"] for key, row in found.items()} == texts
    assert all(row["truncated"] and row["note"] == f"on {key}" for key, row in found.items())


def test_a_plan_says_what_there_is_to_do_and_writes_nothing(tmp_path):
    source = write(tmp_path / "in", a={f"a{n}": "x" for n in range(8)}, b={"b": "x"})
    config = EmbedConfig(source, str(tmp_path / "db"), "t", plan=True, price_per_hour=3.6)
    said = str(embed(config))
    assert "t: 2 of 2 objects to read (2 of them new)" in said
    assert "9 rows in new objects, 100.0% of them to embed" in said
    assert "measured here" in said and "cost: " in said
    assert not (tmp_path / "db").exists()
    embed(dataclasses.replace(config, plan=False))
    write(tmp_path / "in", a={f"a{n}": "x" if n < 6 else "changed" for n in range(8)}, c={"c": "x"})
    (tmp_path / "in" / "b.parquet").unlink()
    before = open_dataset(f"{tmp_path}/db/t.lance").version
    plan = embed(config)
    assert isinstance(plan, Plan)
    assert plan.lines[:4] == [
        plan.lines[0],
        "1 objects are gone, of which the table has 1 rows",
        "1 rows in new objects, 100.0% of them to embed, as far as 1 rows tell",
        "8 rows in objects that changed, or were not read in full, 25.0% of them to embed, as far as 8 rows tell",
    ]
    assert "about 3 rows to embed" in plan.lines[4]
    assert open_dataset(f"{tmp_path}/db/t.lance").version == before
    assert len(runs(tmp_path / "db")) == 1
