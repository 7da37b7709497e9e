"""A setting belongs to one index in one version of a table, whatever is committed around it."""

import dataclasses

import lance
import pytest

from pipelines.tables.indexes import bring_indexes_up_to_date
from pipelines.tables.search_setting import KEY, SearchSetting, drop_setting
from pipelines.tables.upkeep import UpkeepLimits, compact
from tests.pipelines.tables.conftest import in_this_process, nights, write

SETTING = SearchSetting("first", nprobes=4, refine_factor=2, recall=0.95, measured=0.97)


def with_index(table, name):
    """`table` with a vector index of that name beside those that it has."""
    table.create_index("vector", "IVF_RQ", name, metric="cosine", num_partitions=2)
    return lance.dataset(table.uri)


def stored(table, setting=SETTING):
    return SearchSetting.of(setting.store(table), "vector")


@pytest.fixture
def table(tmp_path):
    return nights(tmp_path, 3, rows_each=200)


def test_a_setting_is_that_of_the_version_in_which_its_index_is(table):
    assert SearchSetting.of(table, "vector") is None
    before = SETTING.store(table)
    assert SearchSetting.of(before, "vector") is None, "there is no such index yet"
    without = before.version
    after = with_index(before, "first")
    assert SearchSetting.of(after, "vector") == SETTING
    assert SearchSetting.of(after, "text") is None
    better = dataclasses.replace(SETTING, nprobes=8)
    assert stored(after, better) == better
    assert SearchSetting.of(lance.dataset(after.uri, version=after.version), "vector") == SETTING
    assert SearchSetting.of(lance.dataset(after.uri, version=without), "vector") is None
    assert SearchSetting.of(drop_setting(lance.dataset(after.uri), "first"), "vector") is None


def test_a_setting_survives_what_others_commit_and_every_upkeep(table):
    table = with_index(SETTING.store(table), "first")
    uri, db = table.uri, table.uri.removesuffix("/t.lance")
    for night in range(3):
        table = write(db, {f"new {night}": "x", "0-1": f"changed {night}"})
        assert SearchSetting.of(table, "vector") == SETTING
        table = bring_indexes_up_to_date(table, UpkeepLimits(index_segments=2))
        assert SearchSetting.of(table, "vector") == SETTING
    table = compact(table, in_this_process(table), UpkeepLimits(small_fragments=2))
    assert SearchSetting.of(table, "vector") == SETTING
    lance.dataset(uri).update_config({"of another client": "1"})
    lance.dataset(uri).optimize.compact_files()
    lance.dataset(uri).optimize.optimize_indices()
    lance.dataset(uri).optimize.optimize_indices(retrain=True)
    assert SearchSetting.of(lance.dataset(uri), "vector") == SETTING


def test_an_index_that_another_client_built_has_no_setting(table):
    table = with_index(SETTING.store(table), "first")
    both = with_index(table, "vector_idx")
    assert SearchSetting.of(both, "vector") is None, "Lance may use either"
    both.drop_index("first")
    assert SearchSetting.of(lance.dataset(table.uri), "vector") is None


def test_settings_of_indexes_that_are_gone_are_removed_with_the_next_one(table):
    table = with_index(SETTING.store(table), "first")
    table.drop_index("first")
    later = dataclasses.replace(SETTING, index="second").store(lance.dataset(table.uri))
    assert [key for key in later.config() if key.startswith(KEY)] == [f"{KEY}second"]
