"""What a schema says of a vector column is what it was made with, under the names that older tables have."""

import dataclasses

import lance
import pyarrow as pa
import pytest

from pipelines.tables.vector_column import EncoderFiles, VectorColumn, completed, vector_columns
from tests.pipelines.tables.conftest import write
from tests.tables import COLUMN, IDENTITY
from vista_core import EncoderSettings, UsageError

OTHER = dataclasses.replace(IDENTITY, weights="9" * 64, dimension=4)


def test_a_column_is_read_back_from_its_field():
    other = VectorColumn("title_vector", OTHER).replaced_since("run-2")
    schema = pa.schema([("id", pa.string()), COLUMN.field, COLUMN.fingerprint_field, other.field])
    assert VectorColumn.of(schema) == COLUMN == VectorColumn("vector", IDENTITY, "")
    assert VectorColumn.of(schema, "title_vector") == other == VectorColumn("title_vector", OTHER, "run-2")
    assert (COLUMN.type, other.type) == (pa.list_(pa.float16(), 8), pa.list_(pa.float16(), 4))
    assert (COLUMN.fingerprint, other.fingerprint) == ("vector_fingerprint", "title_vector_fingerprint")
    assert schema.field("vector_fingerprint").type == pa.binary(16)


def test_the_metadata_is_that_of_older_tables():
    identity = IDENTITY.to_json().encode()
    assert COLUMN.field.metadata == {b"vista.encoder": identity}
    assert COLUMN.replaced_since("run-2").field.metadata == {b"vista.encoder": identity, b"vista.since": b"run-2"}


def test_a_column_that_is_not_there_or_names_no_encoder_is_refused():
    schema = pa.schema([("id", pa.string()), ("foreign", pa.list_(pa.float32(), 8))])
    with pytest.raises(UsageError, match="no vector column `vector`"):
        VectorColumn.of(schema)
    with pytest.raises(UsageError, match="`foreign` does not name the encoder"):
        VectorColumn.of(schema, "foreign")


@pytest.mark.parametrize(("preprocessing", "resize"), [(1, "exact"), (2, "fast"), (99, "fast")])
def test_settings_take_precision_pixels_and_lengths_from_the_column_and_the_rest_as_given(preprocessing, resize):
    identity = dataclasses.replace(
        IDENTITY, dtype="bfloat16", alpha="white", max_tokens=(100, 80), preprocessing=preprocessing
    )
    given = EncoderSettings(model="vista-tiny", device="cpu", weights="w.pth", inference_tokens=7)
    found = VectorColumn("vector", identity).settings(given)
    assert found == dataclasses.replace(given, dtype="bfloat16", alpha="white", resize=resize, max_tokens=100)


def test_a_column_knows_the_files_of_its_encoder_and_is_the_same_without_them():
    files = EncoderFiles("s3://models/m.safetensors", None)
    column = dataclasses.replace(COLUMN, files=files)
    assert column.field.metadata[b"vista.files"] == b'{"weights": "s3://models/m.safetensors", "from_pretrained": null}'
    found = VectorColumn.of(pa.schema([column.field]))
    assert (found.files, found) == (files, COLUMN)
    assert VectorColumn.of(pa.schema([COLUMN.field])).files is None, "an older table"


def test_a_column_that_is_being_filled_is_marked_until_it_is_complete(tmp_path):
    table = write(tmp_path, {"a": "x"})
    filling = dataclasses.replace(COLUMN, name="other", filling=True, files=EncoderFiles("w"))
    assert filling.field.metadata[b"vista.filling"] == b"1"
    assert filling != dataclasses.replace(filling, filling=False)
    table.add_columns(filling.field)
    table = lance.dataset(table.uri)
    assert vector_columns(table.schema) == ["vector", "other"]
    assert VectorColumn.of(table.schema, "other") == filling
    done = completed(table, "other")
    assert done.version == lance.dataset(table.uri).version == table.version + 1
    column = VectorColumn.of(done.schema, "other")
    assert (column.filling, column.files, column.identity) == (False, EncoderFiles("w"), filling.identity)
    assert done.schema.field("other").metadata.keys() == {b"vista.encoder", b"vista.files"}
    assert VectorColumn.of(done.schema) == COLUMN, "other columns stay as they are"


def test_a_column_that_takes_the_place_of_another_leaves_nothing_of_it(tmp_path):
    table = write(tmp_path, {"a": "x"})
    before = dataclasses.replace(COLUMN, files=EncoderFiles("w"), filling=True, since="run-1")
    table.update_field_metadata(before.field_update)
    assert VectorColumn.of(lance.dataset(table.uri).schema) == before
    table.update_field_metadata(COLUMN.field_update)
    assert lance.dataset(table.uri).schema.field("vector").metadata == COLUMN.field.metadata
