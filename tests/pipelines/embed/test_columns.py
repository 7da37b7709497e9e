"""Which vector columns a run fills, by which encoders; what can't be had is refused with the column's name."""

import dataclasses
import json
import logging

import lance
import pyarrow as pa
import pytest

from pipelines.embed.columns import kept_columns, require_other_names
from pipelines.embed.config import EmbedConfig
from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.default_column import set_default_column
from pipelines.tables.origin import Origin
from pipelines.tables.schema import table_schema
from pipelines.tables.vector_column import EncoderFiles, VectorColumn
from tests.pipelines.search.tables import retrained
from vista_core import EncoderSettings, UsageError, encoder_identity

SETTINGS = EncoderSettings(device="cpu", dtype="float32")
FIRST = VectorColumn("vector", encoder_identity(SETTINGS))
SECOND = VectorColumn("b", encoder_identity(dataclasses.replace(SETTINGS, max_tokens=9)), files=EncoderFiles())


@pytest.fixture
def config(tmp_path) -> EmbedConfig:
    return EmbedConfig("in", str(tmp_path), "t")


def made(config: EmbedConfig, *others: VectorColumn, metadata: dict[bytes, bytes] | None = None) -> lance.LanceDataset:
    """A table with `vector` and other vector columns."""
    schema = table_schema(pa.schema([]), FIRST, Origin("vista-tiny"))
    for each in others:
        field = each.field.with_metadata({**each.field.metadata, **(metadata or {})})
        schema = schema.append(field).append(each.fingerprint_field)
    return lance.write_dataset(schema.empty_table(), config.table_uri)


def names(config: EmbedConfig, table: lance.LanceDataset | None) -> list[str]:
    return [each.column.name for each in kept_columns(config, "cpu", table)]


def test_a_new_table_gets_one_column_and_a_table_keeps_all_that_are_complete(config):
    assert names(config, None) == ["vector"]
    table = made(config, SECOND, dataclasses.replace(SECOND, name="c"))
    assert names(config, table) == ["vector", "b", "c"]
    assert names(config, set_default_column(table, "b")) == ["b", "vector", "c"]
    first, second, _ = kept_columns(config, "cpu", lance.dataset(table.uri, version=table.version))
    assert (first.column, second.column) == (FIRST, SECOND)
    assert (first.settings.max_tokens, second.settings.max_tokens) == (128, 9)


def test_a_column_that_is_not_kept_fresh_is_named_with_the_cause(config, caplog):
    caplog.set_level(logging.WARNING)
    filling = dataclasses.replace(SECOND, name="filling", filling=True)
    replaced = dataclasses.replace(SECOND, name="replaced", since="20260101T000000000000-0000")
    made(config, filling, replaced, dataclasses.replace(SECOND, name="cast"), dataclasses.replace(SECOND, name="alone"))
    table = lance.dataset(config.table_uri)
    table.drop_columns(["alone_fingerprint"])
    table.add_columns(pa.field("theirs", pa.list_(pa.float32(), 3)))
    table.update_field_metadata({"cast": {"vista.encoder": None}})
    assert names(config, lance.dataset(table.uri)) == ["vector"]
    said = caplog.text
    assert "the column `filling` is incomplete, since a backfill has not covered all rows: `vista backfill` fin" in said
    assert "`vista embed --reembed` was replacing the column `replaced` and did not end" in said
    assert "the column `cast` does not name its encoder" in said
    assert "the column `alone_fingerprint`, by which changes of `alone` are found, is missing" in said
    assert "theirs" not in said, "it is not vista's"


def test_a_column_whose_replacement_is_over_is_kept_fresh(config):
    table = made(config, dataclasses.replace(SECOND, since="20260101T000000000000-0000"))
    table.tags.create(PUBLISHED, table.version)
    assert names(config, lance.dataset(table.uri)) == ["vector", "b"]


@pytest.mark.parametrize(
    ("content", "is_fresh"),
    [
        ({"text": ["text"], "image": "image_uri", "image_identity": "version"}, True),
        ({"text": ["text"], "image": None, "image_identity": "version"}, True),
        ({"text": ["title"], "image": None, "image_identity": "version"}, False),
        ({"text": ["text"], "image": "photo", "image_identity": "version"}, False),
    ],
)
def test_a_column_of_other_content_is_left_to_backfill(config, content, is_fresh):
    table = made(config, SECOND, metadata={b"vista.content": json.dumps(content).encode()})
    assert names(config, table) == (["vector", "b"] if is_fresh else ["vector"])
    if not is_fresh:
        with pytest.raises(UsageError, match=r"the default column `b` is made of other columns .*`vista switch`"):
            names(config, set_default_column(table, "b"))


def test_the_options_are_of_the_column_whose_encoder_has_the_model(config, tmp_path):
    weights = str(retrained(tmp_path / "other.safetensors"))
    settings = dataclasses.replace(SETTINGS, weights=weights)
    other = VectorColumn("b", encoder_identity(settings), files=EncoderFiles(weights))
    table = made(config, other)
    first, second = kept_columns(config, "cpu", table)
    assert (first.settings.weights, second.settings.weights) == (None, weights)
    table = set_default_column(table, "b")
    with pytest.raises(UsageError, match=r"the column `b` was embedded with another encoder.*weights: "):
        kept_columns(config, "cpu", table)
    given = dataclasses.replace(config, weights=weights)
    assert [each.settings.weights for each in kept_columns(given, "cpu", table)] == [weights, None]


def test_a_model_of_no_column_is_refused_with_those_that_there_are(config):
    table = made(config, SECOND)
    message = (
        r"--model bge-visualized-m3: no column of t is of this model\. They are `vector` of vista-tiny, `b` of "
        r"vista-tiny: give one of these models, or fill another column by `vista backfill`, or replace the whole "
        r"column `vector` by --reembed"
    )
    with pytest.raises(UsageError, match=message):
        kept_columns(dataclasses.replace(config, model="bge-visualized-m3"), "cpu", table)


def test_an_encoder_of_another_column_that_is_gone_is_named_with_its_column(config, tmp_path):
    weights = str(tmp_path / "gone.safetensors")
    table = made(config, dataclasses.replace(SECOND, files=EncoderFiles(weights)))
    message = (
        rf"the encoder of the column `b` of t can't be had: .*gone\.safetensors.* Put the files of vista-tiny where "
        rf"they were \({weights}\), or remove the column: `vista drop-column --column b`"
    )
    for each in (config, dataclasses.replace(config, reembed=True)):
        with pytest.raises(UsageError, match=message):
            kept_columns(each, "cpu", table)


def test_a_source_must_not_have_a_column_with_the_name_of_a_vector_column(config):
    table = made(config, SECOND)
    require_other_names(pa.schema([pa.field("price", pa.int64())]), table)
    for name in ("b", "b_fingerprint"):
        with pytest.raises(UsageError, match=f"the source has a column '{name}', .* Rename the source's"):
            require_other_names(pa.schema([pa.field(name, pa.int64())]), table)
