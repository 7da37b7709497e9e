"""The schema that records travel in, and how a record is rejected."""

import pyarrow as pa

from pipelines.batch_stats import BatchStats, FileCounts, split_stats
from pipelines.reasons import Reject
from pipelines.records import (
    FLOW_FIELDS,
    MESSAGE,
    REASON,
    STAGE,
    STATS,
    STATS_TYPE,
    Misfits,
    embeddable,
    replace_column,
    with_rejects,
)


def records(*ids: str) -> pa.Table:
    table = pa.table({"id": list(ids)})
    for field in FLOW_FIELDS:
        table = table.append_column(field, pa.nulls(len(ids), field.type))
    return table


def test_a_rejected_row_keeps_its_first_reason():
    table = with_rejects(records("a", "b", "c"), {1: Reject("read", "text_not_utf8", "first")})
    table = with_rejects(table, {1: Reject("decode", "image_truncated", "second"), 2: Reject("decode", "r", "m")})
    assert table[REASON].to_pylist() == [None, "text_not_utf8", "r"]
    assert table[STAGE].to_pylist() == [None, "read", "decode"]
    assert table[MESSAGE].to_pylist() == [None, "first", "m"]


def test_rejected_rows_and_batch_statistics_are_not_embeddable():
    table = with_rejects(records("a", "b", "c"), {0: Reject("read", "r", "m")})
    table = replace_column(table, STATS, pa.array([None, {"ended": ["a.parquet"]}, None], STATS_TYPE))
    assert embeddable(table) == [False, False, True]


def test_a_replaced_column_stays_where_it_was():
    table = pa.table({"a": [1], "b": [2]})
    assert replace_column(table, "a", pa.array([3])).to_pydict() == {"a": [3], "b": [2]}
    assert replace_column(table, "c", pa.array([3])).column_names == ["a", "b", "c"]


def test_batch_statistics_travel_as_a_row_and_come_back_whole():
    stats = BatchStats(
        files=[FileCounts("a.parquet", 3, 1, 2, (1 << 64) - 1), FileCounts("b.parquet", 1)],
        unchanged_addresses=[5, 1 << 40],
        unchanged_rows=[0, 2],
        unchanged_files=[0, 0],
        ended=["a.parquet"],
        misfits=[Misfits("price", 2, "'n/a' is no int64")],
        warnings=["the disk is slow"],
    )
    table = pa.concat_tables([records("a"), stats.row(records("a").schema)])
    rest, [found] = split_stats(table)
    assert rest["id"].to_pylist() == ["a"]
    assert found == stats
