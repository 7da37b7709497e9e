"""A run of `index` leaves a report of what its searches find, also if they don't find enough. Without Ray."""

from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.cluster.calls import in_this_process
from pipelines.events import IndexMeasured, SegmentBuilt
from pipelines.index.choose import Vectors, built
from pipelines.index.config import IndexConfig
from pipelines.index.run import Setup, index_table
from pipelines.tables.origin import Origin
from pipelines.tables.schema import table_schema
from tests.pipelines.report.pages import Elements, check
from tests.pipelines.report.test_tables import rows_of
from tests.tables import COLUMN
from vista_core import UsageError, VistaError

ROWS = 600
SETUP = Setup(workers=in_this_process, choice=built("IVF_RQ", Vectors(ROWS, 8, False), "a test"))


@pytest.fixture
def db(tmp_path) -> str:
    schema = table_schema(pa.schema([]), COLUMN, Origin("vista-tiny"))
    lance.write_dataset(pa.Table.from_pylist(rows_of(ROWS), schema=schema), f"{tmp_path}/t.lance")
    return str(tmp_path)


def last_page(db: str) -> Elements:
    return check(max(Path(db, "t_reports").glob("*.html")).read_text(encoding="utf-8"))


def text_of(page: Elements) -> str:
    return " ".join(" ".join(page.text).split())


def test_the_report_has_the_measurement_and_rows_that_the_index_finds(db):
    indexed = index_table(IndexConfig(db, "t"), SETUP)
    assert str(indexed).splitlines()[-1] == f"report: {indexed.report}"
    assert indexed.as_json["report"] == indexed.report
    text = text_of(last_page(db))
    chosen = indexed.measurement.swept.chosen
    assert f"recall@10 asked for 0.95 measured {chosen.recall:.3f}" in text
    assert text.count("used by searches") == 2, "once in the table, once in the sentence above it"
    assert f"among the {ROWS} rows of the table, by the index vector_" in text
    for words in ("Where the time went", "measuring", "Configuration", "pylance"):
        assert words in text


def test_an_index_that_fails_has_a_report_that_says_why(db):
    def fail(event):
        if isinstance(event, IndexMeasured):
            raise VistaError("the power is out")

    with pytest.raises(VistaError, match="the power is out"):
        index_table(IndexConfig(db, "t"), Setup([fail], SETUP.workers, SETUP.choice))
    text = text_of(last_page(db))
    assert "Failed: VistaError the power is out" in text
    assert "Recall against latency" in text, "what was measured until then"


def test_an_index_that_is_stopped_and_one_without_a_report_write_none(db):
    def stop(event):
        if isinstance(event, SegmentBuilt):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_table(IndexConfig(db, "t"), Setup([stop], SETUP.workers, SETUP.choice))
    assert index_table(IndexConfig(db, "t", report="none"), SETUP).report is None
    assert not Path(db, "t_reports").exists()
    with pytest.raises(UsageError, match=r"--report page: name a file that ends in \.html"):
        IndexConfig(db, "t", report="page")


def test_a_table_of_another_client_has_a_report_without_a_sample(tmp_path):
    rows = pa.Table.from_pylist(rows_of(ROWS)).select(["text", "vector"])
    vectors = rows["vector"].combine_chunks().flatten().cast(pa.float32())
    rows = rows.set_column(1, "vector", pa.FixedSizeListArray.from_arrays(vectors, 8))
    lance.write_dataset(rows, f"{tmp_path}/t.lance")
    index_table(IndexConfig(str(tmp_path), "t"), SETUP)
    text = text_of(last_page(str(tmp_path)))
    assert "Recall against latency" in text
    assert "A sample" not in text
