"""What a table was made from is stored with it, as older tables have it, and no other table is taken for ours."""

import json

import lance
import pyarrow as pa
import pytest

from pipelines.tables.origin import Origin, marked, vista_column
from tests.pipelines.tables.conftest import ORIGIN, new_table
from tests.tables import COLUMN
from vista_core import UsageError

FULL = Origin("m", "w.pth", "folder", {"id": "sku", "text": None, "image": "jpg"}, "first", "uri")


@pytest.mark.parametrize("origin", [ORIGIN, FULL])
def test_an_origin_is_read_back_from_a_table(tmp_path, origin):
    schema = marked(pa.schema([("id", pa.string())]), origin)
    table = lance.write_dataset(schema.empty_table(), tmp_path / "t.lance")
    assert Origin.of(table) == origin


def test_the_metadata_is_that_of_older_tables():
    assert FULL.metadata.keys() == {b"vista.table", b"vista.made_from"}
    assert json.loads(FULL.metadata[b"vista.made_from"]) == {
        "model": "m",
        "weights": "w.pth",
        "from_pretrained": "folder",
        "columns": {"id": "sku", "text": None, "image": "jpg"},
        "images": "first",
        "image_identity": "uri",
    }
    assert FULL.reading == {"columns": FULL.columns, "images": "first", "image_identity": "uri"}


def test_what_an_older_version_did_not_store_has_its_default_and_what_a_newer_one_stores_is_ignored(tmp_path):
    stored = {"model": "m", "weights": None, "from_pretrained": None, "columns": {"id": "id"}, "of_the_future": 1}
    metadata = {b"vista.table": b"1", b"vista.made_from": json.dumps(stored).encode()}
    schema = pa.schema([("id", pa.string())]).with_metadata(metadata)
    table = lance.write_dataset(schema.empty_table(), tmp_path / "t.lance")
    assert Origin.of(table) == Origin("m", columns={"id": "id"}, images="each", image_identity="version")


def test_somebody_elses_table_is_refused(tmp_path):
    table = lance.write_dataset(pa.table({"id": ["a"], "vector": [[1.0]]}), tmp_path / "x.lance")
    for read in (Origin.of, vista_column):
        with pytest.raises(UsageError, match=r"x\.lance was not made by this job"):
            read(table)


def test_a_table_whose_column_is_being_replaced_says_which_command_to_run(tmp_path):
    table = new_table(tmp_path)
    assert vista_column(table) == COLUMN
    with pytest.raises(UsageError, match="no vector column `other`"):
        vista_column(table, "other")
    table.drop_columns(["vector"])
    with pytest.raises(UsageError, match="--reembed ended while it replaced the column `vector`"):
        vista_column(lance.dataset(table.uri))
