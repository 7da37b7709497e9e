"""Columns whose types, names and values change from night to night, as catalogs of real tools do."""

import dataclasses
import datetime
import os

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.embed.config import EmbedConfig
from pipelines.gates.judge import GateError
from pipelines.sample_catalog import draw
from tests.pipelines.embed.on_warm_workers import embed

pytestmark = pytest.mark.usefixtures("ray_cluster")


def night(folder, **columns) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": ["1", "2"], "title": ["a", "b"]} | columns), folder / "a.parquet")


def rows(db) -> dict[str, dict]:
    table = lance.dataset(f"{db}/t.lance", version="published").to_table()
    hidden = {"vector", "vector_fingerprint", "_object", "_run", "modality", "truncated"}
    return {row["id"]: row for row in table.select([n for n in table.column_names if n not in hidden]).to_pylist()}


def test_the_same_values_continue_a_table_in_other_types_and_wider_ones_widen_it(tmp_path):
    config = EmbedConfig(str(tmp_path / "in"), str(tmp_path), "t", text_column=("title", "brand"))
    moment = datetime.datetime(2026, 1, 1, 12)
    night(
        tmp_path / "in",
        brand=pa.array(["Acme", None]),
        stock=pa.array([1, 2], pa.int32()),
        price=pa.array([1, 2]),
        added=pa.array([moment] * 2, pa.timestamp("us")),
        note=pa.nulls(2),
    )
    assert embed(config).counts.written == 2
    assert rows(tmp_path)["1"]["text"] == "a\nAcme"
    night(
        tmp_path / "in",
        brand=pa.array(["Acme", None]).dictionary_encode(),
        stock=pa.array([1.0, 2.0]),
        price=pa.array([1, 2], pa.int8()),
        added=pa.array([moment] * 2, pa.timestamp("ns")),
    )
    config = dataclasses.replace(config, text_column=None)  # the table keeps the choice
    assert embed(config).counts.unchanged == 2
    night(
        tmp_path / "in",
        brand=pa.array(["Acme", None], pa.large_string()),
        stock=pa.array([float("nan"), 2.5]),
        price=pa.array(["1", "on request"]),
        added=pa.nulls(2),
    )
    assert "nothing to embed" in str(embed(dataclasses.replace(config, plan=True))), "the table is not widened yet"
    summary = embed(config)
    assert (summary.counts.written, summary.counts.rewritten) == (0, 2), "no vector depends on it"
    assert "column price: 1 values don't fit and are null, such as 'on request' is no int64" in str(summary)
    found = rows(tmp_path)
    assert [found[key]["stock"] for key in "12"][1] == 2.5
    assert [found[key]["price"] for key in "12"] == [1, None]
    assert [found[key]["added"] for key in "12"] == [None, None], "nothing is left of yesterday's values"
    with pytest.raises(GateError, match="column_type 1"):
        embed(dataclasses.replace(config, strict_columns=True, read_all=True))


def test_a_record_without_an_id_stays_the_same_if_its_image_changes(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(draw("star", "red", "blue"))
    lines = [
        '{"file_name": "a.png", "text": "x"}',
        '{"file_name": "b.png", "text": "x"}',
        '{"file_name": "a.png", "text": "x"}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    config = EmbedConfig(str(folder), str(tmp_path), "t")
    counts = embed(config).counts
    assert (counts.written, dict(counts.reasons)) == (2, {"repeated_content": 1})
    before = rows(tmp_path)
    (folder / "a.png").write_bytes(draw("ring", "red", "blue"))
    os.utime(folder / "b.png", (1, 1))
    counts = embed(config).counts
    assert (counts.written, counts.missing) == (2, 0)
    assert rows(tmp_path).keys() == before.keys()
