"""The order of run ids is the order in which runs began, whatever their clocks and other writers say."""

from datetime import UTC, datetime, timedelta

import lance
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables.run_ids import greatest_run, is_since, next_run_id, older_than

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
CLOCKS = st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))
OTHERS = st.sampled_from(["", "zzz", "run-1", "2099", "99990101T000000", "9" * 26]) | st.text(max_size=30)


def test_an_id_begins_with_the_time_and_two_of_the_same_moment_differ():
    assert next_run_id(NOW, []).startswith("20260102T030405000006-")
    assert len({next_run_id(NOW, []) for _ in range(20)}) > 1


@given(st.lists(CLOCKS, max_size=8), st.lists(OTHERS, max_size=4))
def test_each_id_is_greater_than_all_before_it_whatever_the_clocks_say(clocks, others):
    ids = []
    for clock in clocks:
        ids.append(next_run_id(clock, ids + others))
        assert len(ids[-1]) == len("20260102T030405000006-ab12")
    assert ids == sorted(set(ids))


@given(CLOCKS)
def test_an_id_is_of_the_present_time_if_all_others_are_earlier(clock):
    before = next_run_id(clock, [])
    later = min(clock, datetime.max.replace(tzinfo=UTC) - timedelta(microseconds=1)) + timedelta(microseconds=1)
    assert next_run_id(later, [before])[:21] == f"{later:%Y%m%dT%H%M%S%f}" or later == clock


def test_the_last_moment_that_a_clock_can_show_has_a_successor():
    last = next_run_id(datetime.max.replace(tzinfo=UTC), [])
    assert last < next_run_id(NOW, [last]) < next_run_id(NOW, [last, next_run_id(NOW, [last])])


RUNS = [
    "20260102T030405000006-ab12",
    None,
    "zzz",
    "20260102T030405000006-ab13",
    "run-1",
    "20260102T030405000005-ffff",
    "20260102",
]


def written(uri: object, runs: list[str | None]) -> lance.LanceDataset:
    return lance.write_dataset(pa.table({"_run": pa.array(runs, pa.string())}), str(uri))


def test_the_greatest_id_in_a_table_is_found_among_what_others_wrote(tmp_path):
    assert greatest_run(written(tmp_path / "t.lance", RUNS)) == "20260102T030405000006-ab13"
    assert greatest_run(written(tmp_path / "none.lance", ["zzz", None])) == ""
    assert greatest_run(written(tmp_path / "empty.lance", [])) == ""


def test_rows_are_of_a_run_or_a_later_one_only_if_a_run_of_this_job_wrote_them(tmp_path):
    table = written(tmp_path / "t.lance", RUNS)
    since = is_since(table.to_table()["_run"], "20260102T030405000006-ab12")
    assert since.to_pylist() == [True, False, False, True, False, False, False]
    older = table.to_table(filter=older_than("20260102T030405000006-ab12"))["_run"].to_pylist()
    assert older == [run for run, later in zip(RUNS, since.to_pylist(), strict=True) if not later]
    assert is_since(table.to_table()["_run"], "").to_pylist() == [run is not None for run in RUNS]
