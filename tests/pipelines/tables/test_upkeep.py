"""Upkeep changes how a table is stored, never what is found in it, and removes nothing that is still needed."""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import lance
import pytest
from lance.fragment import write_fragments

from pipelines.tables.lease import LeaseLostError
from pipelines.tables.upkeep import LIMITS, UpkeepError, UpkeepLimits, clean_up, compact
from tests.pipelines.tables.conftest import data_files, in_this_process, nights, write

ALL = timedelta(0)
HUNDRED_ROWS = UpkeepLimits(fragment_rows=100)


def not_to_be_called(tasks):
    raise AssertionError("there is nothing to compact")


def test_a_table_that_is_compact_is_left_alone(tmp_path):
    table = nights(tmp_path, LIMITS.small_fragments - 1)
    assert table.version == compact(table, not_to_be_called).version
    table = nights(tmp_path, LIMITS.small_fragments)
    table = compact(table, in_this_process(table))
    assert table.version == compact(table, not_to_be_called).version == lance.dataset(table.uri).version


def test_small_fragments_between_large_ones_are_left_alone(tmp_path):
    for n in range(LIMITS.small_fragments):
        write(tmp_path, {f"large {n} {row}": "x" for row in range(100)})
        table = write(tmp_path, {f"small {n}": "x"})
    assert len(table.get_fragments()) == 2 * LIMITS.small_fragments
    assert table.version == compact(table, not_to_be_called, HUNDRED_ROWS).version


def test_fragments_of_commits_that_came_out_short_are_not_rewritten(tmp_path):
    for n, rows in enumerate((90, 60, 50, *(3,) * LIMITS.small_fragments)):
        table = write(tmp_path, {f"{n}-{row}": "x" for row in range(rows)})
    before = [fragment.fragment_id for fragment in table.get_fragments()]
    table = compact(table, in_this_process(table), HUNDRED_ROWS)
    assert [fragment.count_rows() for fragment in table.get_fragments()] == [90, 60, 50, 3 * LIMITS.small_fragments]
    assert [fragment.fragment_id for fragment in table.get_fragments()][:3] == before[:3]


@pytest.mark.parametrize("deleted", [10, 11])
def test_a_fragment_is_rewritten_once_more_than_a_tenth_of_it_is_deleted(tmp_path, deleted):
    write(tmp_path, {f"{row}": "old" for row in range(100)})
    before = write(tmp_path, {f"{row}": "new" for row in range(deleted)}, "run-2")
    after = compact(before, in_this_process(before) if deleted > 10 else not_to_be_called)
    assert sum(fragment.num_deletions for fragment in after.get_fragments()) == (0 if deleted > 10 else deleted)
    assert after.count_rows() == before.count_rows() == 100


@pytest.mark.parametrize("kind", ["commit", "delete", "compaction"])
def test_another_writers_commit_during_a_compaction_wins(tmp_path, kind):
    table = nights(tmp_path, LIMITS.small_fragments)

    def disturbed(tasks):
        rewrites = in_this_process(table)(tasks)
        if kind == "commit":
            write(tmp_path, {"1-1": "theirs"}, "other")
        elif kind == "delete":
            lance.dataset(table.uri).delete("id = '1-1'")
        else:
            lance.dataset(table.uri).optimize.compact_files()
        return rewrites

    with pytest.raises(UpkeepError, match="small fragments were not merged, since another writer committed meanwhile"):
        compact(table, disturbed)
    after = lance.dataset(table.uri)
    found = after.to_table(["text"], filter="id = '1-1'")["text"].to_pylist()
    assert found == {"commit": ["theirs"], "delete": [], "compaction": ["text 1 1"]}[kind]
    assert after.count_rows() == 20 * LIMITS.small_fragments - (kind == "delete")
    compacted = compact(after, in_this_process(after))
    assert len(compacted.get_fragments()) == 1
    assert compacted.count_rows() == after.count_rows()


def test_other_writers_appends_pass_a_compaction(tmp_path):
    table = nights(tmp_path, LIMITS.small_fragments)

    def disturbed(tasks):
        lance.write_dataset(table.to_table(limit=1), table.uri, mode="append")
        return in_this_process(table)(tasks)

    after = compact(table, disturbed)
    assert len(after.get_fragments()) == 2
    assert after.count_rows() == 20 * LIMITS.small_fragments + 1


LOST = LeaseLostError("run 1 was taken for dead")
STORE = OSError("LanceError(IO): Generic S3 error: Error after 10 retries: 503 Service Unavailable")
LANCE = OSError("LanceError(Index): vector index segments do not share quantizer metadata, /rust/ivf.rs:610:61")


@pytest.mark.parametrize("error", [LOST, STORE, LANCE, RuntimeError("killed for memory"), MemoryError()], ids=repr)
def test_a_failed_compaction_is_postponed_unless_the_store_failed_or_the_lease_is_lost(tmp_path, error):
    table = nights(tmp_path, LIMITS.small_fragments)

    def failing(tasks):
        raise error

    with pytest.raises(Exception) as raised:
        compact(table, failing)
    if error in (LOST, STORE):
        assert raised.value is error
    else:
        assert isinstance(raised.value, UpkeepError)
        assert str(raised.value).startswith("small fragments were not merged: ")
        assert ".rs:" not in str(raised.value)
    assert lance.dataset(table.uri).version == table.version


def test_versions_with_a_tag_and_the_latest_stay_and_the_others_go_with_their_files(tmp_path):
    table = write(tmp_path, {"a": "one", "b": "two"})
    table.tags.create("published", table.version)
    for text in ("ONE", "First", "1"):  # each replaces the only fragment
        latest = write(tmp_path, {"a": text, "b": text}, f"run-{text}")
    assert len(data_files(latest.uri)) == 4
    assert clean_up(latest.uri, ALL) > 0
    assert [version["version"] for version in lance.dataset(latest.uri).versions()] == [table.version, latest.version]
    assert len(data_files(latest.uri)) == 2
    assert lance.dataset(latest.uri, version="published").to_table(["text"])["text"].to_pylist() == ["one", "two"]
    assert lance.dataset(latest.uri).to_table(["text"])["text"].to_pylist() == ["1", "1"]
    assert clean_up(latest.uri, ALL) == 0


def test_versions_younger_than_the_retention_stay(tmp_path):
    old = nights(tmp_path, 2)
    time.sleep(0.6)
    young = write(tmp_path, {"a": "one"})
    latest = write(tmp_path, {"b": "two"})
    made = {version["version"]: version["timestamp"] for version in latest.versions()}
    for manifest in Path(latest.uri, "_versions").iterdir():  # the times that count are written in them
        os.utime(manifest, (0, 0))
    between = made[old.version] + (made[young.version] - made[old.version]) / 2
    clean_up(latest.uri, datetime.now() - between)
    assert [version["version"] for version in lance.dataset(latest.uri).versions()] == [young.version, latest.version]
    assert lance.dataset(latest.uri).count_rows() == 42


@pytest.mark.parametrize("retention", [ALL, timedelta(days=30)])
def test_files_that_were_never_committed_go_after_seven_days_and_not_before(tmp_path, retention):
    table = nights(tmp_path, 2)
    committed = data_files(table.uri)
    orphans = {}
    for days in (0, 6.9, 7.1):
        [orphan] = write_fragments(table.to_table(), table.uri, mode="append")
        orphans[days] = orphan.files[0].path
        written = time.time() - timedelta(days=days).total_seconds()
        os.utime(Path(table.uri, "data", orphans[days]), (written, written))
    clean_up(table.uri, retention)
    assert data_files(table.uri) == committed | {orphans[0], orphans[6.9]}
    assert lance.dataset(table.uri).to_table().num_rows == 40
