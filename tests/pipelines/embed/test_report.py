"""Every run that had the table leaves a report, however it ended, and none costs a night."""

from __future__ import annotations

import base64
import io
import logging
import re
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup
from pipelines.events import BundleCommitted, Published
from pipelines.gates.judge import TooManyRejectsError
from pipelines.tables.dataset import published
from tests.pipelines.embed.on_warm_workers import embed
from tests.pipelines.report.pages import HOSTILE, Elements, check
from vista_core import UsageError, VistaError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def pages(db) -> list[Path]:
    return sorted(Path(db, "t_reports").glob("*.html"))


def last_page(db) -> Elements:
    return check(pages(db)[-1].read_text(encoding="utf-8"))


def titles(page: Elements) -> list[str]:
    """The titles of the sections, which follow the figures."""
    text = "\n".join(page.text)
    known = "What became|Gates|Rejected|A sample|Throughput|Where the|The last|This run|Configuration|Versions"
    return re.findall(rf"^(?:{known})\b", text, re.M)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, catalog):
    db = tmp_path_factory.mktemp("db")
    return db, embed(EmbedConfig(str(catalog), str(db), "t", store_images=True))


def test_a_run_says_where_its_report_is_and_the_report_says_what_it_did(embedded):
    db, summary = embedded
    [path] = pages(db)
    assert str(summary).endswith(f"report: {path}")
    assert path.stem == max(lance.dataset(f"{db}/t_runs.lance").to_table()["run"].to_pylist())
    page = last_page(db)
    text = " ".join(" ".join(page.text).split())
    assert f"Published version {summary.version}" in text
    for words in (
        "335 embedded and written",
        "1 rejected",
        "OSError: image file is truncated",
        "16 of 16 rows encoded",
    ):
        assert words in text
    for words in ("among all 335 rows of the table", "catalog.parquet", "vista-tiny"):
        assert words in text
    assert {"What became", "Gates", "Rejected", "A sample", "Where the", "This run", "Versions"} <= set(titles(page))
    seconds = summary.counts.seconds
    assert seconds.keys() == {"read", "select", "fetch", "decode", "encode", "write"}
    assert all(0 < seconds[stage] < 1000 for stage in seconds)


def test_rows_and_their_neighbours_are_shown_with_their_own_images(embedded):
    """Neighbours of a shape on a background share colours with it, and so must the pictures beside their ids."""
    page = last_page(embedded[0])
    images = [values["src"].partition(",")[2] for name, values in page.found if name == "img"]
    assert len(images) > 40
    sizes = {Image.open(io.BytesIO(base64.b64decode(each))).size for each in images}
    assert max(max(size) for size in sizes) <= 128


def test_a_night_without_changes_has_a_report_too(embedded, catalog):
    db, _ = embedded
    before = len(pages(db))
    summary = embed(EmbedConfig(str(catalog), str(db), "t"))
    assert len(pages(db)) == before + 1
    text = " ".join(" ".join(last_page(db).text).split())
    assert f"Version {summary.version} stays published" in text
    assert "335 in unchanged files, skipped" in text
    assert "The last 2 runs" in text
    assert "image_truncated" in text, "what earlier runs rejected is still missing"


def test_a_run_that_fails_a_gate_has_a_report_that_says_why(embedded, catalog, caplog):
    db, first = embedded
    with caplog.at_level(logging.INFO, "pipelines"), pytest.raises(TooManyRejectsError, match="1 of 336"):
        embed(EmbedConfig(str(catalog), str(db), "t", read_all=True, max_reject_rate=0.0))
    assert f"report: {pages(db)[-1]}" in caplog.messages
    text = " ".join(" ".join(last_page(db).text).split())
    assert "Not published: a gate failed" in text
    assert "✗ failed reject rate" in text
    assert "335 unchanged" in text
    assert published(lance.dataset(f"{db}/t.lance")) == first.version


def test_a_run_that_stops_with_an_error_has_a_report_and_the_error_is_what_is_raised(tmp_path):
    source = texts(tmp_path, 20)

    def fail(event):
        if isinstance(event, BundleCommitted):
            raise VistaError("the power is out")

    with pytest.raises(VistaError, match="the power is out"):
        embed(EmbedConfig(source, str(tmp_path), "t"), Setup(listeners=[fail]))
    text = " ".join(" ".join(last_page(tmp_path).text).split())
    assert "Failed: VistaError the power is out" in text
    assert "20 embedded and written" in text


def test_a_run_that_is_stopped_ends_without_a_report(tmp_path):
    """It has to end soon, and says itself how far it came."""

    def stop(event):
        if isinstance(event, BundleCommitted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="20 rows committed"):
        embed(EmbedConfig(texts(tmp_path, 20), str(tmp_path), "t"), Setup(listeners=[stop]))
    assert not pages(tmp_path)


def test_hostile_records_are_text_on_the_page(tmp_path):
    text = HOSTILE.replace("\ud800", "")
    rows = {"id": [f"{n} {text}" for n in range(30)], "text": [f"{n} {text}" for n in range(30)], text[:60]: [1] * 30}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    embed(EmbedConfig(str(tmp_path / "a.parquet"), str(tmp_path), "t"))
    page = last_page(tmp_path)
    assert "".join(page.text).count("<script>alert(1)</script>") > 20


@pytest.mark.parametrize("broken", ["the folder is a file", "the tables it reads are gone"])
def test_a_report_that_can_t_be_written_in_full_costs_no_night(tmp_path, caplog, broken):
    source = texts(tmp_path, 20)

    def break_it(event):
        if isinstance(event, Published):
            if broken == "the folder is a file":
                (tmp_path / "t_reports").write_text("mine")
            else:
                for path in (tmp_path / "t_rejects.lance/_versions").iterdir():
                    path.write_bytes(b"damage")

    summary = embed(EmbedConfig(source, str(tmp_path), "t"), Setup(listeners=[break_it]))
    assert published(lance.dataset(f"{tmp_path}/t.lance")) == summary.version
    if broken == "the folder is a file":
        assert summary.report is None
        assert "report: " not in str(summary)
        assert "the report could not be written to" in caplog.text
        assert (tmp_path / "t_reports").read_text() == "mine"
    else:
        assert "could not be made" in "".join(last_page(tmp_path).text)
        assert "a section of the report is missing, Rejected records" in caplog.text


def test_the_report_goes_where_the_user_says_or_nowhere(tmp_path, s3):
    source = texts(tmp_path, 5)
    uri = s3.url(f"{tmp_path.name}/reports/last.html")
    assert embed(EmbedConfig(source, str(tmp_path), "t", report=uri)).report == uri
    check(s3.fs.cat_file(uri).decode())
    summary = embed(EmbedConfig(source, str(tmp_path), "t", report="none"))
    assert summary.report is None
    assert not pages(tmp_path)


def test_a_report_that_is_no_page_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--report catalog.parquet: name a file that ends in .html, or `none`"):
        EmbedConfig(str(tmp_path), str(tmp_path), "t", report="catalog.parquet")


def texts(folder: Path, rows: int) -> str:
    path = folder / "a.parquet"
    values = {"id": [f"{n}" for n in range(rows)], "text": [f"number {n}" for n in range(rows)]}
    pq.write_table(pa.table(values), path)
    return str(path)
