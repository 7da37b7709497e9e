"""Gates: what must hold of a table before it is published. A gate is a function that returns a verdict.

They judge the candidate against the version that is published, whichever run wrote what differs: rows of a run that
failed a gate are judged again by the next.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import lance
import pyarrow as pa

from pipelines.records import ID, RUN, VECTOR
from pipelines.sink.commit import Counts
from pipelines.sink.fragments import off_norm
from pipelines.sink.lease import holder_of
from pipelines.sink.table import SCAN, quoted, since, stored_identity
from vista_core import EncoderIdentity

MEMORY = "512MB"  # of the search for doubled ids; beyond it, it goes to disk
EXAMPLES = 3


@dataclass(frozen=True)
class Verdict:
    """Whether a gate let the run through, and the figures it judged by."""

    gate: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Candidate:
    """The version that is to be published, and the one that is."""

    table: lance.LanceDataset
    published: lance.LanceDataset | None
    identity: EncoderIdentity

    @cached_property
    def fresh(self) -> list[lance.LanceFragment]:
        """The fragments that the published version doesn't have: all rows that differ from it are in them."""
        before = {} if self.published is None else {each.fragment_id: each for each in self.published.get_fragments()}
        return [
            each
            for each in self.table.get_fragments()
            if each.fragment_id not in before or files(each) != files(before[each.fragment_id])
        ]

    @property
    def new_rows(self) -> str:
        """SQL: which rows of the fresh fragments the published version lacks; compaction moves old ones there."""
        if self.published is None:
            return "true"
        holder = holder_of(self.published)
        return f"{RUN} > {quoted(holder.run if holder else '')}"


def files(fragment: lance.LanceFragment) -> list[str]:
    """The data files of a fragment; a deletion vector doesn't change them."""
    return [file.path for file in fragment.metadata.files]


def conservation(counts: Counts) -> Verdict:
    """Every row read is accounted for: read = written + rewritten + unchanged + rejected."""
    message = (
        f"read {counts.read:,} = written {counts.written:,} + rewritten {counts.rewritten:,} "
        f"+ unchanged {counts.unchanged:,} + rejected {counts.rejected:,}"
    )
    if counts.read == counts.settled:
        return Verdict("conservation", True, message)
    return Verdict("conservation", False, message.replace(" = ", " != ", 1))


def unique_ids(candidate: Candidate) -> Verdict:
    """No id is there twice. Only fresh rows can have brought one: the published version passed this gate, too."""
    rows, total = sum(each.count_rows() for each in candidate.fresh), candidate.table.count_rows()
    doubled = doubled_ids(candidate, only_fresh=rows < total) if rows else []
    if doubled:
        examples = ", ".join(f"{key!r} {times} times" for key, times in doubled)
        return Verdict("unique ids", False, f"ids are in the table more than once, such as {examples}")
    return Verdict("unique ids", True, f"{rows:,} fresh rows among {total:,}")


def doubled_ids(candidate: Candidate, only_fresh: bool) -> list[tuple[str, int]]:
    """Some ids that are there more than once, and how often. Memory is bounded: DuckDB sorts out the rest on disk."""
    every = candidate.table.scanner(columns=[ID], **SCAN).to_reader()
    fresh = candidate.table.scanner(columns=[ID], fragments=candidate.fresh, **SCAN).to_reader()
    among = f"WHERE {ID} IN (SELECT {ID} FROM fresh)" if only_fresh else ""
    query = f"SELECT {ID}, count(*) AS times FROM every {among} GROUP BY {ID} HAVING times > 1 LIMIT {EXAMPLES}"
    with tempfile.TemporaryDirectory() as spilled:
        options: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": spilled, "preserve_insertion_order": False}
        with duckdb.connect(config=options) as connection:
            connection.register("every", every)
            connection.register("fresh", fresh)
            return connection.execute(query).fetchall()


def sound_vectors(candidate: Candidate) -> Verdict:
    """The fresh vectors, as they are stored, are finite and of norm 1 within 1e-3."""
    rows = bad = 0
    scanner = candidate.table.scanner(columns=[VECTOR], fragments=candidate.fresh, **SCAN)
    for batch in scanner.to_batches() if candidate.fresh else ():
        vectors = batch.column(VECTOR)
        rows, bad = rows + len(batch), bad + vectors.null_count + len(off_norm(vectors.drop_null())[0])
    return Verdict("vectors", not bad, f"{bad:,} of {rows:,} fresh vectors are not finite or not of norm 1")


def one_encoder(candidate: Candidate) -> Verdict:
    """All vectors are of the encoder that the column names, in the column's type."""
    table, identity = candidate.table, candidate.identity
    differences = stored_identity(table).differences(identity)
    kind, expected = table.schema.field(VECTOR).type, pa.list_(pa.float16(), identity.dimension)
    if kind != expected:
        differences.append(f"vectors are {kind}, not {expected}")
    began = since(table.schema)
    published = None if candidate.published is None else since(candidate.published.schema)
    left = table.count_rows(f"{RUN} < {quoted(began)}") if began and began != published else 0
    if left:
        differences.append(
            f"{left:,} rows still have the vectors of another encoder: their records were not read, since they are "
            "no longer in the source (--delete-missing removes them), were rejected, or are another source's"
        )
    return Verdict("one encoder", not differences, "; ".join(differences) or f"{identity.model}, {identity.dtype}")


def judge(candidate: Candidate) -> list[Verdict]:
    """The gates that look at the table alone."""
    return [unique_ids(candidate), sound_vectors(candidate), one_encoder(candidate)]
