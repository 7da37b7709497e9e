"""On a worker: decide which rows of a bundle enter the table, and write them as fragments that no reader sees yet.

Everything is decided against one version of the table, and the driver commits only on top of that version; whatever
is committed in between sends the bundle here again. A task that dies leaves orphaned files, nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import write_fragments
from pyroaring import BitMap64

from pipelines.batch_stats import SECONDS, WORK, BatchStats, added_amounts, measured, split_stats
from pipelines.ingest.manifest import FileStats, RowChecksum, add_up, checksums_of
from pipelines.ingest.pictured import pictured
from pipelines.ingest.resolve import Incoming, Known, Resolution, StoredRow, duplicate, resolve
from pipelines.ingest.stored_values import CopiedFrom, table_rows, with_stored_values
from pipelines.reasons import BAD_VECTOR, DUPLICATE_ID, OBJECT_UNREADABLE, REASONS, REPEATED_CONTENT, Reject
from pipelines.records import (
    ID,
    MESSAGE,
    OBJECT,
    REASON,
    REJECT_SCHEMA,
    ROW,
    RUN,
    STAGE,
    VECTOR,
    Misfits,
    Pictured,
    embeddable,
    replace_column,
    slot_name,
    with_rejects,
)
from pipelines.storage.uris import redacted_text
from pipelines.tables.dataset import ADDRESS, TableVersion
from pipelines.tables.transactions import to_json
from pipelines.tables.vector_column import VectorColumn

NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Bundle:
    """What a worker is told about the table that a bundle goes to."""

    table: TableVersion  # the bundle is resolved against it, and committed on top of it
    base: TableVersion  # the version at the start of the run, against which its records were selected
    column: VectorColumn  # of the first slot
    rejects_uri: str
    run: str
    accounted: bytes  # BitMap64: rows of the base version that earlier bundles account for
    keep_stale: bool = False  # True if a row stays whose record was rejected
    has_ids: bool = True  # False if hashes of the content are the ids
    # Ids whose rows a `Replacement` of this bundle has committed already, each with the file of an earlier record of
    # this run that had the id before.
    already_replaced: Mapping[str, str | None] = field(default_factory=dict)
    others: tuple[VectorColumn, ...] = ()  # of the other slots

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """The vector columns that the run fills, by slot."""
        return (self.column, *self.others)


@dataclass(frozen=True)
class Replacement:
    """What must be committed before a bundle can be: rows that replace everything that some fragments still hold."""

    emptied: list[int]  # ids of those fragments
    fragments: list[str]  # new ones, with exactly the ids that those held
    earlier_owners: Mapping[str, str | None]  # by id of theirs: file of an earlier record of this run that had the id
    deleted: int = 0  # missing rows among those that the fragments held


@dataclass(frozen=True)
class Written:
    """The outcome of a bundle: what the driver needs to commit it. It has no rows: bitmaps, counts and metadata."""

    accounted: bytes  # BitMap64: rows of the base version that bundles up to this one account for
    retained: bytes  # BitMap64: rows of the base version that stay although their record was rejected
    written: int = 0
    rewritten: int = 0
    unchanged: int = 0
    removed: int = 0  # rows of the table whose record was rejected
    deleted: int = 0  # rows of the table whose record is missing
    reasons: Counter[str] = field(default_factory=Counter)  # rejected records by reason
    stats: Mapping[str, FileStats] = field(default_factory=dict)  # by source file
    fragments: Sequence[str] = ()  # new fragments
    changed: Sequence[str] = ()  # fragments that lose rows
    rejects: Sequence[str] = ()  # new fragments of NAME_rejects
    misfits: Sequence[Misfits] = ()  # values that don't fit their column
    warnings: Sequence[str] = ()  # log messages of the workers
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage
    work: Mapping[str, float] = field(default_factory=dict)  # of the encoders
    pictures: Sequence[Pictured] = ()

    @property
    def read(self) -> int:
        """Records read."""
        return sum(each.read for each in self.stats.values())


def write_bundle(bundle: Bundle, *blocks: pa.Table) -> Written | Replacement:
    """Resolve `blocks`, write their fragments, and say what to commit."""
    began, arrived = time.perf_counter(), pa.concat_tables(blocks, promote_options="default")
    records, stats = split_stats(arrived)
    accounted = BitMap64.deserialize(bundle.accounted)
    before = len(accounted)
    duplicates = account_for_unchanged(stats, bundle, accounted)
    unchanged = len(accounted) - before

    records = with_rejects(records, check_vectors(records, bundle.columns))
    resolution = resolve(incoming(records), known(records, bundle), accounted, bundle.keep_stale)
    records = with_rejects(records, resolution.rejects)
    entering = records.filter(pc.is_null(records[REASON]))
    copied_from = CopiedFrom(bundle.base, bundle.table, bundle.columns)
    rows = with_stored_values(table_rows(entering, copied_from, bundle.run), entering, copied_from)
    rewritten = embeddable(entering).count(False)
    rejects = reject_rows(records, [*duplicates, *resolution.superseded_rejects], bundle)
    by_file = add_up(counted_stats(stats), outcomes(records, rejects), held(rows, bundle.column))
    committed = pa.array([key in bundle.already_replaced for key in rows[ID].to_pylist()], pa.bool_())
    written, rows = len(rows) - rewritten, rows.filter(pc.invert(committed))
    leaving = [*resolution.replaced.values(), *resolution.removed.values()]
    changed, emptied = delete_rows(bundle.table.open(), leaving)
    if emptied:
        return replacement(rows, resolution, emptied, bundle)
    resolution.accounted.run_optimize()
    return Written(
        accounted=resolution.accounted.serialize(),
        retained=resolution.retained.serialize(),
        written=written - resolution.superseded_written,
        rewritten=rewritten,
        unchanged=unchanged - resolution.superseded_unchanged,
        removed=resolution.removed_rows,
        reasons=Counter(rejects["reason"].to_pylist()),
        stats=by_file,
        fragments=write(rows, bundle.table.uri),
        changed=changed,
        rejects=write(rejects, bundle.rejects_uri),
        misfits=[misfits for each in stats for misfits in each.misfits],
        warnings=[warning for each in stats for warning in each.warnings],
        pictures=pictured(records),
        seconds=added_amounts(measured(arrived, SECONDS), {"write": time.perf_counter() - began}),
        work=measured(arrived, WORK),
    )


def account_for_unchanged(stats: list[BatchStats], bundle: Bundle, accounted: BitMap64) -> list[dict]:
    """Add the unchanged rows to `accounted`; a row that is there already belongs to a duplicate, which is rejected."""
    twice = []
    for each in stats:
        addresses = BitMap64(each.unchanged_addresses)
        if len(addresses) < len(each.unchanged_addresses) or not addresses.isdisjoint(accounted):
            parallel = (each.unchanged_addresses, each.unchanged_rows, each.unchanged_files)
            for address, row, at in zip(*parallel, strict=True):
                if address in accounted:
                    twice.append((address, {"object": each.files[at].file, "row": row}))
                accounted.add(address)
        accounted.update(addresses)
    if not twice:
        return []
    ids = {row[ADDRESS]: row[ID] for row in bundle.base.at([address for address, _ in twice], [ID]).to_pylist()}
    owners = {row[ID]: row[OBJECT] for row in bundle.table.find([*ids.values()], [OBJECT]).to_pylist()}
    return [
        row | {"id": ids[address]} | vars(duplicate(ids[address], owners.get(ids[address], "another file")))
        for address, row in twice
    ]


def incoming(records: pa.Table) -> list[Incoming]:
    """The records that have an id."""
    columns = (records[name].to_pylist() for name in (ID, OBJECT, REASON))
    return [Incoming(row, *values) for row, values in enumerate(zip(*columns, strict=True)) if values[0] is not None]


def known(records: pa.Table, bundle: Bundle) -> Known:
    """What the table has of the ids of `records`."""
    ids, reasons = records[ID].to_pylist(), records[REASON].to_pylist()
    latest = stored_rows(bundle.table.find_each([key for key in ids if key is not None], [RUN, OBJECT]))
    # The table may have been compacted since: `accounted` holds addresses of the version at the start of the run.
    foreign = {key for key, row in latest.items() if row.run != bundle.run}
    rejected = {key for key, reason in zip(ids, reasons, strict=True) if key is not None and reason is not None}
    base = stored_rows(bundle.base.find_each([*{*foreign, *bundle.already_replaced, *rejected}], [OBJECT]))
    return Known(latest, base, bundle.already_replaced, bundle.run)


def stored_rows(rows: pa.Table) -> dict[str, StoredRow]:
    """Rows of the table by id."""
    return {row[ID]: StoredRow(row[ADDRESS], row[OBJECT], row.get(RUN)) for row in rows.to_pylist()}


def check_vectors(records: pa.Table, columns: Sequence[VectorColumn]) -> dict[int, Reject]:
    """Vectors that are not finite or not of norm 1 (within 1e-3) never reach the table."""
    found: dict[int, Reject] = {}
    for slot, column in enumerate(columns):
        encoded = embeddable(records, slot)
        which = f" for the column `{column.name}`" if len(columns) > 1 else ""
        rows, norms = off_norm(records[slot_name(VECTOR, slot)].combine_chunks())
        for row, norm in zip(rows.tolist(), norms, strict=True):
            if encoded[row]:
                found.setdefault(row, BAD_VECTOR.reject(f"the vector's norm{which} is {norm}, not 1"))
    return found


def off_norm(vectors: pa.FixedSizeListArray) -> tuple[np.ndarray, np.ndarray]:
    """Which of some vectors, none of them null, are not finite or not of norm 1 within 1e-3; and their norms."""
    values = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    norms = np.linalg.norm(values.reshape(len(vectors), vectors.type.list_size), axis=1)
    rows = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # true for NaN, too
    return rows, norms[rows]


def replacement(rows: pa.Table, resolution: Resolution, emptied: list[int], bundle: Bundle) -> Replacement:
    """The rows that replace those of the `emptied` fragments, written; rows that are only removed have none."""
    ids = [key for key, address in resolution.replaced.items() if address >> 32 in emptied]
    replacing = rows.filter(pc.is_in(rows[ID], value_set=pa.array(ids, pa.string())))
    return Replacement(
        emptied, write(replacing, bundle.table.uri), {key: resolution.superseded.get(key) for key in ids}
    )


def counted_stats(stats: list[BatchStats]) -> dict[str, FileStats]:
    """By file, what select counted."""
    parts: list[dict[str, FileStats]] = []
    for each in stats:
        for file in each.files:
            held = RowChecksum(file.unchanged, file.checksum)
            counts = FileStats(read=file.read, resolved=file.unchanged, deferred=file.deferred, held=held)
            parts.append({file.file: counts})
        parts += [{file: FileStats(ended=1)} for file in each.ended]
    return add_up(*parts)


def outcomes(records: pa.Table, rejects: pa.Table) -> dict[str, FileStats]:
    """By file, the records of a bundle whose outcome is known now, and the rejected ones."""
    resolved = {file: FileStats(resolved=number) for file, number in Counter(records[OBJECT].to_pylist()).items()}
    pairs = Counter(zip(rejects["object"].to_pylist(), rejects["reason"].to_pylist(), strict=True))
    rejected = [
        {
            file: FileStats(
                rejected=number,
                retryable=REASONS[reason].retryable,
                unreadable=reason == OBJECT_UNREADABLE.name,
            )
        }
        for (file, reason), number in pairs.items()
    ]
    return add_up(resolved, *rejected)


def held(rows: pa.Table, column: VectorColumn) -> dict[str, FileStats]:
    """By file, the rows of the table that came of its records."""
    return {file: FileStats(held=rows) for file, rows in checksums_of(rows, column.fingerprint).items()}


def reject_rows(records: pa.Table, others: list[dict], bundle: Bundle) -> pa.Table:
    """The rejected ones of `records`, and others, in the schema of `NAME_rejects`.

    Where hashes of the content are the ids, a duplicate id is content that is repeated.
    """
    records = records.filter(pc.is_valid(records[REASON]))
    names = {"id": ID, "object": OBJECT, "row": ROW, "stage": STAGE, "reason": REASON, "message": MESSAGE}
    columns = [records[names[f.name]] if f.name in names else pa.nulls(len(records), f.type) for f in REJECT_SCHEMA]
    rejects = pa.concat_tables([pa.table(columns, schema=REJECT_SCHEMA), pa.Table.from_pylist(others, REJECT_SCHEMA)])
    # Whatever a parser or a client said: signed URIs and passwords of the catalog don't belong into a message.
    messages = [message and redacted_text(message) for message in rejects["message"].to_pylist()]
    rejects = replace_column(rejects, "message", pa.array(messages, pa.string()))
    if not bundle.has_ids:
        repeated = pc.equal(rejects["reason"], DUPLICATE_ID.name)
        rejects = replace_column(rejects, "reason", pc.if_else(repeated, REPEATED_CONTENT.name, rejects["reason"]))
    return replace_column(rejects, "run", pa.repeat(bundle.run, len(rejects)))


def write(rows: pa.Table, uri: str) -> list[str]:
    """Fragments that hold `rows`, uncommitted."""
    if not len(rows):
        return []
    return to_json(write_fragments(rows, uri, schema=rows.schema, mode="append"))


def delete_rows(dataset: lance.LanceDataset, addresses: Iterable[int]) -> tuple[list[str], list[int]]:
    """Deletion vectors for `addresses`: the fragments that lose rows, and the ids of those that would be emptied."""
    by_fragment: dict[int, list[int]] = {}
    for address in addresses:
        by_fragment.setdefault(address >> 32, []).append(address & 0xFFFFFFFF)
    changed, emptied = [], []
    for fragment_id, offsets in by_fragment.items():
        fragment = dataset.get_fragment(fragment_id)
        assert fragment is not None, f"fragment {fragment_id} was looked up in this very version"
        remaining = fragment.delete_rows(offsets)
        if remaining is None:
            emptied.append(fragment_id)
        else:
            changed.append(remaining)
    return to_json(changed), emptied
