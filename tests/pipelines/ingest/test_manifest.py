"""Which files can be skipped: the manifest is always checked against the table."""

import lance
import pytest

from pipelines.fingerprint import row_checksums
from pipelines.ingest.manifest import Reading, prune, read_manifest, row_checksum_by_file, unchanged_files
from pipelines.reasons import REASONS
from pipelines.tables.dataset import TableVersion
from tests.tables import (
    address,
    append_foreign,
    block,
    commit,
    new_committer,
    rejected,
    stats,
    with_other_columns_changed,
)

VERSIONS = {"a.parquet": "etag-a", "b.parquet": "etag-b"}


def night(db, run: str, units: int = 1):
    """The committer of a run that reads both files, each in `units` units."""
    return new_committer(db, run, reading=Reading("reading", run, VERSIONS, dict.fromkeys(VERSIONS, units)))


def skipped(committer, versions=VERSIONS, reading="reading") -> set[str]:
    """The files that the next run would skip."""
    dataset = lance.dataset(committer.table.uri)
    held = row_checksum_by_file(TableVersion(dataset.uri, dataset.version), "vector_fingerprint")
    return set(unchanged_files(read_manifest(committer.manifest.uri), versions, reading, held))


@pytest.fixture
def done(tmp_path):
    """Both files were read to their end: a in one bundle, b in two."""
    committer = night(tmp_path, "run-1")
    commit(committer, block({"a1": "x", "a2": "y"}), stats(2, ended=True))
    commit(committer, block({"b1": "x"}, "b.parquet"))
    commit(committer, block({"b2": "x"}, "b.parquet"), stats(2, file="b.parquet", ended=True))
    return committer


def test_a_file_is_recorded_when_all_of_it_is_committed(tmp_path):
    committer = night(tmp_path, "run-1", units=2)
    commit(committer, block({"a1": "x"}), stats(2, ended=True))
    assert skipped(committer) == set(), "one unit is missing"
    commit(committer, stats(1, ended=True))
    assert skipped(committer) == set(), "some records were read but have not arrived yet"
    commit(committer, block({"a2": "x", "a3": "x"}))
    assert skipped(committer) == {"a.parquet"}


def test_a_file_is_read_again_if_the_file_or_the_options_changed(done):
    assert skipped(done) == {"a.parquet", "b.parquet"}
    assert skipped(done, VERSIONS | {"a.parquet": "another"}) == {"b.parquet"}
    assert skipped(done, {"a.parquet": "etag-a", "c.parquet": "etag-c"}) == {"a.parquet"}
    assert skipped(done, reading="another") == set()


def test_unchanged_and_rewritten_rows_count_like_written_ones(tmp_path, done):
    again = night(tmp_path, "run-2")
    row = again.table.to_table(filter="id = 'a1'")
    [checksum] = row_checksums(row["vector_fingerprint"], row["_run"]).tolist()
    counted = stats(2, {0: address(again, "a1")}, ended=True, checksum=checksum)
    commit(again, counted, with_other_columns_changed(block({"a2": "y"}), 7))
    assert skipped(again) == {"a.parquet", "b.parquet"}
    assert read_manifest(again.manifest.uri)["a.parquet"].run == "run-2"


@pytest.mark.parametrize("reason", [reason.name for reason in REASONS.values() if reason.retryable])
def test_a_file_with_a_retryable_reject_is_read_again(tmp_path, reason):
    committer = night(tmp_path, "run-1")
    commit(committer, block({"a1": "x"}), rejected(["a2"], reason=reason), stats(2, ended=True))
    commit(committer, rejected(["b1"], "b.parquet"), stats(1, file="b.parquet", ended=True))
    assert skipped(committer) == {"b.parquet"}


def test_a_file_with_a_duplicate_id_is_read_again_in_any_order_of_arrival(tmp_path):
    for number, names in enumerate((["a.parquet", "b.parquet"], ["b.parquet", "a.parquet"])):
        committer = night(tmp_path / str(number), "run-1")
        for name in names:
            commit(committer, block({"x": name}, name), stats(1, file=name, ended=True))
        assert skipped(committer) == {"a.parquet"}, "the first file in the listing gets the id"


@pytest.mark.parametrize("harm", ["delete", "restore", "append", "overwrite", "rewrite"])
def test_an_entry_is_not_trusted_if_the_table_changed(tmp_path, done, harm):
    before = done.table.version
    dataset = lance.dataset(done.table.uri)
    if harm == "delete":
        dataset.delete("id = 'a1'")
    elif harm == "append":
        twin = dataset.to_table(filter="id = 'a1'")
        lance.write_dataset(twin, dataset.uri, mode="append")
    elif harm == "overwrite":
        lance.write_dataset(dataset.to_table(filter="_object = 'b.parquet'"), dataset.uri, mode="overwrite")
    elif harm == "rewrite":
        commit(new_committer(tmp_path, "other"), with_other_columns_changed(block({"a1": "x"}), 7), stats(1))
    else:
        again = night(tmp_path, "run-2")
        commit(again, block({"a1": "CHANGED"}), stats(2, {1: address(again, "a2")}, ended=True))
        lance.dataset(dataset.uri, version=before).restore()
        assert skipped(done) == {"b.parquet"}, "the entry of run-2 does not match the restored table"
        return
    assert skipped(done) == {"b.parquet"}


def test_rows_of_other_clients_are_of_no_file(done):
    append_foreign(done, [{"id": "by hand"}, {"id": None, "_run": "x"}])
    assert skipped(done) == {"a.parquet", "b.parquet"}
    append_foreign(done, [{"id": "x", "_object": "b.parquet"}])
    assert skipped(done) == {"a.parquet"}


def test_an_empty_file_is_recorded(tmp_path):
    committer = night(tmp_path, "run-1")
    commit(committer, stats(0, ended=True))
    assert skipped(committer) == {"a.parquet"}


def test_a_file_without_an_entry_is_read_and_pruning_removes_entries(done):
    rows = read_manifest(done.manifest.uri)
    prune(done.manifest.uri, [rows["b.parquet"]])
    assert skipped(done) == {"b.parquet"}
    prune(done.manifest.uri, [])
    assert skipped(done) == set()
    assert read_manifest(done.manifest.uri + "-that-is-not-there") == {}
