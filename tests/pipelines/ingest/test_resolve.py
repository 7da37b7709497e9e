"""Which record gets an id, decided on plain values: the first in listing order, in any order of arrival."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from pipelines.ingest.resolve import Incoming, Known, StoredRow, resolve
from pipelines.storage.uris import listing_order

FILES = ["/t.lance#2", "/t.lance#10", "a.parquet", "b.parquet"]
IDS = "xyz"
REASONS = [None, "image_truncated", "fetch_timeout"]
RUN = "run-2"

rows = st.lists(
    st.tuples(
        st.sampled_from(IDS), st.sampled_from(FILES), st.sampled_from([None, "image_truncated", "fetch_timeout"])
    ),
    max_size=8,
)
stored = st.dictionaries(st.sampled_from(IDS), st.sampled_from(FILES))


def known(before: dict[str, str]) -> Known:
    """A table whose rows were all written by an earlier run."""
    table = {key: StoredRow(address, file, "run-1") for address, (key, file) in enumerate(before.items())}
    return Known(table, table, {}, RUN)


@given(rows, stored, st.booleans())
def test_each_record_is_accepted_or_rejected_and_the_first_in_the_listing_is_accepted(records, before, keep_stale):
    incoming = [Incoming(row, *record) for row, record in enumerate(records)]
    resolution = resolve(incoming, known(before), BitMap64(), keep_stale)
    sound = [record for record in incoming if record.reason is None]
    entered = [record for record in sound if record.row not in resolution.rejects]
    assert Counter(record.id for record in entered) == Counter({record.id for record in sound})
    for record in entered:
        assert record.file == min((other.file for other in sound if other.id == record.id), key=listing_order)
        assert resolution.owners[record.id] == record.file
    assert resolution.replaced.keys() == {record.id for record in entered} & before.keys()
    assert not resolution.superseded, "this run wrote none of the stored rows"


@given(rows, stored, st.booleans())
def test_a_row_is_removed_only_for_a_rejected_record_of_its_own_file(records, before, keep_stale):
    incoming = [Incoming(row, *record) for row, record in enumerate(records)]
    table = known(before)
    resolution = resolve(incoming, table, BitMap64(), keep_stale)
    for key, file in before.items():
        reasons = {record.reason for record in incoming if (record.id, record.file) == (key, file)} - {None}
        sound = any(record.id == key and record.reason is None for record in incoming)
        leaves = not sound and not keep_stale and "image_truncated" in reasons
        assert (key in resolution.removed) == leaves
        stays = not sound and bool(reasons) and (keep_stale or "fetch_timeout" in reasons)
        assert leaves or (table.base[key].address in resolution.retained) == stays
    assert resolution.removed_rows == len(resolution.removed)


@given(rows, st.sets(st.sampled_from(IDS)))
def test_a_record_earlier_in_the_listing_supersedes_an_unchanged_row_that_was_counted(records, unchanged):
    before = dict.fromkeys(IDS, "a.parquet")
    table = known(before)
    accounted = BitMap64(table.base[key].address for key in unchanged)
    sound = [Incoming(row, key, file, None) for row, (key, file, _) in enumerate(records)]
    resolution = resolve(sound, table, accounted, keep_stale=False)
    for key in {record.id for record in sound}:
        first = min((record.file for record in sound if record.id == key), key=listing_order)
        supersedes = key in unchanged and listing_order(first) < listing_order("a.parquet")
        assert (key in resolution.superseded) == supersedes
    assert resolution.superseded_unchanged == len(resolution.superseded) == len(resolution.superseded_rejects)
    assert resolution.superseded_written == 0


def test_a_row_of_this_run_is_superseded_only_by_a_record_earlier_in_the_listing():
    latest = {"x": StoredRow(5, "b.parquet", RUN)}
    late = resolve([Incoming(0, "x", "c.parquet", None)], Known(latest, {}, {}, RUN), BitMap64(), False)
    assert late.rejects[0].reason == "duplicate_id"
    assert "in b.parquet" in late.rejects[0].message
    first = resolve([Incoming(0, "x", "a.parquet", None)], Known(latest, {}, {}, RUN), BitMap64(), False)
    assert (first.replaced, first.superseded, first.superseded_written) == ({"x": 5}, {"x": "b.parquet"}, 1)
