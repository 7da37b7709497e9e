"""The upkeep of a measured index: rows that came are covered, and an index that finds too little is built anew."""

import dataclasses

import lance
import pytest

from pipelines.cluster.calls import in_this_process
from pipelines.embed.recall import keep_recall
from pipelines.events import Counts, IndexMeasured, IndexTrained
from pipelines.gates.evidence import Evidence
from pipelines.gates.index_recall import index_recall
from pipelines.index.choose import Choice
from pipelines.index.config import IndexConfig
from pipelines.index.pieces import Pieces
from pipelines.index.run import Setup, index_table
from pipelines.tables.indexes import bring_indexes_up_to_date
from pipelines.tables.search_setting import SearchSetting, vector_indexes
from pipelines.tables.upkeep import UpkeepError
from tests.second_column import SECOND, add_second
from tests.tables import COLUMN, block, commit, new_committer, stats

CHOICE = Choice("IVF_RQ", "as the test says", partitions=8, bits=7, sample_rate=64)
ROWS = 1_500


@pytest.fixture
def db(tmp_path):
    """A table with an index that reaches a recall of 0.95."""
    committer = new_committer(tmp_path)
    commit(committer, block({f"{row:05}": f"text {row}" for row in range(ROWS)}), stats(ROWS))
    index_table(IndexConfig(str(tmp_path), "t"), Setup(workers=in_this_process, choice=CHOICE, queries=64))
    return tmp_path


def evidence(db, number=0):
    """What the gates see after a night with `number` more rows."""
    committer = new_committer(db, "run-2")
    if number:
        rows = {f"new {row}": f"new text {row}" for row in range(number)}
        commit(committer, block(rows), stats(number))
        committer.table = bring_indexes_up_to_date(committer.table)
    return committer, Evidence(Counts(), committer.table, COLUMN)


def spoil(db, **values):
    """Another setting for the index, as if its vectors had drifted."""
    table = lance.dataset(f"{db}/t.lance")
    dataclasses.replace(SearchSetting.of(table, "vector"), **values).store(table)


def keep(db, found, committer, listener=lambda event: None):
    committer.events = dataclasses.replace(committer.events, listeners=[listener])
    return keep_recall(found, committer, Pieces(f"{db}/t_index_build.lance"), in_this_process)


def test_a_night_of_new_rows_keeps_the_recall(db):
    committer, found = evidence(db, number=100)
    [name] = vector_indexes(committer.table, "vector")
    assert committer.table.stats.index_stats(name)["num_unindexed_rows"] == 0
    verdict = index_recall(found)
    assert verdict.passed, verdict.message
    assert "asked: 0.95" in verdict.message
    assert keep(db, found, committer) is found


def test_an_index_that_finds_too_little_is_built_anew(db):
    spoil(db, nprobes=1, refine_factor=0)
    committer, found = evidence(db)
    verdict = index_recall(found)
    assert not verdict.passed
    assert "less than 0.95. `vista index` builds the index anew" in verdict.message
    seen = []
    kept = keep(db, found, committer, seen.append)
    assert [type(event) for event in seen if isinstance(event, IndexTrained | IndexMeasured)] == [
        IndexTrained,
        IndexMeasured,
    ]
    assert kept.table.version == committer.table.version == lance.dataset(committer.base.uri).version
    assert index_recall(kept).passed
    assert vector_indexes(kept.table, "vector") != vector_indexes(found.table, "vector")
    assert kept.table.describe_indices()[-1].index_type == "IVF_RQ"


def test_if_that_fails_searches_are_exact_and_the_night_goes_on(db):
    spoil(db, nprobes=1, refine_factor=0, recall=1.01)  # which no index reaches
    committer, found = evidence(db)
    with pytest.raises(UpkeepError, match=r"does not reach --recall 1\.01.*Until `vista index` .*, searches are exact"):
        keep(db, found, committer)
    assert SearchSetting.of(committer.table, "vector") is None
    verdict = index_recall(dataclasses.replace(found, table=committer.table))
    assert verdict.passed
    assert "searches are exact" in verdict.message


def test_an_index_whose_files_are_gone_costs_no_night(db):
    committer, found = evidence(db)
    [index] = [each for each in found.table.describe_indices() if each.name in vector_indexes(found.table, "vector")]
    for path in (db / "t.lance" / "_indices" / str(index.segments[0].uuid)).iterdir():
        path.unlink()
    fresh = dataclasses.replace(found, table=lance.dataset(found.table.uri, version=found.table.version))
    with pytest.raises(UpkeepError, match="the recall of the index could not be measured"):
        keep(db, fresh, committer)
    assert SearchSetting.of(committer.table, "vector") is None


def test_without_a_measured_index_there_is_nothing_to_keep(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one"}), stats(1))
    found = Evidence(Counts(), committer.table, COLUMN)
    assert keep(tmp_path, found, committer) is found
    assert index_recall(found).passed


def test_the_index_of_another_column_is_built_anew_as_well(db):
    add_second(new_committer(db))
    index_table(IndexConfig(str(db), "t", column="b"), Setup(workers=in_this_process, choice=CHOICE, queries=64))
    table = lance.dataset(f"{db}/t.lance")
    dataclasses.replace(SearchSetting.of(table, "b"), nprobes=1, refine_factor=0).store(table)
    committer, found = evidence(db)
    found = dataclasses.replace(found, others=(SECOND,))
    verdict = index_recall(found)
    assert not verdict.passed
    assert verdict.message.startswith("`b`: recall@10 ")
    kept = keep(db, found, committer)
    assert index_recall(kept).passed
    assert index_recall(kept).message.startswith("`vector`: recall@10 ")
    assert vector_indexes(kept.table, "vector") == vector_indexes(found.table, "vector")
    assert vector_indexes(kept.table, "b") != vector_indexes(found.table, "b")
