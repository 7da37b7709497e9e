"""Nights on a table with several vector columns: each is what its own encoder makes of the source of today."""

import dataclasses
import json
import re
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.backfill import run
from pipelines.backfill.config import BackfillConfig
from pipelines.drop_column import DropConfig, drop
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup
from pipelines.events import BundleCommitted
from pipelines.gates.judge import GateError
from pipelines.records import VECTOR, embeddable
from pipelines.stages.encode import EncodeActor
from pipelines.stages.pool import Stages
from pipelines.switch import SwitchConfig, switch_column
from pipelines.tables.vector_column import EncoderFiles, VectorColumn
from tests.pipelines.embed.on_warm_workers import embed, encode
from vista_core import Encoder, EncoderSettings, Record

pytestmark = pytest.mark.usefixtures("ray_cluster")

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "images"
TRANSPARENT = (GOLDEN / "06_rgba_250x250.png").read_bytes()
JPEG = (GOLDEN / "00_rgb_640x480.jpg").read_bytes()
FIRST = EncoderSettings(device="cpu")
SECOND = EncoderSettings(device="cpu", alpha="white", max_tokens=6)
LONG = "a red star above many words that a shorter limit cuts off, number"
Catalog = dict[str, Record]


def text(number: int) -> Record:
    return Record(f"{LONG} {number}")


CATALOG: Catalog = {
    **{f"t{number}": Record(f"{number} {LONG}") for number in range(6)},
    "image": Record(None, JPEG),
    "both": Record(LONG, TRANSPARENT),
}


def write(folder: Path, name: str, catalog: Catalog, **prices: int) -> str:
    """A Parquet file of the source, in row groups of three; returns the source."""
    folder.mkdir(exist_ok=True)
    columns = {
        "id": list(catalog),
        "text": pa.array([each.text for each in catalog.values()], pa.string()),
        "image": pa.array([each.image for each in catalog.values()], pa.binary()),
        "price": pa.array([prices.get(key, 1) for key in catalog], pa.int64()),
    }
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=3)
    return str(folder)


def table(db: Path, version: str | None = "published") -> lance.LanceDataset:
    return lance.dataset(f"{db}/t.lance", version=version)


def rows(db: Path) -> dict[str, dict]:
    return {row["id"]: row for row in table(db).to_table().to_pylist()}


def runs(db: Path) -> list[dict]:
    found = lance.dataset(f"{db}/t_runs.lance").to_table().to_pylist()
    return sorted(found, key=lambda run: run["run"])


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    """The encoder of each column."""
    return {"vector": Encoder.load(FIRST), "vector_b": Encoder.load(SECOND)}


def backfill(db: Path, catalog: Catalog, encoder: Encoder, without: tuple[str, ...] = (), **values) -> VectorColumn:
    """Add the column `vector_b`, filled for all rows but those `without`: these have a fingerprint and no vector."""
    dataset = table(db, None)
    values.setdefault("files", EncoderFiles())
    column = VectorColumn("vector_b", encoder.identity, **values)
    known = dataset.to_table(["id", "vector_fingerprint"])
    vectors = dict(zip(catalog, encoder.encode(list(catalog.values())).astype(np.float16), strict=True))
    found = [None if key in without else vectors[key] for key in known["id"].to_pylist()]
    arrays = [pa.array(found, column.type), known["vector_fingerprint"].combine_chunks()]
    schema = pa.schema([column.field, column.fingerprint_field])
    dataset.add_columns(pa.table(arrays, schema=schema).to_reader())
    table(db, None).update_field_metadata(column.field_update)
    return column


def check(db: Path, catalog: Catalog, encoders: dict[str, Encoder]) -> None:
    """Assert that the published columns are what their encoders make of the catalog."""
    stored = rows(db)
    assert stored.keys() == catalog.keys()
    for name, encoder in encoders.items():
        found = np.array([stored[key][name] for key in catalog], np.float32)
        expected = encoder.encode(list(catalog.values()))
        assert np.abs(found - expected).max() <= 1e-3, name
        fingerprints = {key: row[f"{name}_fingerprint"] for key, row in stored.items()}
        assert len(set(fingerprints.values())) == len(catalog)
        assert fingerprints == {key: row[f"{next(iter(encoders))}_fingerprint"] for key, row in stored.items()}


class Only(EncodeActor):
    """An encoder that no record may reach of any slot but one."""

    number = 0

    def __call__(self, records):
        assert self.slot.number == self.number or not any(embeddable(records, self.slot.number))
        return super().__call__(records)


class OnlySecond(Only):
    number = 1


def test_a_night_keeps_both_columns_what_their_encoders_make_of_the_source(tmp_path, encoders):
    config = EmbedConfig(write(tmp_path / "in", "a", CATALOG), str(tmp_path), "t", max_reject_rate=1)
    embed(config)
    check(tmp_path, CATALOG, {"vector": encoders["vector"]})
    backfill(tmp_path, CATALOG, encoders["vector_b"])
    summary = embed(config)
    assert (summary.counts.read, summary.counts.unchanged) == (8, 8), "whoever adds a column has every file read once"
    said = "`vector` by vista-tiny, float32; `vector_b` by vista-tiny, float32; "
    assert f"{said}1 CPU encode actor for each: " in str(summary)
    assert embed(config).counts.skipped == 8
    assert isinstance(json.loads(runs(tmp_path)[0]["configuration"])["encoder"], dict)
    assert len(json.loads(runs(tmp_path)[1]["configuration"])["encoder"]) == 2

    after = {key: record for key, record in CATALOG.items() if key not in ("t0", "t5")}
    after |= {"t1": Record("changed"), "both": Record(LONG, JPEG), "new": Record(f"new {LONG}", TRANSPARENT)}
    before = rows(tmp_path)
    write(tmp_path / "in", "a", after | {"t5": Record("broken now", b"no image")}, t2=7, image=8)
    counts = embed(dataclasses.replace(config, delete_missing=True, delete_at_most=1)).counts
    assert (counts.written, counts.rewritten, counts.unchanged, counts.rejected) == (3, 2, 2, 1)
    assert (counts.deleted, counts.removed) == (1, 1)
    check(tmp_path, after, encoders)
    found = rows(tmp_path)
    assert (found["t2"]["price"], found["image"]["price"], found["image"]["modality"]) == (7, 8, "image")
    for name in ("vector", "vector_b"):
        assert [found[key][name] for key in ("t2", "image")] == [before[key][name] for key in ("t2", "image")]
    gates = {gate["gate"]: gate["message"] for gate in json.loads(runs(tmp_path)[-1]["gates"])}
    assert gates["canary"].startswith("`vector`: 5 of 5 rows encoded again in float32, smallest cosine 1.0000")
    assert "; `vector_b`: 5 of 5 rows encoded again" in gates["canary"]
    assert gates["one encoder"] == "`vector`: vista-tiny, float32; `vector_b`: vista-tiny, float32"
    page = Path(f"{tmp_path}/t_reports/{runs(tmp_path)[-1]['run']}.html").read_text(encoding="utf-8")
    assert "vector_b: max_tokens" in page


def test_only_the_column_that_lacks_a_vector_gets_one(tmp_path, encoders):
    config = EmbedConfig(write(tmp_path / "in", "a", CATALOG), str(tmp_path), "t")
    embed(config)
    backfill(tmp_path, CATALOG, encoders["vector_b"], without=("t1", "both"))
    before = rows(tmp_path)
    encode_second = Setup(stages=Stages(encoder=OnlySecond))
    counts = embed(config, encode_second).counts
    assert (counts.written, counts.rewritten, counts.unchanged) == (2, 0, 6)
    check(tmp_path, CATALOG, encoders)
    for key, row in rows(tmp_path).items():
        kept = {name: value for name, value in row.items() if not name.startswith(("vector_b", "_run"))}
        assert kept == {name: before[key][name] for name in kept}


def test_a_run_that_was_killed_goes_on_with_both_columns(tmp_path, encoders):
    first = {"t0": CATALOG["t0"]}
    config = EmbedConfig(write(tmp_path / "in", "a", first), str(tmp_path), "t", commit_seconds=0, transport_rows=1)
    embed(config)
    backfill(tmp_path, first, encoders["vector_b"])

    def kill(event):
        if isinstance(event, BundleCommitted) and event.counts.written:
            raise RuntimeError("killed")

    write(tmp_path / "in", "a", CATALOG)
    with pytest.raises(RuntimeError, match="killed"):
        embed(config, Setup([kill]))
    counts = embed(config).counts
    assert 0 < counts.written < len(CATALOG) - 1
    check(tmp_path, CATALOG, encoders)


def test_a_column_that_is_being_filled_keeps_its_values_and_gets_none(tmp_path, encoders, caplog):
    config = EmbedConfig(write(tmp_path / "in", "a", CATALOG), str(tmp_path), "t")
    embed(config)
    column = backfill(tmp_path, CATALOG, encoders["vector_b"], filling=True)
    before = {row["id"]: row for row in table(tmp_path, None).to_table().to_pylist()}
    after = CATALOG | {"t1": Record("changed"), "new": Record("new")}
    write(tmp_path / "in", "a", after, t2=7)
    counts = embed(config).counts
    assert (counts.written, counts.rewritten) == (2, 1)
    assert "the column `vector_b` is incomplete" in caplog.text
    check(tmp_path, after, {"vector": encoders["vector"]})
    for key, row in rows(tmp_path).items():
        is_old = key not in ("t1", "new")
        expected = (before[key]["vector_b"], before[key]["vector_b_fingerprint"]) if is_old else (None, None)
        assert (row["vector_b"], row["vector_b_fingerprint"]) == expected
    assert VectorColumn.of(table(tmp_path).schema, "vector_b") == column


def test_reembedding_the_default_column_keeps_the_vectors_of_the_other(tmp_path, encoders):
    config = EmbedConfig(write(tmp_path / "in", "a", CATALOG), str(tmp_path), "t")
    embed(config)
    backfill(tmp_path, CATALOG, encoders["vector_b"])
    before = rows(tmp_path) | {row["id"]: row for row in table(tmp_path, None).to_table().to_pylist()}
    again = dataclasses.replace(config, reembed=True, max_tokens=5)
    counts = embed(again, Setup(stages=Stages(encoder=Only))).counts
    assert (counts.written, counts.rewritten) == (8, 0)
    check(tmp_path, CATALOG, {"vector": Encoder.load(dataclasses.replace(FIRST, max_tokens=5)), **one(encoders)})
    assert {key: row["vector_b"] for key, row in rows(tmp_path).items()} == {
        key: row["vector_b"] for key, row in before.items()
    }
    assert embed(config).counts.skipped == 8


def one(encoders: dict[str, Encoder]) -> dict[str, Encoder]:
    """Those of the second column alone."""
    return {"vector_b": encoders["vector_b"]}


def test_a_table_goes_on_without_the_column_that_it_began_with(tmp_path, encoders):
    config = EmbedConfig(write(tmp_path / "in", "a", CATALOG), str(tmp_path), "t")
    embed(config)
    backfill(tmp_path, CATALOG, encoders["vector_b"])
    switch_column(SwitchConfig(str(tmp_path), "t", "vector_b"))
    drop(DropConfig(str(tmp_path), "t", "vector"))
    counts = embed(config).counts
    assert (counts.read, counts.unchanged) == (8, 8)
    check(tmp_path, CATALOG, one(encoders))
    assert "vector" not in table(tmp_path).schema.names
    after = CATALOG | {"t1": Record("changed"), "new": CATALOG["both"]}
    del after["both"]
    write(tmp_path / "in", "a", after, t2=7)
    counts = embed(dataclasses.replace(config, delete_missing=True, delete_at_most=1)).counts
    assert (counts.written, counts.rewritten, counts.unchanged, counts.deleted) == (2, 1, 5, 1)
    check(tmp_path, after, one(encoders))
    assert embed(config).counts.skipped == 8


def test_with_another_default_column_both_are_kept_fresh(tmp_path, encoders):
    config = EmbedConfig(write(tmp_path / "in", "a", CATALOG), str(tmp_path), "t")
    embed(config)
    backfill(tmp_path, CATALOG, encoders["vector_b"])
    switch_column(SwitchConfig(str(tmp_path), "t", "vector_b"))
    after = CATALOG | {"t1": Record("changed"), "new": Record("new", TRANSPARENT)}
    write(tmp_path / "in", "a", after)
    summary = embed(config)
    assert summary.counts.written == 2
    assert summary.job.column.name == "vector_b"
    check(tmp_path, after, encoders)


class ConfusedSecond(EncodeActor):
    """Gives the records of the second column the vectors of their neighbours."""

    def __call__(self, records):
        encoded = super().__call__(records)
        if not self.slot.number:
            return encoded
        name = self.slot.named(VECTOR)
        values = np.array(encoded[name].to_pylist(), np.float16)
        filled = np.flatnonzero(np.linalg.norm(values, axis=1))
        values[filled] = values[np.roll(filled, 1)]
        column = pa.array(values.tolist(), encoded[name].type)
        return encoded.set_column(encoded.schema.get_field_index(name), name, column)


def test_wrong_vectors_of_any_column_keep_a_version_from_being_published(tmp_path, encoders):
    texts = {key: record for key, record in CATALOG.items() if record.image is None}
    config = EmbedConfig(write(tmp_path / "in", "a", texts), str(tmp_path), "t")
    embed(config)
    backfill(tmp_path, texts, encoders["vector_b"])
    embed(config)
    before = rows(tmp_path)
    write(tmp_path / "in", "b", {text: Record(text) for text in ("a red star", "a blue circle", "a green house")})
    with pytest.raises(GateError, match=r"canary: `vector_b`: 3 of 3 rows .* less than 0\.999"):
        embed(config, Setup(stages=Stages(encoder=ConfusedSecond)))
    assert rows(tmp_path) == before


def test_a_plan_counts_only_earlier_runs_with_the_same_encoders(tmp_path, encoders):
    config = EmbedConfig(write(tmp_path / "in", "a", CATALOG), str(tmp_path), "t")
    embed(config)
    recorded = lance.dataset(f"{tmp_path}/t_runs.lance")
    recorded.update({"rows_per_second": "5.0"})
    of_backfill = json.loads(runs(tmp_path)[0]["configuration"])
    of_backfill |= {"encoder": [of_backfill["encoder"]], "backfill": of_backfill.pop("options")}
    for configuration in (of_backfill, {"drop_column": "vector_c"}):
        row = runs(tmp_path)[0] | {"configuration": json.dumps(configuration), "rows_per_second": 1000.0}
        lance.write_dataset(pa.Table.from_pylist([row], recorded.schema), recorded.uri, mode="append")
    write(tmp_path / "in", "b", {"new": Record("new")})
    plan = dataclasses.replace(config, plan=True)
    assert "at 5.0 rows/s (the median of the last 1 runs; vista-tiny, float32" in str(embed(plan))
    backfill(tmp_path, CATALOG, encoders["vector_b"])
    said = str(embed(plan))
    assert "about 1 rows to embed" in said
    assert "(measured here, " in said
    assert re.search(r"; start-up \d+ s, canary \d+ s; `vector` by vista-tiny", said)


def test_a_second_model_from_its_backfill_until_it_is_the_only_one(tmp_path, encoders):
    source = write(tmp_path / "in", "a", CATALOG)
    config = EmbedConfig(source, str(tmp_path), "t", store_images=True, delete_missing=True, delete_at_most=9)
    embed(config)
    second = BackfillConfig(str(tmp_path), "t", ("vector_b",), ("vista-tiny",), alpha="white", max_tokens=6)
    assert run.backfill(second, run.Setup(stages=Stages(encoder=encode))).counts.written == 8
    counts = embed(config).counts
    assert (counts.read, counts.unchanged) == (8, 8), "both make the same fingerprints"
    after = CATALOG | {"t1": Record("changed"), "new": Record("new", TRANSPARENT)}
    del after["t5"]
    write(tmp_path / "in", "a", after, t2=7)
    counts = embed(config).counts
    assert (counts.written, counts.rewritten, counts.unchanged, counts.deleted) == (2, 1, 5, 1)
    check(tmp_path, after, encoders)
    assert run.backfill(second, run.Setup(stages=Stages(encoder=encode))).counts.written == 0
    switch_column(SwitchConfig(str(tmp_path), "t", "vector_b"))
    drop(DropConfig(str(tmp_path), "t", "vector"))
    after["t3"] = Record("changed, too", JPEG)
    write(tmp_path / "in", "a", after)
    assert embed(config).counts.written == 1
    check(tmp_path, after, one(encoders))
