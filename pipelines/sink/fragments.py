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
    FINGERPRINT,
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
    row_digests,
    with_rejects,
)
from pipelines.sink.read_objects import Share
from pipelines.sink.table import ADDRESS, TableVersion, fragments_json

NORM_TOLERANCE = 1e-3
# By the fault of others than the record: nothing is known of its content, and a later run may read it.
PASSING = ("object_unreadable", "fetch_timeout", "fetch_failed", "fetch_forbidden", "uri_not_allowed")
# What a later run may find otherwise although the object is as it was.
NOT_LASTING = {*PASSING, "fetch_not_found", "fetch_too_large", "uri_invalid", "bad_vector", "duplicate_id"}
NOT_OF_THE_SOURCE = {VECTOR, IMAGE, MODALITY, TRUNCATED}  # as the encoder saw the record


@dataclass(frozen=True)
class Refill:
    """What must be committed before a bundle can be: rows that replace all that some fragments still hold."""

    emptied: list[int]  # ids of those fragments
    fragments: list[str]  # new ones, with exactly the ids that those held
    displaced: dict[str, str | None]  # by id of theirs: object of an earlier record of this run that had the id before


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
    named: bytes  # BitMap64: rows of the base version that stay although their record is rejected
    shares: dict[str, Share] = field(default_factory=dict)  # by source object
    fragments: list[str] = field(default_factory=list)  # new fragments
    shrunk: list[str] = field(default_factory=list)  # fragments that lose replaced rows
    rejects: list[str] = field(default_factory=list)  # new fragments of NAME_rejects

    @classmethod
    def deleting(cls, bundle: Bundle, shrunk: list[str]) -> Written:
        """A commit that only takes rows out of the table."""
        return cls(0, 0, 0, 0, 0, Counter(), bundle.matched, BitMap64().serialize(), shrunk=shrunk)


@dataclass(frozen=True)
class Bundle:
    """What a worker is told about the table that a bundle goes to."""

    table: TableVersion  # what it is settled against
    base: TableVersion  # what its records were selected against: the version at the start of the run
    rejects_uri: str
    run: str
    matched: bytes  # BitMap64: rows of the base version that earlier bundles accounted for
    keep_stale: bool = False  # whether a row stays whose record turned bad
    refilled: dict[str, str | None] = field(default_factory=dict)  # rows of it that refills committed already


def write_bundle(bundle: Bundle, *blocks: pa.Table) -> Written | Refill:
    """Settle `blocks`, write their fragments, and say what to commit."""
    rows = pa.concat_tables(blocks, promote_options="default")
    is_tally = pc.is_valid(rows[TALLY])
    records, tallies = rows.filter(pc.invert(is_tally)), rows.filter(is_tally)[TALLY].to_pylist()
    matched = BitMap64.deserialize(bundle.matched)
    before = len(matched)

    twice = settle_unchanged(tallies, bundle.base, matched)
    unchanged = len(matched) - before
    records, settled = settle_records(with_rejects(records, check_vectors(records)), bundle, matched)
    good_records = records.filter(pc.is_null(records[REASON]))
    fresh = with_stored_values(table_rows(good_records, bundle), good_records, bundle.base)
    rewritten = pc.sum(pc.fill_null(good_records[HAS_VECTOR], False)).as_py() or 0
    rejects = reject_rows(records, [*twice, *settled.displaced_rejects], bundle.run)
    shares = shares_of(tallies, records, fresh, rejects)
    done = pa.array([key in bundle.refilled for key in fresh[ID].to_pylist()], pa.bool_())
    written, fresh = len(fresh) - rewritten, fresh.filter(pc.invert(done))
    shrunk, emptied = delete_rows(bundle.table.open(), [*settled.replaced.values(), *settled.removed.values()])
    if emptied:
        return refill(fresh, settled, emptied, bundle)
    matched.run_optimize()
    return Written(
        read=sum(share.read for share in shares.values()),
        written=written - settled.displaced_written,
        rewritten=rewritten,
        unchanged=unchanged - settled.displaced_unchanged,
        removed=settled.turned_bad,
        reasons=Counter(rejects["reason"].to_pylist()),
        matched=matched.serialize(),
        named=settled.named.serialize(),
        shares=shares,
        fragments=write(fresh, bundle.table.uri),
        shrunk=shrunk,
        rejects=write(rejects, bundle.rejects_uri),
    )


def with_stored_values(rows: pa.Table, records: pa.Table, base: TableVersion) -> pa.Table:
    """`rows` of the table for `records`; where the content is as it was, all that isn't the record's own is copied.

    That is the vector of a record that has one already, and in any case the columns that only the table has.
    """
    copied = pc.fill_null(records[HAS_VECTOR], False)
    only_of_the_table = [name for name in rows.column_names if name not in {*records.column_names, RUN}]
    if not pc.any(copied).as_py() and not only_of_the_table:
        return rows
    parts = []
    for has_vector in (False, True):
        part = rows.filter(pc.equal(copied, has_vector))
        of_the_encoder = [name for name in rows.column_names if name in NOT_OF_THE_SOURCE and has_vector]
        parts.append(with_values_of(part, base, list(dict.fromkeys([*of_the_encoder, *only_of_the_table]))))
    return pa.concat_tables(parts)


def with_values_of(rows: pa.Table, base: TableVersion, names: list[str]) -> pa.Table:
    """`rows` with the values that the base version has in the columns `names` for rows of the same id and content."""
    if not len(rows) or not names:
        return rows
    stored = base.find(rows[ID].to_pylist(), [FINGERPRINT, *names])
    stored = stored.take(pc.index_in(rows[ID], stored[ID]))
    same = pc.fill_null(pc.equal(stored[FINGERPRINT], rows[FINGERPRINT]), False)
    known = rows.filter(same)
    for name in names:
        known = replace_column(known, name, stored[name].filter(same))
    return pa.concat_tables([known.cast(rows.schema), rows.filter(pc.invert(same))])


def refill(fresh: pa.Table, settled: Settled, emptied: list[int], bundle: Bundle) -> Refill:
    """The rows of `fresh` that replace those of the `emptied` fragments, written; rows that turned bad have none."""
    ids = [key for key, address in settled.replaced.items() if address >> 32 in emptied]
    rows = fresh.filter(pc.is_in(fresh[ID], value_set=pa.array(ids, pa.string())))
    return Refill(emptied, write(rows, bundle.table.uri), {key: settled.displaced.get(key) for key in ids})


def settle_unchanged(tallies: list[dict], base: TableVersion, matched: BitMap64) -> list[dict]:
    """Add the unchanged rows to `matched`; those that it holds already are second records of one id: rejects."""
    twice = []
    for tally in tallies:
        names = ("unchanged_addresses", "unchanged_rows", "unchanged_objects")
        addresses = BitMap64(tally["unchanged_addresses"])
        if len(addresses) < len(tally["unchanged_addresses"]) or not addresses.isdisjoint(matched):
            for address, row, at in zip(*(tally[name] for name in names), strict=True):
                if address in matched:
                    twice.append({"_address": address, "object": tally["objects"][at]["object"], "row": row})
                matched.add(address)
        matched.update(addresses)
    if not twice:
        return []
    owners = {row[ADDRESS]: row for row in base.at([row["_address"] for row in twice], [ID, OBJECT]).to_pylist()}
    rejects = []
    for row in twice:
        owner = owners[row.pop("_address")]
        rejects.append(row | {"id": owner[ID]} | duplicate(owner[ID], owner[OBJECT]).__dict__)
    return rejects


def duplicate(key: str, owner: str) -> Reject:
    """The reason of a record whose id is that of another, of the object `owner`."""
    return Reject("write", "duplicate_id", f"the id {key!r} is that of another record, in {owner}")


@dataclass
class Settled:
    """What is decided of a bundle's records. Addresses are by id."""

    replaced: dict[str, int] = field(default_factory=dict)  # rows of the table that leave it for a record
    removed: dict[str, int] = field(default_factory=dict)  # or since their record turned bad
    turned_bad: int = 0  # such rows of the base version, of which a refill may have removed some already
    named: BitMap64 = field(default_factory=BitMap64)  # rows of the base version whose record is rejected, and stay
    displaced: dict[str, str] = field(default_factory=dict)  # id to object: records of this run that had the id before
    displaced_rejects: list[dict] = field(default_factory=list)
    displaced_written: int = 0
    displaced_unchanged: int = 0

    def displace(self, key: str, holder: str, by: str, was_unchanged: bool) -> None:
        """A record that was counted before gives way to one that comes first in the listing."""
        self.displaced[key] = holder
        self.displaced_rejects.append({"id": key, "object": holder} | duplicate(key, by).__dict__)
        self.displaced_unchanged += was_unchanged
        self.displaced_written += not was_unchanged


def settle_records(records: pa.Table, bundle: Bundle, matched: BitMap64) -> tuple[pa.Table, Settled]:
    """Of several records of an id the first in listing order counts, the others are rejected.

    Of the one that counts: which row of the table it replaces or, if it is bad, removes.
    """
    ids, reasons, objects = (records[name].to_pylist() for name in (ID, REASON, OBJECT))
    known = by_id(bundle.table.find([key for key in ids if key is not None], [RUN, OBJECT]))
    bad = [row for row, reason in enumerate(reasons) if reason is not None and ids[row] is not None]
    # Somebody may have compacted the table since: `matched` holds the addresses of the version the run began with.
    foreign = [key for key, present in known.items() if present[RUN] != bundle.run]
    base = by_id(bundle.base.find([*{*foreign, *bundle.refilled, *(ids[row] for row in bad)}], [OBJECT]))
    settled = Settled()
    taken: dict[str, str] = {}
    rejects: dict[int, Reject] = {}
    for row in sorted(range(len(ids)), key=objects.__getitem__):
        if reasons[row] is not None:
            continue
        key, mine = ids[row], objects[row]
        ours = key in known and known[key][RUN] == bundle.run and key not in bundle.refilled
        unchanged = not ours and key in base and base[key][ADDRESS] in matched
        holder = known[key][OBJECT] if ours else base[key][OBJECT] if unchanged else bundle.refilled.get(key)
        holder = taken.get(key, holder)
        if holder is not None and holder <= mine:
            rejects[row] = duplicate(key, holder)
            continue
        taken[key] = mine
        if holder is not None:
            settled.displace(key, holder, mine, unchanged)
        if key in base:
            matched.add(base[key][ADDRESS])
        if key in known and key not in bundle.refilled:
            settled.replaced[key] = known[key][ADDRESS]
    for row in bad:
        key = ids[row]
        # Another record of the same id may be good, in this bundle or in one before: then the row is that record's.
        if key not in base or base[key][OBJECT] != objects[row] or key in taken or base[key][ADDRESS] in matched:
            continue
        if bundle.keep_stale or reasons[row] in PASSING:
            settled.named.add(base[key][ADDRESS])
            continue
        matched.add(base[key][ADDRESS])
        settled.turned_bad += 1
        if key in known:
            settled.removed[key] = known[key][ADDRESS]
    return with_rejects(records, rejects), settled


def by_id(rows: pa.Table) -> dict[str, dict]:
    """Rows of the table by their id."""
    return {row[ID]: row for row in rows.to_pylist()}


def shares_of(tallies: list[dict], records: pa.Table, fresh: pa.Table, rejects: pa.Table) -> dict[str, Share]:
    """What a bundle has of each object: tallies and `records`, which made `fresh` rows of the table and `rejects`."""
    shares: dict[str, Share] = {}
    for tally in tallies:
        for of in tally["objects"]:
            share = shares.setdefault(of["object"], Share())
            share.add(Share(of["read"], of["unchanged"], 0, of["claims"], of["unchanged"], of["digest"]))
        for name in tally["ended"]:
            shares.setdefault(name, Share()).ended += 1
    for name, number in Counter(records[OBJECT].to_pylist()).items():
        shares.setdefault(name, Share()).settled += number
    for name, reason in zip(rejects["object"].to_pylist(), rejects["reason"].to_pylist(), strict=True):
        share = shares.setdefault(name, Share())
        share.rejected += 1
        share.lasting &= reason not in NOT_LASTING
        share.unreadable |= reason == "object_unreadable"
    digests = row_digests(fresh[FINGERPRINT], fresh[RUN]).tolist()
    for name, digest in zip(fresh[OBJECT].to_pylist(), digests, strict=True):
        shares[name].add(Share(rows=1, digest=digest))
    return shares


def check_vectors(records: pa.Table) -> dict[int, Reject]:
    """Vectors that are not finite or not of norm 1 (within 1e-3) never reach the table."""
    live = alive(records)
    rows, norms = off_norm(records[VECTOR].combine_chunks())
    return {
        int(row): Reject("encode", "bad_vector", f"the vector's norm is {norm}, not 1")
        for row, norm in zip(rows, norms, strict=True)
        if live[row]
    }


def off_norm(vectors: pa.FixedSizeListArray) -> tuple[np.ndarray, np.ndarray]:
    """Which of some vectors, none of them null, are not finite or not of norm 1 within 1e-3; and those norms."""
    values = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    norms = np.linalg.norm(values.reshape(len(vectors), vectors.type.list_size), axis=1)
    rows = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # a NaN is bad, too
    return rows, norms[rows]


def reject_rows(records: pa.Table, others: list[dict], run: str) -> pa.Table:
    """Those of `records` that are rejected, and others, in the schema of `NAME_rejects`."""
    records = records.filter(pc.is_valid(records[REASON]))
    names = {"id": ID, "object": OBJECT, "row": ROW, "stage": STAGE, "reason": REASON, "message": MESSAGE}
    columns = [records[names[f.name]] if f.name in names else pa.nulls(len(records), f.type) for f in REJECT_SCHEMA]
    rejects = [pa.table(columns, schema=REJECT_SCHEMA), pa.Table.from_pylist(others, schema=REJECT_SCHEMA)]
    return replace_column(pa.concat_tables(rejects), "run", pa.repeat(run, sum(map(len, rejects))))


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
