"""What must hold before a column is named complete: gates as those of `embed`, on the rows of a table.

Each is a function from `Evidence` to a verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import lance
import numpy as np
import pyarrow as pa

from pipelines.backfill.content import Rows, TableRows
from pipelines.backfill.finished import Filling
from pipelines.backfill.select import content_fingerprints
from pipelines.events import Counts, Verdict
from pipelines.fetching.locations import FetchRules
from pipelines.gates.canary import COSINE, ROWS, cosine
from pipelines.gates.evidence import OnWorkers
from pipelines.gates.reference import encode_alone
from pipelines.gates.reject_rate import name_reasons
from pipelines.ingest.fragments import off_norm
from pipelines.records import FINGERPRINT, FLOW_FIELDS, ID, replace_column, with_rejects
from pipelines.stages.decode import decode
from pipelines.stages.fetch import fetch, identify
from pipelines.tables.dataset import ADDRESS, SCAN, TableVersion, quoted
from pipelines.tables.vector_column import VectorColumn
from vista_core import EncoderSettings

TRIED: Final = 8 * ROWS  # rows that are looked at to find some for the canary
AT_ONCE: Final = 16  # fragments that one worker looks at


@dataclass(frozen=True)
class Evidence:
    """Collected at the end of a run; during it, for `reject_rate`, with the counts alone."""

    counts: Counts
    table: lance.LanceDataset  # the version that is judged
    fillings: Sequence[Filling]
    settings: Sequence[EncoderSettings]
    rows: TableRows
    rules: FetchRules
    fragments: Sequence[int]  # those whose vectors nobody has judged
    rejects: lance.LanceDataset
    most_rejects: float
    on_workers: OnWorkers

    @property
    def version(self) -> TableVersion:
        """The version that is judged."""
        return TableVersion(self.table.uri, self.table.version)

    def rejected(self) -> int:
        """Rows of the table that are rejected, by this run or by an earlier one that finished their fragment."""
        of_the_table = f"object LIKE {quoted(self.table.uri + '#%')}"
        rows = self.rejects.to_table(["object", "row"], filter=of_the_table)
        return len(rows.group_by(["object", "row"]).aggregate([]))


Gate = Callable[[Evidence], Verdict]


def conservation(evidence: Evidence) -> Verdict:
    """read = written + unchanged + rejected + empty."""
    counts = evidence.counts
    return Verdict(
        "conservation",
        counts.read == counts.resolved,
        f"read {counts.read:,} {'=' if counts.read == counts.resolved else '!='} written {counts.written:,} + "
        f"unchanged {counts.unchanged:,} + rejected {counts.rejected:,} + nothing to embed {counts.empty:,}",
    )


def reject_rate(evidence: Evidence) -> Verdict:
    """At most --max-reject-rate of the rows are rejected."""
    counts, rejected, rows = evidence.counts, evidence.rejected(), evidence.table.count_rows()
    share = f"{rejected:,} of {rows:,} rows are rejected ({rejected / max(1, rows):.1%})"
    if rejected <= evidence.most_rejects * rows:
        return Verdict("reject rate", True, share)
    why = f": {name_reasons(counts.reasons)}" if counts.reasons else ""
    return Verdict(
        "reject rate",
        False,
        f"{share}, more than --max-reject-rate {evidence.most_rejects:g}{why}. {evidence.rejects.uri} has each row and "
        "its reason. Mend the cause and run again, or run with a higher rate",
    )


def one_encoder(evidence: Evidence) -> Verdict:
    """Each column names this run's encoder, and has its type."""
    problems = []
    for filling in evidence.fillings:
        stored = VectorColumn.of(evidence.table.schema, filling.column.name)
        if differences := stored.identity.differences(filling.column.identity):
            problems.append(f"`{filling.column.name}`: {'; '.join(differences)}")
    names = ", ".join(f"`{each.column.name}`" for each in evidence.fillings)
    return Verdict("one encoder", not problems, "; ".join(problems) or f"{names}: as when the run began")


def coverage(evidence: Evidence) -> Verdict:
    """Every row has a vector, or a reason why it has none."""
    table, scope = evidence.table, evidence.rows.where
    rejected, said, passed = evidence.rejected(), [], True
    for filling in evidence.fillings:
        column = filling.column
        rows = table.count_rows(scope)
        without = table.count_rows(in_scope(f"`{column.name}` IS NULL", scope))
        open_rows = table.count_rows(in_scope(f"`{column.fingerprint}` IS NULL", scope))
        said.append(f"`{column.name}`: {rows - without:,} of {rows:,} rows have a vector")
        if open_rows > rejected:
            passed = False
            said[-1] += f"; {open_rows - rejected:,} have none and were not rejected: run the same command again"
        elif without:
            said[-1] += ", the others are rejected or have nothing to embed"
    return Verdict("coverage", passed, "; ".join(said))


def in_scope(condition: str, scope: str | None) -> str:
    """A SQL condition, for the rows that pass a filter."""
    return f"{condition} AND ({scope})" if scope else condition


def sound_vectors(evidence: Evidence) -> Verdict:
    """The vectors, read back from the table, are finite and of norm 1 within 1e-3."""
    fragments, calls = list(evidence.fragments), []
    for start in range(0, len(fragments), AT_ONCE):
        for filling in evidence.fillings:
            calls.append((evidence.version, fragments[start : start + AT_ONCE], filling.column.name))
    looked = evidence.on_workers(look_at_vectors, calls) if calls else []
    rows, unsound = sum(each[0] for each in looked), sum(each[1] for each in looked)
    message = f"{unsound:,} of {rows:,} vectors are not finite or not of norm 1"
    if not unsound:
        return Verdict("vectors", True, message)
    example = next(each[2] for each in looked if each[1])
    cure = "Set them to null together with their fingerprints, and run the same command again"
    return Verdict("vectors", False, f"{message}, such as that at row address {example}. {cure}")


def look_at_vectors(table: TableVersion, fragments: list[int], column: str) -> tuple[int, int, int]:
    """How many vectors some fragments have, how many of them are unsound, and the address of one of these."""
    dataset, rows, unsound, example = table.open(), 0, 0, -1
    chosen = [each for each in dataset.get_fragments() if each.fragment_id in set(fragments)]
    for batch in dataset.scanner(columns=[column], fragments=chosen, with_row_address=True, **SCAN).to_batches():
        found = batch.filter(batch.column(column).is_valid())
        bad = off_norm(found.column(column))[0]
        rows, unsound = rows + len(found), unsound + len(bad)
        if len(bad) and example < 0:
            example = found.column(ADDRESS)[int(bad[0])].as_py()
    return rows, unsound, example


def canary(evidence: Evidence) -> Verdict:
    """The cosine of 16 random vectors to those of the reference path is at least 0.999."""
    written = evidence.counts.written
    calls = [
        (evidence.rows.at(evidence.table.version), evidence.rules, filling, settings, list(evidence.fragments))
        for filling, settings in zip(evidence.fillings, evidence.settings, strict=True)
    ]
    looked = evidence.on_workers(encoded_again, [(Again(*call),) for call in calls]) if evidence.fragments else []
    cosines = {key: value for each in looked for key, value in each.items()}
    if not cosines:
        nothing = "no row has the content that its vector was made of"
        return Verdict("canary", not written, nothing if written else "nothing was written")
    worst = min(cosines, key=lambda key: cosines[key])
    message = f"{len(cosines)} vectors compared with float32, one by one: smallest cosine {cosines[worst]:.5f}"
    if cosines[worst] >= COSINE:
        return Verdict("canary", True, message)
    cure = "Find out why, remove the column by `vista drop-column`, and fill it again"
    return Verdict("canary", False, f"{message} ({worst}), less than {COSINE}: the encoder gave another vector. {cure}")


@dataclass(frozen=True)
class Again:
    """What a worker needs to encode some rows of a column again."""

    rows: TableRows
    rules: FetchRules
    filling: Filling
    settings: EncoderSettings
    fragments: list[int]


def encoded_again(again: Again) -> dict[str, float]:
    """Of some random rows that have a vector: its cosine to what the reference path gives, by column and address."""
    column, table = again.filling.column, lance.dataset(again.rows.uri, version=again.rows.version)
    stored, tables = dict[str, np.ndarray](), list[pa.Table]()
    by_number = {each.fragment_id: each for each in table.get_fragments()}
    for fragment, row in random_rows(table, again.fragments):
        if len(tables) == ROWS:
            break
        unit = Rows(uris=(again.rows.uri,), version=str(table.version), rows=1, first_row=row, fragment=fragment)
        whole = dataclasses.replace(again.rows, where=None)
        found = table.scanner([column.name], limit=1, offset=row, fragments=[by_number[fragment]])
        [vector] = found.to_table()[column.name].to_pylist()
        for records, rejects in whole.read(unit):
            identified = identify(records, rejects, again.rules)
            fingerprints = content_fingerprints(*identified)
            records, bad = identified[0], identified[1]
            if vector is None or bad or fingerprints[0] != records[column.fingerprint][0]:
                continue
            key = f"`{column.name}`, row {fragment}/{row}"
            tables.append(prepared(records, fingerprints, key, again))
            stored[key] = np.array(vector, np.float32)
    vectors = encode_alone(tables, again.settings) if tables else {}
    return {key: cosine(stored[key], vector) for key, vector in vectors.items()}


def prepared(records: pa.Table, fingerprints: pa.Array, key: str, again: Again) -> pa.Table:
    """A record as the reference path takes it: decoded exactly, under the id `key`."""
    for field in FLOW_FIELDS:
        values = fingerprints if field.name == FINGERPRINT else pa.nulls(len(records), field.type)
        records = records.append_column(field, values)
    records = replace_column(with_rejects(records, {}), ID, pa.array([key] * len(records)))
    exact = dataclasses.replace(again.settings, resize="exact")
    return decode(fetch(records, again.rules), exact, store_images=False)


def random_rows(table: lance.LanceDataset, fragments: Sequence[int]) -> list[tuple[int, int]]:
    """Some random rows, each as its fragment and its number among the rows that are there."""
    random = np.random.default_rng()
    present = [each for each in table.get_fragments() if each.fragment_id in set(fragments)]
    counts = np.array([each.count_rows() for each in present], np.int64)
    if not counts.sum():
        return []
    ends = np.cumsum(counts)
    chosen = np.unique(random.integers(0, ends[-1], TRIED))
    random.shuffle(chosen)
    at = np.searchsorted(ends, chosen, side="right")
    rows = chosen - (ends[at] - counts[at])
    return [(present[number].fragment_id, int(row)) for number, row in zip(at.tolist(), rows.tolist(), strict=True)]


GATES: Final[tuple[Gate, ...]] = (conservation, reject_rate, one_encoder, coverage, sound_vectors, canary)
