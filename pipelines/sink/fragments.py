"""On a worker: settle which rows of a bundle enter the table, and write them as fragments that nobody sees yet.

Everything here is decided against one version of the table, and the driver commits only on top of that very
version; whatever comes between sends the bundle here again. A task that dies leaves orphaned files, nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import write_fragments
from pyroaring import BitMap64

from pipelines.records import (
    HAS_VECTOR,
    ID,
    IMAGE,
    MESSAGE,
    MODALITY,
    OBJECT,
    REASON,
    REJECT_SCHEMA,
    ROW,
    RUN,
    STAGE,
    TALLY,
    TRUNCATED,
    VECTOR,
    Reject,
    alive,
    replace_column,
    with_rejects,
)
from pipelines.sink.table import TableVersion, fragments_json

NORM_TOLERANCE = 1e-3
PASSING = (
    "object_unreadable",
    "fetch_timeout",
    "fetch_failed",
    "fetch_forbidden",
    "uri_not_allowed",
)  # by the fault of others than the record
NOT_OF_THE_SOURCE = {VECTOR, IMAGE, MODALITY, TRUNCATED}  # as the encoder saw the record


@dataclass(frozen=True)
class Refill:
    """What must be committed before a bundle can be: rows that replace all that some fragments still hold."""

    emptied: list[int]  # ids of those fragments
    fragments: list[str]  # new ones, with exactly the ids that those held
    addresses: dict[str, int | None]  # by id, where the base version has the row that is replaced, if it does


@dataclass(frozen=True)
class Written:
    """What became of a bundle: everything the driver needs to commit it, and nothing that grows with its rows."""

    read: int
    written: int
    rewritten: int
    unchanged: int
    removed: int  # rows of the table whose record turned bad
    reasons: Counter[str]  # rejected rows by reason
    matched: bytes  # BitMap64: rows of the base version that this bundle accounts for
    fragments: list[str] = field(default_factory=list)  # new fragments
    shrunk: list[str] = field(default_factory=list)  # fragments that lose replaced rows
    rejects: list[str] = field(default_factory=list)  # new fragments of NAME_rejects


@dataclass(frozen=True)
class Bundle:
    """What a worker is told about the table that a bundle goes to."""

    table: TableVersion  # what it is settled against
    base: TableVersion  # what its records were selected against: the version at the start of the run
    rejects_uri: str
    run: str
    matched: bytes  # BitMap64: rows of the base version that earlier bundles accounted for
    keep_stale: bool = False  # whether a row stays whose record turned bad
    refilled: dict[str, int | None] = field(default_factory=dict)  # rows of this bundle that refills committed already


def write_bundle(bundle: Bundle, *blocks: pa.Table) -> Written | Refill:
    """Settle `blocks`, write their fragments, and say what to commit."""
    rows = pa.concat_tables(blocks, promote_options="default")
    is_tally = pc.is_valid(rows[TALLY])
    records, tallies = rows.filter(pc.invert(is_tally)), rows.filter(is_tally)
    matched = BitMap64.deserialize(bundle.matched)
    before = len(matched)

    read, twice = settle_unchanged(tallies, bundle.base, matched)
    unchanged = len(matched) - before
    records, settled = settle_records(with_rejects(records, check_vectors(records)), bundle, matched)
    good = pc.is_null(records[REASON])
    good_records = records.filter(good)
    fresh = with_copied_vectors(table_rows(good_records, bundle), good_records, bundle.base)
    rewritten = pc.sum(pc.fill_null(good_records[HAS_VECTOR], False)).as_py() or 0
    done = pa.array([key in bundle.refilled for key in fresh[ID].to_pylist()], pa.bool_())
    fresh, already = fresh.filter(pc.invert(done)), pc.sum(done).as_py() or 0
    shrunk, emptied = delete_rows(bundle.table.open(), [*settled.replaced.values(), *settled.removed.values()])
    if emptied:
        return refill(fresh, settled, emptied, bundle)
    rejects = pa.concat_tables([twice, reject_rows(records.filter(pc.invert(good)))])
    rejects = rejects.set_column(rejects.schema.get_field_index("run"), "run", pa.repeat(bundle.run, len(rejects)))
    matched.run_optimize()
    return Written(
        read=read,
        written=len(fresh) + already - rewritten,
        rewritten=rewritten,
        unchanged=unchanged,
        removed=settled.turned_bad,
        reasons=Counter(rejects["reason"].to_pylist()),
        matched=matched.serialize(),
        fragments=write(fresh, bundle.table.uri),
        shrunk=shrunk,
        rejects=write(rejects, bundle.rejects_uri),
    )


def with_copied_vectors(rows: pa.Table, records: pa.Table, base: TableVersion) -> pa.Table:
    """`rows` of the table for `records`; where a record has its vector already, all that isn't its own is copied."""
    copied = pc.fill_null(records[HAS_VECTOR], False)
    if not pc.any(copied).as_py():
        return rows
    new, old = rows.filter(pc.invert(copied)), rows.filter(copied)
    of_the_record = {*records.column_names, RUN} - NOT_OF_THE_SOURCE
    names = [name for name in rows.column_names if name not in of_the_record]
    stored = base.rows(old[ID].to_pylist(), names)
    for name in names:
        old = replace_column(old, name, stored[name])
    return pa.concat_tables([new, old.cast(rows.schema)])


def refill(fresh: pa.Table, settled: Settled, emptied: list[int], bundle: Bundle) -> Refill:
    """The rows of `fresh` that replace those of the `emptied` fragments, written; rows that turned bad have none."""
    ids = [key for key, address in settled.replaced.items() if address >> 32 in emptied]
    rows = fresh.filter(pc.is_in(fresh[ID], value_set=pa.array(ids, pa.string())))
    return Refill(emptied, write(rows, bundle.table.uri), {key: settled.base.get(key) for key in ids})


def settle_unchanged(tallies: pa.Table, base: TableVersion, matched: BitMap64) -> tuple[int, pa.Table]:
    """Add the unchanged rows to `matched`; those that it holds already are second records of one id: rejects."""
    read, twice = 0, []
    for source_object, tally in zip(tallies[OBJECT].to_pylist(), tallies[TALLY].to_pylist(), strict=True):
        read += tally["read"]
        for address, row in zip(tally["unchanged_addresses"], tally["unchanged_rows"], strict=True):
            if address in matched:
                twice.append({"_address": address, "object": source_object, "row": row})
            matched.add(address)
    if not twice:
        return read, REJECT_SCHEMA.empty_table()
    ids = base.ids_at([row["_address"] for row in twice])
    rejects = [row | {"id": ids[row["_address"]]} | duplicate(ids[row["_address"]]).__dict__ for row in twice]
    return read, pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA)


def duplicate(key: str) -> Reject:
    """The reason of a second record with one id."""
    return Reject("write", "duplicate_id", f"another record of this run has the id {key!r}")


@dataclass(frozen=True)
class Settled:
    """Addresses, by id, of rows of the table that leave it."""

    replaced: dict[str, int]  # by a record
    base: dict[str, int]  # where the base version has those, and others that the bundle's records are about
    removed: dict[str, int]  # since their record turned bad
    turned_bad: int  # such rows of the base version, of which a refill may have removed some already


def settle_records(records: pa.Table, bundle: Bundle, matched: BitMap64) -> tuple[pa.Table, Settled]:
    """Reject second records of an id; of the rest, say which rows of the table they replace or, if bad, remove."""
    ids, reasons = records[ID].to_pylist(), records[REASON].to_pylist()
    known = bundle.table.lookup([key for key in ids if key is not None])
    bad = [] if bundle.keep_stale else turned_bad(records)
    foreign = [key for key, present in known.items() if present.run != bundle.run]
    # Somebody may have compacted the table since: `matched` holds the addresses of the version the run began with.
    base = {key: present.address for key, present in bundle.base.lookup([*{*foreign, *bad}]).items()}
    base |= {key: address for key, address in bundle.refilled.items() if address is not None}
    taken: set[str] = set()
    replaced: dict[str, int] = {}
    rejects: dict[int, Reject] = {}
    for row, (key, reason) in enumerate(zip(ids, reasons, strict=True)):
        if reason is not None:
            continue
        ours = key in known and known[key].run == bundle.run and key not in bundle.refilled
        if key in taken or ours or (key in base and base[key] in matched):
            rejects[row] = duplicate(key)
            continue
        taken.add(key)
        if key in base:
            matched.add(base[key])
        if key in known and key not in bundle.refilled:
            replaced[key] = known[key].address
    # Another record of the same id may be good, in this bundle or in one before: then the row is that record's.
    gone = {key for key in bad if key in base and key not in taken and base[key] not in matched}
    matched.update(base[key] for key in gone)
    removed = {key: known[key].address for key in gone if key in known}
    return with_rejects(records, rejects), Settled(replaced, base, removed, len(gone))


def turned_bad(records: pa.Table) -> list[str]:
    """The ids of rejected records, but for those that may be read another time: nothing is known of their content."""
    columns = (records[name].to_pylist() for name in (ID, REASON))
    return [key for key, reason in zip(*columns, strict=True) if key is not None and reason not in (None, *PASSING)]


def check_vectors(records: pa.Table) -> dict[int, Reject]:
    """Vectors that are not finite or not of norm 1 (within 1e-3) never reach the table."""
    vectors = records[VECTOR].combine_chunks()
    values = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    matrix = values.reshape(len(records), vectors.type.list_size)
    norms = np.linalg.norm(matrix, axis=1)
    bad = ~(np.abs(norms - 1) <= NORM_TOLERANCE)  # a NaN is bad too
    live = alive(records)
    return {
        int(row): Reject("encode", "bad_vector", f"the vector's norm is {norms[row]}, not 1")
        for row in np.flatnonzero(bad)
        if live[row]
    }


def reject_rows(records: pa.Table) -> pa.Table:
    """Rejected records in the schema of `NAME_rejects`."""
    names = {"id": ID, "object": OBJECT, "row": ROW, "stage": STAGE, "reason": REASON, "message": MESSAGE}
    columns = [records[names[f.name]] if f.name in names else pa.nulls(len(records), f.type) for f in REJECT_SCHEMA]
    return pa.table(columns, schema=REJECT_SCHEMA)


def table_rows(records: pa.Table, bundle: Bundle) -> pa.Table:
    """Records in the table's own schema; a column that only the table has is null."""
    schema = bundle.table.open().schema
    columns = []
    for column in schema:
        if column.name == RUN:
            columns.append(pa.repeat(bundle.run, len(records)))
        elif column.name in records.column_names:
            columns.append(records[column.name].cast(column.type))
        else:
            columns.append(pa.nulls(len(records), column.type))
    return pa.table(columns, schema=schema)


def write(rows: pa.Table, uri: str) -> list[str]:
    """Fragments that hold `rows`, uncommitted."""
    if not len(rows):
        return []
    return fragments_json(write_fragments(rows, uri, schema=rows.schema, mode="append"))


def delete_rows(dataset: lance.LanceDataset, addresses: Iterable[int]) -> tuple[list[str], list[int]]:
    """Deletion vectors for `addresses`: the fragments that shrink, and the ids of those that would be emptied."""
    by_fragment: dict[int, list[int]] = {}
    for address in addresses:
        by_fragment.setdefault(address >> 32, []).append(address & 0xFFFFFFFF)
    shrunk, emptied = [], []
    for fragment_id, offsets in by_fragment.items():
        fragment = dataset.get_fragment(fragment_id)
        assert fragment is not None, f"fragment {fragment_id} was looked up in this very version"
        remaining = fragment.delete_rows(offsets)
        if remaining is None:
            emptied.append(fragment_id)
        else:
            shrunk.append(remaining)
    return fragments_json(shrunk), emptied
