"""Each gate passes a good table and fails one with the fault that it checks for."""

import dataclasses
from collections import Counter
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

from pipelines.events import Counts, Events, Judged, Verdict
from pipelines.gates.canary import canary, sample
from pipelines.gates.conservation import conservation
from pipelines.gates.evidence import Evidence, Tolerance
from pipelines.gates.judge import (
    OF_THE_RUN,
    OF_THE_TABLE,
    GateError,
    TooManyRejectsError,
    judge,
    require,
    require_few_rejects,
)
from pipelines.gates.missing_rows import missing_rows
from pipelines.gates.one_encoder import one_encoder
from pipelines.gates.reference import ReferencePath
from pipelines.gates.reject_rate import name_reasons, reject_rate
from pipelines.gates.unique_ids import unique_ids
from pipelines.gates.vectors import sound_vectors
from pipelines.ingest.manifest import RowChecksum
from pipelines.ingest.missing import Missing
from pipelines.ingest.reembed import begin_reembedding
from pipelines.tables.dataset import SCAN
from pipelines.tables.lease import take
from pipelines.tables.origin import Origin
from pipelines.tables.publish import publish
from tests.second_column import SECOND, add_second
from tests.tables import (
    COLUMN,
    DIMENSION,
    IDENTITY,
    NO_RUNS,
    append_foreign,
    block,
    commit,
    new_committer,
    run_id,
    stats,
    vector_of,
)


@pytest.fixture
def uri(tmp_path) -> str:
    """A published table of three rows."""
    committer = new_committer(tmp_path)
    uri = committer.table.uri
    commit(committer, block({"a": "one", "b": "two", "c": "three"}), stats(3))
    table, lease = take(lance.dataset(uri), NO_RUNS)
    publish(table, lease, Events())
    lease.release(uri)
    return uri


def candidate(uri: str, is_first: bool = False) -> Evidence:
    published = None if is_first else lance.dataset(uri, version="published")
    return Evidence(Counts(), lance.dataset(uri), COLUMN, published)


def counted(uri: str, counts: Counts, **tolerance) -> Evidence:
    """Evidence with the counts of a run."""
    return dataclasses.replace(candidate(uri), counts=counts, tolerance=Tolerance(**tolerance))


def append(uri: str, rows: pa.Table) -> None:
    """Append rows as another writer would."""
    fragments = write_fragments(rows, uri, schema=rows.schema, mode="append")
    dataset = lance.dataset(uri)
    lance.LanceDataset.commit(uri, lance.LanceOperation.Append(fragments), read_version=dataset.version)


def rows_of(uri: str, ids: dict[str, str], vectors: np.ndarray | None = None) -> pa.Table:
    """Copies of a row of the table with the given ids and runs ({id: run}), and vectors if given."""
    table = lance.dataset(uri).to_table().slice(0, 1)
    table = pa.concat_tables([table] * len(ids)).set_column(0, "id", pa.array(list(ids), pa.string()))
    table = table.set_column(table.schema.get_field_index("_run"), "_run", pa.array(list(ids.values()), pa.string()))
    if vectors is not None:
        kind = table.schema.field("vector").type
        column = pa.array([None if row is None else row.tolist() for row in vectors], kind)
        table = table.set_column(table.schema.get_field_index("vector"), "vector", column)
    return table.cast(lance.dataset(uri).schema)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_good_table_passes(tmp_path, uri, is_first):
    commit(new_committer(tmp_path, "run-2"), block({"a": "ONE", "d": "four"}), stats(2))
    judged = candidate(uri, is_first)
    assert all(gate(judged).passed for gate in (unique_ids, sound_vectors, one_encoder))
    assert len(judged.fresh) == (2 if is_first else 1)


def test_only_differences_from_the_published_version_are_judged(tmp_path, uri):
    assert candidate(uri).fresh == []
    commit(new_committer(tmp_path, "run-2"), block({"a": "ONE", "d": "four"}), stats(2))
    [fragment] = candidate(uri).fresh
    assert sorted(fragment.to_table(columns=["id"])["id"].to_pylist()) == ["a", "d"]


def reference(*files: str) -> ReferencePath:
    """A source that lists these files; nothing is read from it."""
    return ReferencePath(None, files, "", None, None)


def sampled(evidence: Evidence) -> list[str]:
    """The ids of the rows that the canary would compare."""
    return sorted(sample(dataclasses.replace(evidence, reference=reference("a.parquet")))["id"].to_pylist())


@pytest.mark.parametrize("run", [run_id(1), "0", "zzz", None], ids=str)
def test_the_canary_sees_what_differs_whatever_its_run_is_called(tmp_path, uri, run):
    """The runs of the published rows are `run-1`."""
    assert sampled(candidate(uri)) == []
    commit(new_committer(tmp_path, "run-2"), block({"a": "ONE", "d": "four"}), stats(2))
    lance.dataset(uri).update({"_run": "NULL" if run is None else f"'{run}'"}, where="_run = 'run-2'")
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=100)
    assert candidate(uri).fresh[0].count_rows() == 4, "also rows that do not differ"
    assert sampled(candidate(uri)) == ["a", "d"]
    commit(new_committer(tmp_path, "run-3"), block({"e": "five"}, "other.parquet"), stats(1))
    append(uri, rows_of(uri, {None: "run-9"}))
    assert sampled(candidate(uri)) == ["a", "d"], "rows of other sources, and rows without id, can't be read again"


def test_the_canary_samples_a_few_of_many_rows(tmp_path, uri):
    rows = {f"id{number}": "x" for number in range(SCAN["batch_size"] + 100)}
    commit(new_committer(tmp_path, "run-2"), block(rows), stats(len(rows)))
    found = sampled(candidate(uri))
    assert len(set(found)) == len(found) == 16
    assert set(found) <= rows.keys()
    assert set(found) != set(sampled(candidate(uri))), "others each time"


def test_a_canary_that_finds_none_of_the_rows_that_the_run_wrote_fails(tmp_path, uri):
    lance.dataset(uri).delete("id = 'a'")
    unchanged = dataclasses.replace(candidate(uri), reference=reference("a.parquet"))
    assert canary(unchanged).passed
    verdict = canary(dataclasses.replace(unchanged, counts=Counts(written=3)))
    assert not verdict.passed
    assert verdict.message == "no row of this source's files differs from the published version, but the run wrote 3"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("ids", [["a"], ["x", "x"], ["a", "x"]], ids=str)
def test_a_duplicate_id_is_found(uri, ids, is_first):
    append(uri, pa.concat_tables([rows_of(uri, {key: "run-9"}) for key in ids]))
    verdict = unique_ids(candidate(uri, is_first))
    assert not verdict.passed
    assert f"{'x' if ids == ['x', 'x'] else 'a'}' 2 times" in verdict.message


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1.0, None])
def test_an_invalid_vector_is_found_whichever_writer_wrote_it(uri, value):
    vector = None if value is None else np.full(DIMENSION, value, np.float16)
    append(uri, rows_of(uri, {"x": "run-9"}, [vector]))
    verdict = sound_vectors(candidate(uri))
    assert not verdict.passed
    assert verdict.message.startswith(
        "1 of 1 fresh vectors are null, not finite or not of norm 1, such as that of 'x'; 0 of them are in rows that "
        "other clients wrote (`_object IS NULL`). "
    )


def test_rows_that_another_client_appended_are_judged_like_the_jobs_own(tmp_path, uri):
    committer = new_committer(tmp_path, "run-2")
    commit(committer, block({"d": "four"}), stats(1))
    append_foreign(committer, [{"id": "by hand", "vector": vector_of("five"), "text": "five"}])
    assert all(gate(candidate(uri)).passed for gate in (unique_ids, sound_vectors, one_encoder))
    append_foreign(committer, [{"id": "no vector"}, {"id": None, "vector": 8 * [1.0]}, {"id": "a"}])
    vectors, ids = sound_vectors(candidate(uri)).message, unique_ids(candidate(uri)).message
    assert "4 of 5 fresh" not in vectors
    assert vectors.startswith("3 of 5 fresh vectors are null")
    assert "'no vector'; 3 of them are in rows that other clients wrote" in vectors
    assert ids.startswith("1 rows have no id and ids are in the table more than once, such as 'a' 2 times. ")
    append_foreign(committer, [{"id": None, "vector": vector_of("six")}])
    assert unique_ids(candidate(uri, is_first=True)).message.startswith("2 rows have no id and ids")


def test_a_reembedding_does_not_reach_the_rows_of_other_clients(tmp_path, uri):
    append_foreign(new_committer(tmp_path), [{"id": "by hand", "vector": vector_of("five")}])
    begin_reembedding(lance.dataset(uri), COLUMN, Origin("vista-tiny"), run_id(2))
    commit(new_committer(tmp_path, run_id(2)), block({"a": "one", "b": "two", "c": "three"}), stats(3))
    verdict = one_encoder(candidate(uri))
    assert verdict.message.startswith("1 rows still have the vectors of another encoder")
    assert "client (`_object IS NULL`)" in verdict.message


def test_a_column_of_another_encoder_or_of_two_encoders_is_found(tmp_path, uri):
    white = dataclasses.replace(IDENTITY, alpha="white")
    other = dataclasses.replace(candidate(uri), column=dataclasses.replace(COLUMN, identity=white))
    assert "alpha" in one_encoder(other).message
    begin_reembedding(lance.dataset(uri), COLUMN, Origin("vista-tiny"), run_id(2))
    assert "3 rows still have the vectors of another encoder" in one_encoder(candidate(uri)).message
    commit(new_committer(tmp_path, run_id(2)), block({"a": "one", "b": "two"}), stats(2))
    assert "1 rows still have" in one_encoder(candidate(uri)).message
    commit(new_committer(tmp_path, run_id(3)), block({"c": "three"}), stats(1))
    assert one_encoder(candidate(uri)).passed
    append(uri, rows_of(uri, {"d": "zzz", "e": None}))
    assert "2 rows still have" in one_encoder(candidate(uri)).message, "rows of other writers"


def test_conservation_compares_records_read_with_their_outcomes(uri):
    assert conservation(counted(uri, Counts(read=6, written=1, rewritten=2, unchanged=3))).passed
    verdict = conservation(counted(uri, Counts(read=7, written=1, rewritten=2, unchanged=3)))
    assert not verdict.passed
    assert verdict.message == "read 7 != written 1 + rewritten 2 + unchanged 3 + rejected 0"


def test_rejects_of_this_run_and_of_skipped_files_count_towards_the_limit(uri):
    counts = Counts(read=10, written=9, skipped=85, skipped_rejected=4, reasons=Counter(image_truncated=1))
    assert reject_rate(counted(uri, counts, reject_rate=0.06)).passed
    evidence = dataclasses.replace(counted(uri, counts), example=lambda reason: f"an example of {reason}")
    verdict = reject_rate(evidence)
    assert not verdict.passed
    assert "5 of 99 rows of the source were rejected (5.1%), more than --max-reject-rate 0.05" in verdict.message
    assert "image_truncated 1. For example: an example of image_truncated" in verdict.message
    reported: list[object] = []
    with pytest.raises(TooManyRejectsError, match="what was committed stays"):
        require_few_rejects(evidence, Events([reported.append]))
    assert reported == [Judged(verdict)]
    earlier = reject_rate(counted(uri, Counts(skipped=10, skipped_rejected=4)))
    assert "by earlier runs, in files that are skipped" in earlier.message


def test_missing_rows_that_cannot_be_removed_fail_the_gate_only_with_delete_missing(uri):
    missing = Missing(owned=10, by_file={"a.parquet": RowChecksum(4)})
    kept = dataclasses.replace(candidate(uri), missing=missing)
    assert missing_rows(kept).passed
    asked = dataclasses.replace(kept, tolerance=Tolerance(delete_missing=True))
    assert not missing_rows(asked).passed
    assert "--delete-at-most 4" in missing_rows(asked).message
    removed = dataclasses.replace(kept, tolerance=Tolerance(0.05, True, 4), counts=Counts(deleted=4))
    assert missing_rows(removed) == Verdict("missing rows", True, "4 of 10 rows removed")
    fewer = missing_rows(dataclasses.replace(removed, counts=Counts(deleted=3)))
    assert fewer.passed
    assert fewer.message.startswith("3 of 10 rows removed; 1 that are missing, too, stay: another writer replaced or")


def test_all_gates_are_judged_and_every_failed_one_is_named(uri):
    append(uri, pa.concat_tables([rows_of(uri, {"x": "run-9"}, [np.zeros(DIMENSION, np.float16)])] * 2))
    reported: list[object] = []
    verdicts = judge((unique_ids, sound_vectors, one_encoder), candidate(uri), Events([reported.append]))
    assert [event.verdict for event in reported] == verdicts
    assert [verdict.passed for verdict in verdicts] == [False, False, True]
    with pytest.raises(GateError, match=r"not published: unique ids: .*; vectors: 2 of 2") as caught:
        require(verdicts)
    assert caught.value.exit_code == 3
    require(verdicts[2:])


def test_the_documentation_names_every_gate(uri):
    operations = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()
    quick = [gate for gate in (*OF_THE_RUN, *OF_THE_TABLE) if gate.__name__ != "canary"]
    names = {gate(candidate(uri)).gate for gate in quick} | {"canary"}
    assert len(names) == 10
    for name in names:
        assert f"| `{name}` |" in operations


def with_both(tmp_path, uri: str) -> Evidence:
    """Evidence of a run that fills a second column, too, on a table whose published version has it."""
    add_second(new_committer(tmp_path))
    table, lease = take(lance.dataset(uri), NO_RUNS)
    publish(table, lease, Events())
    lease.release(uri)
    return dataclasses.replace(candidate(uri), others=(SECOND,))


def test_each_column_is_judged_and_a_failed_one_is_named(tmp_path, uri):
    both = with_both(tmp_path, uri)
    append(uri, rows_of(uri, {"d": "run-2"}))
    both = dataclasses.replace(both, table=lance.dataset(uri))
    assert one_encoder(both) == Verdict("one encoder", True, "`vector`: vista-tiny, float32; `b`: vista-tiny, float32")
    assert sound_vectors(both).message == (
        "`vector`: 0 of 1 fresh vectors are null, not finite or not of norm 1; "
        "`b`: 0 of 1 fresh vectors are not finite or not of norm 1"
    )
    other = dataclasses.replace(SECOND, identity=dataclasses.replace(SECOND.identity, max_tokens=(9, 9)))
    verdict = one_encoder(dataclasses.replace(both, others=(other,)))
    assert not verdict.passed
    assert verdict.message.startswith("`b`: max_tokens")
    assert "`vector`" not in verdict.message
    wrong = rows_of(uri, {"e": "run-2"})
    zeros = pa.array([np.zeros(DIMENSION, np.float16)], SECOND.type)
    append(uri, wrong.set_column(wrong.schema.get_field_index("b"), wrong.schema.field("b"), zeros))
    verdict = sound_vectors(dataclasses.replace(candidate(uri), others=(SECOND,)))
    assert not verdict.passed
    assert verdict.message.startswith("`b`: 1 of 2 fresh vectors are not finite or not of norm 1, such as that of 'e'")
    assert verdict.message.endswith("anew by `vista backfill` into another column; `vista drop-column` removes `b`")


def test_rows_that_a_backfill_could_not_embed_may_lack_its_vector(tmp_path, uri):
    with_both(tmp_path, uri)
    append_foreign(new_committer(tmp_path), [{"id": "by hand", "vector": vector_of("five"), "text": "five"}])
    verdict = sound_vectors(dataclasses.replace(candidate(uri), others=(SECOND,)))
    assert verdict.passed
    assert verdict.message.endswith("`b`: 0 of 1 fresh vectors are not finite or not of norm 1, and 1 rows have none")


def test_no_reason_is_left_out_silently():
    few = Counter({"missing_id": 2, "empty_record": 1})
    assert name_reasons(few) == "missing_id 2, empty_record 1"
    many = Counter({f"reason_{number}": 10 - number for number in range(7)})
    assert name_reasons(many).endswith("reason_4 6, and 2 others")
    assert name_reasons(Counter({key: many[key] for key in list(many)[:6]})).endswith("reason_4 6, and 1 other")
