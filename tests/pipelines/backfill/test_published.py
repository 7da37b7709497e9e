"""A second column on a table that `embed` made and readers search: filled, published, and never seen half."""

from __future__ import annotations

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.backfill.plan import Plan
from pipelines.backfill.run import Setup
from pipelines.backfill.run import backfill as run_backfill
from pipelines.embed.config import EmbedConfig
from pipelines.search import Searcher
from pipelines.tables.dataset import published
from pipelines.tables.vector_column import VectorColumn
from tests.pipelines.backfill.tables import COLUMN, backfill, check, config, picture
from tests.pipelines.embed.on_warm_workers import embed
from vista_core import Record, UsageError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def record(row: dict) -> Record:
    return Record(row["text"], row["image"])


def catalog(folder, numbers=range(30)) -> str:
    rows = {
        "id": [f"p{n}" for n in numbers],
        "text": [f"product number {n}" for n in numbers],
        "image": pa.array([picture(n) if n % 2 else None for n in numbers], pa.binary()),
        "price": list(numbers),
    }
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), folder / "a.parquet")
    return str(folder / "a.parquet")


def embedded(tmp_path, **options) -> tuple[str, EmbedConfig]:
    options = {"store_images": True, "report": "none"} | options
    nightly = EmbedConfig(catalog(tmp_path / "catalog"), str(tmp_path / "db"), "shop", **options)
    embed(nightly)
    return f"{tmp_path}/db/shop.lance", nightly


def test_the_column_is_published_once_it_is_complete(tmp_path):
    uri, _ = embedded(tmp_path)
    before = published(lance.dataset(uri))
    seen = []

    def look(event: object) -> None:
        """A reader, at each event."""
        table = lance.dataset(uri, version="published")
        seen.append((table.version, COLUMN in table.schema.names))
        found = Searcher.open(str(tmp_path / "db"), "shop", encoder=None).search("product", mode="text")
        assert found.num_rows == 10

    lance.dataset(uri).create_scalar_index("text", "INVERTED", with_position=False)
    embed(EmbedConfig(catalog(tmp_path / "catalog"), str(tmp_path / "db"), "shop", store_images=True, report="none"))
    before = published(lance.dataset(uri))
    summary = backfill(tmp_path / "db", Setup(listeners=[look]), max_tokens=16)
    assert summary.outcome.published
    assert {version for version, has_column in seen if not has_column} == {before}
    table = lance.dataset(uri, version="published")
    assert table.version == summary.outcome.version
    same = table.to_table(["vector_fingerprint", f"{COLUMN}_fingerprint"])
    assert same[0].equals(same[1])
    check(uri, record=record, max_tokens=16)
    found = Searcher.open(str(tmp_path / "db"), "shop", column=COLUMN).search("product number 8", k=1)
    assert found["id"].to_pylist() == ["p8"]


def test_rows_of_others_are_filled_and_left_for_embed_to_publish(tmp_path):
    uri, _ = embedded(tmp_path)
    row = pa.table({"id": ["theirs"], "text": ["appended by another client"]})
    schema = lance.dataset(uri).schema
    columns = [row[f.name] if f.name in row.column_names else pa.nulls(1, f.type) for f in schema]
    lance.write_dataset(pa.table(columns, schema=schema), uri, mode="append")
    summary = backfill(tmp_path / "db")
    assert summary.outcome.published is False
    assert "`vista embed` judges and publishes them" in str(summary)
    check(uri, record=record)
    assert COLUMN not in lance.dataset(uri, version="published").schema.names


def test_what_is_missing_of_the_first_column_is_filled(tmp_path):
    uri, _ = embedded(tmp_path)
    lance.dataset(uri).update({"text": "'another text'"}, where="id = 'p4'")
    summary = backfill(tmp_path / "db", column=("vector",))
    assert summary.counts.written == 1
    check(uri, "vector", record=record)


def test_images_that_the_table_does_not_hold_are_refused(tmp_path):
    embedded(tmp_path, store_images=False)
    with pytest.raises(UsageError, match="made without --store-images"):
        backfill(tmp_path / "db")


def test_names_of_images_that_the_source_held_are_no_places(tmp_path):
    images = pa.array([{"bytes": picture(n), "path": f"{n}.png"} for n in range(6)])
    folder = tmp_path / "catalog"
    folder.mkdir()
    pq.write_table(pa.table({"id": [f"p{n}" for n in range(6)], "image": images}), folder / "a.parquet")
    embed(EmbedConfig(str(folder / "a.parquet"), str(tmp_path / "db"), "shop", report="none"))
    assert lance.dataset(f"{tmp_path}/db/shop.lance").to_table()["image_uri"].to_pylist() == [
        f"{n}.png" for n in range(6)
    ]
    with pytest.raises(UsageError, match="of 6 rows with an image, in the column `image_uri`, none may be fetched"):
        backfill(tmp_path / "db")


def test_fingerprints_of_images_by_path_are_those_of_embed(tmp_path):
    folder = tmp_path / "catalog"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(picture(number))
    rows = {"id": [f"p{n}" for n in range(6)], "image_url": [f"{n}.png" for n in range(6)]}
    pq.write_table(pa.table(rows), folder / "a.parquet")
    source, db = str(folder / "a.parquet"), str(tmp_path / "db")
    for number, store in enumerate((False, True)):
        table = f"shop{number}"
        embed(EmbedConfig(source, db, table, store_images=store, report="none"))
        backfill(db, table=table, allow_prefix=(str(folder),))
        found = lance.dataset(f"{db}/{table}.lance").to_table(["vector_fingerprint", f"{COLUMN}_fingerprint"])
        assert found[0].equals(found[1]) is not store  # a stored image is known by its bytes
        check(
            f"{db}/{table}.lance",
            record=lambda row: Record(row.get("text"), (folder / row["image_uri"].rpartition("/")[2]).read_bytes()),
        )


def test_a_plan_says_what_there_is_to_do_and_writes_nothing(tmp_path):
    uri, _ = embedded(tmp_path)
    version = lance.dataset(uri).version
    plan = run_backfill(config(tmp_path / "db", plan=True, price_per_hour=2.0))
    assert isinstance(plan, Plan)
    said = str(plan)
    assert f"`{COLUMN}` (new), text: text, image: image: 1 of 1 fragments to look at, 30 of 30 rows" in said
    assert "100.0% of them to embed" in said
    assert "about 30 rows to embed" in said
    assert "cost: " in said
    assert lance.dataset(uri).version == version
    backfill(tmp_path / "db")
    assert "nothing to embed" in str(run_backfill(config(tmp_path / "db", plan=True)))


def test_the_report_has_what_a_run_did(tmp_path):
    uri, _ = embedded(tmp_path)
    page = tmp_path / "report.html"
    summary = backfill(tmp_path / "db", report=str(page))
    assert summary.report == str(page)
    html = page.read_text()
    for title in ("What became of the records", "Gates", "Where the time went", "Configuration", "Versions"):
        assert title in html
    assert "30 of 30 rows have a vector" in html
    assert not VectorColumn.of(lance.dataset(uri).schema, COLUMN).filling


def test_nights_keep_the_column_fresh_and_a_later_backfill_has_nothing_to_encode(tmp_path):
    uri, nightly = embedded(tmp_path)
    backfill(tmp_path / "db", max_tokens=16)
    catalog(tmp_path / "catalog", [*range(3, 30), *range(40, 45)])  # as rows: three are gone, five are new
    summary = embed(nightly)
    assert summary.counts.written == 5
    check(uri, record=record, max_tokens=16)
    check(uri, "vector", record=record)
    assert {"vector", COLUMN} <= set(lance.dataset(uri, version="published").schema.names)
    later = backfill(tmp_path / "db", max_tokens=16)
    assert (later.counts.written, later.outcome.published) == (0, True)


def test_a_text_that_another_client_changed_beside_a_stored_image_and_its_path_is_embedded(tmp_path):
    folder = tmp_path / "catalog"
    folder.mkdir()
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(8)]
    rows = {"id": [f"p{n}" for n in range(8)], "text": [f"product number {n}" for n in range(8)], "image": images}
    pq.write_table(pa.table(rows), folder / "a.parquet")
    db = str(tmp_path / "db")
    embed(EmbedConfig(str(folder / "a.parquet"), db, "shop", store_images=True, report="none"))
    backfill(db)
    lance.dataset(f"{db}/shop.lance").update({"text": "'another text'"}, where="id IN ('p1', 'p6')")
    assert backfill(db).counts.written == 2
    check(f"{db}/shop.lance", record=record)
