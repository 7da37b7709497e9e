"""Whole runs of `index`: what a table has then, what searches see meanwhile, and what becomes of a run that fails."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import lance
import lancedb
import numpy as np
import pytest

from jobs.vista import main
from pipelines.cluster.calls import in_this_process
from pipelines.events import (
    Events,
    IndexExchanged,
    IndexMeasured,
    IndexTrained,
    SegmentBuilt,
    SegmentsMerged,
    SettingStored,
)
from pipelines.index.pieces import Pieces
from pipelines.index.run import Setup, index_table
from pipelines.index.vector import RecallError
from pipelines.tables.lease import LeaseHeldError, holder_of, take
from pipelines.tables.publish import publish
from pipelines.tables.search_setting import SearchSetting, vector_indexes
from pipelines.tables.upkeep import UpkeepLimits, compact
from tests.conftest import REPOSITORY
from tests.pipelines.index.tables import CHOICE, config, foreign_table, names, nearest, rows_of, tables_in, vectors
from tests.pipelines.tables.conftest import in_this_process as compacting
from tests.pipelines.tables.conftest import tags
from tests.tables import NO_RUNS
from vista_core import UsageError

EVENTS = {
    "IndexTrained": 1,
    "SegmentBuilt": 2,
    "SegmentsMerged": 1,
    "IndexMeasured": 1,
    "SettingStored": 1,
    "IndexExchanged": 1,
}


def setup(*listeners, choice=CHOICE):
    return Setup(listeners, in_this_process, choice, queries=32)


def is_whole(table: lance.LanceDataset) -> bool:
    """True if an index of the table's vectors has its setting; fails if there are several, or one without a setting."""
    indexes = vector_indexes(table, "embedding")
    assert len(indexes) <= 1
    setting = SearchSetting.of(table, "embedding")
    assert (setting is None) == (not indexes)
    assert setting is None or setting.index == indexes[0]
    return bool(indexes)


def publish_latest(uri):
    table, lease = take(lance.dataset(uri), NO_RUNS)
    publish(table, lease, Events())
    lease.release(uri)


@pytest.fixture
def uri(tmp_path):
    return foreign_table(tmp_path / "db")


@pytest.fixture
def db(tmp_path):
    return tmp_path / "db"


def test_a_table_of_another_client_gets_its_indexes_and_nothing_else(db, uri):
    before = lance.dataset(uri)
    done = index_table(config(db), setup())
    table = lance.dataset(uri)
    assert table.schema.equals(before.schema, check_metadata=True)
    assert table.to_table() == before.to_table()
    assert is_whole(table)
    assert sorted(names(uri).values()) == ["BTree", "IVF_RQ", "Inverted"]
    assert [table.stats.index_stats(name)["num_unindexed_rows"] for name in names(uri)] == [0, 0, 0]
    setting = SearchSetting.of(table, "embedding")
    assert setting.measured >= setting.recall == 0.95
    assert setting.filtered_measured >= 0.95
    assert done.measurement.swept.chosen.recall == setting.measured
    assert holder_of(table).ended
    assert tags(table) == {}
    assert tables_in(db) == {"t", "t_runs"}
    assert not list((db / "t.lance" / "_versions").glob("d*")), "the hidden version is gone"
    opened = lancedb.connect(db).open_table("t")
    assert opened.search(vectors(1)[0], vector_column_name="embedding").distance_type("cosine").limit(3).to_list()


def test_what_is_found_is_what_exact_search_finds(db, uri):
    index_table(config(db), setup())
    table = lance.dataset(uri)
    setting, queries = SearchSetting.of(table, "embedding"), vectors(60, seed=9)
    both = [
        len({*nearest(table, each, **setting.nearest())} & {*nearest(table, each, use_index=False)}) for each in queries
    ]
    assert np.mean(both) / 10 >= 0.9
    plan = table.scanner(nearest={"column": "embedding", "q": queries[0], "k": 5, **setting.nearest()}).explain_plan()
    assert f"ANNSubIndex: name={setting.index}" in plan
    words = table.to_table(["title"], full_text_query={"columns": ["title"], "query": "lamp 17"}, limit=1)
    assert words["title"].to_pylist() == ["lamp number 17"]


def test_each_step_is_logged(db, uri, caplog):
    with caplog.at_level("INFO"):
        index_table(config(db), setup())
    steps = [each.getMessage() for each in caplog.records if each.name == "pipelines.index.progress"]
    assert steps[:-1] == [
        "the partitions are found; building segments",
        *["a segment of 800 rows is built"] * 3,
        "the segments are merged; measuring recall and latency",
    ]
    assert steps[-1].endswith(" settings are measured")


def test_segments_are_merged_so_a_compaction_still_merges_fragments(db, uri):
    segments = []
    index_table(config(db), setup(lambda event: segments.append(event) if isinstance(event, SegmentBuilt) else None))
    assert [each.rows for each in segments] == [800, 800, 800]
    table = lance.dataset(uri)
    assert len(table.describe_indices()[0].segments) == 1
    setting = SearchSetting.of(table, "embedding")
    compacted = compact(table, compacting(table), UpkeepLimits(small_fragments=2))
    assert len(compacted.get_fragments()) == 1
    assert SearchSetting.of(compacted, "embedding") == setting
    query = vectors(1, seed=3)[0]
    assert nearest(compacted, query, **setting.nearest()) == nearest(table, query, **setting.nearest())


def test_few_rows_get_no_vector_index_and_it_is_said(db, uri):
    done = index_table(config(db), Setup())
    assert sorted(names(uri).values()) == ["BTree", "Inverted"]
    assert SearchSetting.of(lance.dataset(uri), "embedding") is None
    assert "no vector index, searches are exact: 2,400 rows of dimension 32 on a disk are read at once" in str(done)
    assert "other indexes: full text on `title`, BTREE on `sku`" in str(done)


def test_readers_of_the_latest_version_never_see_an_index_without_its_setting(db, uri):
    """At each event, and in each version that was ever committed."""
    seen = []

    def look(event):
        seen.append((type(event).__name__, is_whole(lance.dataset(uri))))

    index_table(config(db), setup(look))
    once = [whole for name, whole in seen if name != "IndexExchanged"]
    assert not any(once)
    old = SearchSetting.of(lance.dataset(uri), "embedding")
    seen.clear()
    index_table(config(db, recall=0.5), setup(look))
    assert [name for name, _ in seen if name in EVENTS][-1] == "IndexExchanged"
    assert all(whole for _, whole in seen)
    assert SearchSetting.of(lance.dataset(uri), "embedding").index != old.index
    for version in lance.dataset(uri).versions():
        is_whole(lance.dataset(uri, version=version["version"]))


def test_a_search_in_progress_keeps_its_version(db, uri):
    index_table(config(db), setup())
    open_before = lance.dataset(uri)
    setting, query = SearchSetting.of(open_before, "embedding"), vectors(1, seed=4)[0]
    found, during = nearest(open_before, query, **setting.nearest()), []

    def search(event):
        during.append(nearest(open_before, query, **setting.nearest()))

    index_table(config(db), setup(search))
    assert all(each == found for each in [*during, nearest(open_before, query, **setting.nearest())])


def test_if_the_recall_is_not_reached_the_old_index_stays(db):
    uri = foreign_table(db, 12_000)
    index_table(config(db), setup())
    before, setting = names(uri), SearchSetting.of(lance.dataset(uri), "embedding")
    weak = dataclasses.replace(CHOICE, kind="IVF_PQ", bits=0, sub_vectors=1)
    with pytest.raises(RecallError, match=r"does not reach --recall 1: the most is a recall@10 of 0\.") as caught:
        index_table(config(db, recall=1.0), setup(choice=weak))
    assert caught.value.exit_code == 3
    assert names(uri) == before
    assert SearchSetting.of(lance.dataset(uri), "embedding") == setting
    assert holder_of(lance.dataset(uri)).ended
    assert "t_index_build" not in tables_in(db), "another try begins anew"
    [status] = lance.dataset(f"{db}/t_runs.lance").to_table(filter="status = 'failed'")["error"].to_pylist()
    assert "RecallError" in status


@pytest.mark.parametrize(("event", "number"), EVENTS.items())
def test_a_build_that_is_killed_is_resumed(db, uri, event, number):
    command = [sys.executable, "-m", "tests.pipelines.index.killed", event, str(number), str(db)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout.split()[-1] == event
    assert is_whole(lance.dataset(uri)) == (event == "IndexExchanged")
    pieces, segments = Pieces(f"{db}/t_index_build.lance"), []
    kept = len(pieces.rows("segment"))
    assert kept == ended.stdout.split().count("SegmentBuilt")
    [model] = pieces.rows("model")

    def count(event):
        if isinstance(event, SegmentBuilt):
            segments.append(event)
        if isinstance(event, IndexTrained):
            assert pieces.rows("model") == [model], "it was not trained again"

    index_table(config(db), setup(count))
    assert len(segments) == 3 - kept
    assert is_whole(lance.dataset(uri))
    assert sorted(names(uri).values()) == ["BTree", "IVF_RQ", "Inverted"]
    assert "t_index_build" not in tables_in(db)
    statuses = lance.dataset(f"{db}/t_runs.lance").to_table()["status"].to_pylist()
    assert sorted(statuses) == ["dead", "done"]


def test_a_single_segment_that_is_the_index_by_now_is_built_again(db, uri):
    whole = dataclasses.replace(CHOICE, segment_rows=10_000)

    def stop(event):
        if isinstance(event, IndexExchanged):
            raise OSError("as if it were killed here")

    with pytest.raises(OSError, match="as if"):
        index_table(config(db), setup(stop, choice=whole))
    [before] = vector_indexes(lance.dataset(uri), "embedding")
    index_table(config(db), setup(choice=whole))
    table = lance.dataset(uri)
    assert is_whole(table)
    assert vector_indexes(table, "embedding") != [before]
    assert len(nearest(table, vectors(1)[0], **SearchSetting.of(table, "embedding").nearest())) == 10


def test_a_killed_build_is_continued_with_the_rows_that_came_since(db, uri):
    command = [sys.executable, "-m", "tests.pipelines.index.killed", "SegmentBuilt", "2", str(db)]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False).returncode == -signal.SIGKILL
    lance.dataset(uri).delete("sku < 'sku-000010'")
    lance.write_dataset(rows_of(vectors(300, seed=7), 5_000), uri, mode="append")
    segments = []
    index_table(config(db), setup(lambda event: segments.append(event) if isinstance(event, SegmentBuilt) else None))
    assert sum(each.rows for each in segments) == 800 + 300
    table = lance.dataset(uri)
    [name] = vector_indexes(table, "embedding")
    assert table.stats.index_stats(name)["num_unindexed_rows"] == 0


@pytest.mark.parametrize("moment", [IndexTrained, SegmentsMerged, IndexMeasured, SettingStored])
def test_another_client_may_write_at_any_moment(db, uri, moment):
    times = []

    def disturb(event):
        if isinstance(event, moment) and len(times) < 2:
            times.append(event)
            lance.write_dataset(rows_of(vectors(200, seed=len(times)), 6_000 * len(times)), uri, mode="append")
            lance.dataset(uri).optimize.compact_files()

    index_table(config(db), setup(disturb))
    table = lance.dataset(uri)
    assert is_whole(table)
    [name] = vector_indexes(table, "embedding")
    assert table.count_rows() == 2_400 + 200 * len(times)
    assert table.stats.index_stats(name)["num_unindexed_rows"] == 0
    [key] = nearest(table, vectors(200, seed=1)[7], k=1, **SearchSetting.of(table, "embedding").nearest())
    assert key == "sku-006007"


def test_a_published_table_is_published_with_its_indexes(db, uri):
    publish_latest(uri)
    before = tags(lance.dataset(uri))["published"]
    at_exchange = []

    def look(event):
        if isinstance(event, IndexExchanged):
            at_exchange.append(tags(lance.dataset(uri)))

    done = index_table(config(db), setup(look))
    assert at_exchange == [{"published": before}]
    assert tags(lance.dataset(uri)) == {"published": done.version, "previous": before}
    assert is_whole(lance.dataset(uri, version="published"))
    assert not is_whole(lance.dataset(uri, version="previous"))
    assert f"published version {done.version} of {uri}" in str(done)


def test_rows_that_no_gate_has_seen_are_not_published_with_an_index(db, uri):
    publish_latest(uri)
    before = tags(lance.dataset(uri))
    lance.write_dataset(rows_of(vectors(100, seed=2), 9_000), uri, mode="append")
    done = index_table(config(db), setup())
    assert tags(lance.dataset(uri)) == before
    assert done.is_published is False
    assert "stays published: the latest one has other rows" in str(done)
    assert is_whole(lance.dataset(uri))


def test_an_index_that_is_there_gives_its_metric_and_way_to_the_new_one(db, uri):
    lance.dataset(uri).create_index("embedding", "IVF_FLAT", name="theirs", metric="l2", num_partitions=2)
    index_table(config(db), setup())
    table = lance.dataset(uri)
    assert SearchSetting.of(table, "embedding").metric == "l2"
    assert "theirs" not in names(uri)
    assert is_whole(table)


def test_real_queries_have_to_reach_the_recall_too(db, uri):
    lance.write_dataset(rows_of(vectors(40, seed=5)), f"{db}/t_queries.lance")
    done = index_table(config(db), setup())
    assert (done.measurement.sampled, done.measurement.stored) == (32, 40)
    assert "32 rows and 40 stored queries" in str(done)


def test_the_result_as_json(db, uri):
    said = json.loads(str(index_table(config(db, json=True), setup())))
    assert said["kind"] == "IVF_RQ"
    assert said["setting"]["recall"] >= 0.95
    assert {"nprobes", "refine_factor", "recall", "p50_ms", "p95_ms"} == set(said["measurement"]["filtered"])
    assert said["other_indexes"] == {"title": "INVERTED", "sku": "BTREE"}


def test_wrong_usage_touches_nothing(db, uri):
    before = lance.dataset(uri).version
    for options, said in (
        ({"column": "title"}, r"--column title: .* has no such column of vectors; there are embedding"),
        ({"kind": "IVF_HNSW_SQ", "recall": 2.0}, "--recall must be more than 0"),
    ):
        with pytest.raises(UsageError, match=said):
            index_table(config(db, **options))
    with pytest.raises(UsageError, match="there is no table other"):
        index_table(dataclasses.replace(config(db), table="other"))
    shutil.copytree(uri, f"{db}/t_index_build.lance")
    with pytest.raises(UsageError, match=r"is another table\. Rename that one"):
        index_table(config(db), setup())
    assert lance.dataset(uri).version == before
    assert tables_in(db) == {"t", "t_index_build"}


def test_a_table_that_another_run_holds_is_left_alone(db, uri):
    index_table(config(db))
    take(lance.dataset(uri), NO_RUNS)
    with pytest.raises(LeaseHeldError):
        index_table(config(db), setup())


def test_the_command_ends_with_the_codes_of_its_help(db, uri, capfd):
    assert main(["index", "--db", str(db), "--table", "t"]) == 0
    assert "no vector index, searches are exact" in capfd.readouterr().out
    assert main(["index", "--db", str(db), "--table", "none"]) == 2


def test_on_ray_and_s3(s3, ray_cluster):
    db = s3.url("index-db")
    uri = foreign_table(db)
    done = index_table(config(db), Setup(choice=CHOICE))
    assert done.measurement.swept.chosen.recall >= 0.95
    assert is_whole(lance.dataset(uri))
