"""An empty table of a first run that failed binds nobody; any other table is continued as it is."""

import dataclasses

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.embed.catalog import fetch_rules, open_catalog
from pipelines.embed.columns import KeptColumn
from pipelines.embed.config import EmbedConfig
from pipelines.embed.job import Job, reading_digest
from pipelines.embed.tables import open_manifest, open_tables, schema_of, settle_table, table_to_continue
from pipelines.ingest.manifest import MANIFEST_SCHEMA
from pipelines.ingest.reembed import is_under_way
from pipelines.tables.dataset import ensure_dataset
from pipelines.tables.lease import LeaseLostError, hold, take
from pipelines.tables.transactions import CommitConflictError, barrier
from tests.second_column import SECOND
from tests.tables import COLUMN, NO_RUNS
from vista_core import UsageError, VistaError


@pytest.fixture
def config(tmp_path) -> EmbedConfig:
    columns = {"id": ["1"], "title": ["a"], "photo": [b"\xff\xd8\xff"], "sha": [b"1" * 32], "note": ["b"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return EmbedConfig(
        str(tmp_path / "a.parquet"), str(tmp_path / "db"), "t", text_column=("title",), image_column="photo"
    )


def job_of(config: EmbedConfig, existing: lance.LanceDataset | None) -> Job:
    """A job, as far as its tables are concerned."""
    catalog = open_catalog(config, existing)
    kept = (KeptColumn(COLUMN, config.encoder.settings("cpu")),)
    return Job(config, catalog, fetch_rules(config, catalog), kept, None, {}, {}, ())  # type: ignore[arg-type]


def begun(config: EmbedConfig) -> lance.LanceDataset:
    """The table after a run has begun on it and ended without a row."""
    existing = table_to_continue(config)
    job = job_of(config, existing)
    table, _ = open_tables(job, existing)
    with hold(table, NO_RUNS) as (table, lease):
        table = settle_table(job, existing, table)
        lease.check(table)
    return lance.dataset(table.uri)


def row(table: lance.LanceDataset, **values: object) -> lance.LanceDataset:
    return lance.write_dataset(pa.Table.from_pylist([values], schema=table.schema), table.uri, mode="append")


def test_the_next_run_makes_an_empty_table_anew_with_its_own_columns_and_options(config):
    first = begun(config)
    assert {"title", "sha", "note"} & set(first.schema.names) == {"sha", "note"}
    for name, schema in (("rejects", None), ("objects", MANIFEST_SCHEMA)):
        side = ensure_dataset(config.side_table(name), schema)
        lance.write_dataset(
            pa.Table.from_pylist([{"object": "old", "run": "run-1"}], side.schema), side.uri, mode="append"
        )
    other = dataclasses.replace(config, text_column=("note",), images="first")
    second = begun(other)
    assert {"title", "sha", "note"} & set(second.schema.names) == {"title", "sha"}
    assert second.schema.metadata != first.schema.metadata
    assert second.config().keys() == {"vista.lease"}, "the lease is kept"
    assert [lance.dataset(config.side_table(name)).count_rows() for name in ("rejects", "objects")] == [0, 0]
    assert begun(other).schema == second.schema


@pytest.mark.parametrize("kept", ["row", "row of another client", "tag"])
def test_a_table_that_somebody_may_need_is_not_made_anew(config, kept):
    table = begun(config)
    if kept == "tag":
        table.tags.create("published", table.version)
    else:
        row(table, id="1", **({} if kept == "row of another client" else {"_object": "a", "_run": "run-1"}))
    with pytest.raises(UsageError, match="--images first: the table t was filled with 'each'"):
        begun(dataclasses.replace(config, images="first"))
    assert begun(config).schema == table.schema


def test_an_empty_table_that_somebody_else_made_is_refused(config):
    lance.write_dataset(pa.schema([("id", pa.string())]).empty_table(), config.table_uri)
    with pytest.raises(UsageError, match="was not made by this job"):
        table_to_continue(config)


def test_of_two_first_runs_the_later_one_continues_what_the_first_one_wrote_or_is_refused(config):
    other = dataclasses.replace(config, text_column=("note",))
    same, different = job_of(config, None), job_of(other, None)  # both found no table when they started
    row(begun(config), id="1", _object="a", _run="run-1")
    with hold(lance.dataset(config.table_uri), NO_RUNS) as (table, _):
        assert settle_table(same, None, table).count_rows() == 1
        with pytest.raises(VistaError, match="another run or client changed the table while this run started"):
            settle_table(different, None, table)
    assert lance.dataset(config.table_uri).count_rows() == 1


def test_a_run_that_was_taken_over_cannot_make_the_table_anew_nor_write_to_the_new_one(config):
    begun(config)
    table, lease = take(lance.dataset(config.table_uri), NO_RUNS)
    job = job_of(dataclasses.replace(config, text_column=("note",)), None)
    with hold(lance.dataset(config.table_uri), NO_RUNS, by_force=True) as (latest, _):
        with pytest.raises(VistaError, match="changed the table"):
            settle_table(job, None, table)
        made = settle_table(job, None, latest)
        with pytest.raises(CommitConflictError):
            barrier(table)
        with pytest.raises(LeaseLostError):
            lease.check(made)


def test_the_encoder_is_named_again_after_a_cast_and_columns_of_others_take_nulls(config):
    row(begun(config), id="1", _object="a", _run="run-1")
    lance.dataset(config.table_uri).add_columns({"theirs": "1"})
    wide = pa.list_(pa.float32(), COLUMN.identity.dimension)
    lance.dataset(config.table_uri).alter_columns({"path": "vector", "data_type": wide})
    existing = table_to_continue(config)
    column = dataclasses.replace(COLUMN, values=pa.float32())
    job = job_of(config, existing)
    job = dataclasses.replace(job, kept=(dataclasses.replace(job.kept[0], column=column),))
    table, _ = open_tables(job, existing)
    open_manifest(job, table.schema, "run-2")
    assert not is_under_way(table, column)
    with hold(table, NO_RUNS) as (table, _):
        table = settle_table(job, existing, table)
    assert table.schema.field("vector").type == wide
    assert table.schema.field("vector").metadata == COLUMN.field.metadata
    assert table.schema.field("theirs").nullable


def test_the_manifest_of_a_table_with_one_column_goes_on_to_be_trusted_and_another_column_has_every_file_read(config):
    job = job_of(config, None)
    table = schema_of(job)
    assert reading_digest(job, table) == "7c687df9241f585b6314e93e0d681d35", "as before there were others"
    first, settings = job.kept[0], job.kept[0].settings
    both = dataclasses.replace(job, kept=(first, KeptColumn(SECOND, settings)))
    third = dataclasses.replace(SECOND, identity=dataclasses.replace(SECOND.identity, weights="3" * 64))
    digests = [
        reading_digest(each, table)
        for each in (job, both, dataclasses.replace(job, kept=(first, KeptColumn(third, settings))))
    ]
    assert len(set(digests)) == 3
    filling = dataclasses.replace(SECOND, name="filling", filling=True)
    beside = table.append(filling.field).append(filling.fingerprint_field)
    assert reading_digest(job, beside) == digests[0], "a column that is being filled is none of the run's"
