"""The Lance transactions that exactly-once embedding rests on. Every `LanceOperation` of the product is built here.

Each commit is prepared on one version of the table. If somebody else commits in between, Lance either lets it pass, so
that the result has both changes, or raises CommitConflictError, so that nothing has changed:

- `upsert` and `barrier` conflict with every other commit of rows or schema: Append, Update, Delete, Merge, Project
  (dropped columns), Rewrite (a compaction), Restore, Overwrite, and changes of schema or field metadata. They pass
  updates of the config, tags, and indexes that are created, updated or dropped. Both are a `Merge` that lists the
  fragments of its version, without retries. With deletion vectors for the replaced rows it is an atomic upsert and a
  compare-and-swap; without any change it is a barrier.
- `replace_fragments` conflicts with Update, Delete and Rewrite if they touch one of the replaced fragments, and with
  Merge, Restore and Overwrite. It passes everything else. It is needed because a `Merge` refuses to drop a fragment.
- `replace_columns` conflicts with Update, Delete and Rewrite if they touch one of its fragments, and with Merge,
  Restore and Overwrite. It passes everything else. The fragments leave the indexes on the columns.
- `append` conflicts with Merge, Restore and Overwrite. It passes everything else.
- `overwrite` conflicts with every other commit of whatever kind, also of the config. The config stays, tags as well.
- `exchange_index` conflicts with another one of the same index, and with a Rewrite of fragments that its index has. It
  passes other changes of rows: what its index lacks is scanned by searches, or added by an update of the index.
- `set_config` conflicts with another update or removal of the same key. It passes everything else, be it an Overwrite.

`tests/pipelines/tables/test_transactions.py` has this as a table and checks it against the installed Lance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.dataset import Index
from lance.fragment import DataFile

from pipelines.storage.uris import filesystem
from vista_core import VistaError

ATTEMPTS = 50  # of a small commit
REPLACED = -2  # in place of a field's id: Lance's mark for a column of a file that another file has

__all__ = [
    "CommitConflictError",
    "append",
    "barrier",
    "detached_with_index",
    "exchange_index",
    "from_json",
    "is_conflict",
    "on_latest",
    "overwrite",
    "replace_columns",
    "replace_fragments",
    "set_config",
    "to_json",
    "upsert",
]


def upsert(table: lance.LanceDataset, new: Sequence[str], changed: Sequence[str]) -> lance.LanceDataset:
    """Commit `new` fragments and the `changed` fragments, whose replaced rows are deleted, in one atomic step.

    Both are given as `to_json` writes them. Raises CommitConflictError if rows or schema changed since `table.version`.
    """
    if not new and not changed:
        return table
    by_id = {fragment.id: fragment for fragment in map(from_json, changed)}
    kept = [by_id.get(fragment.fragment_id, fragment.metadata) for fragment in table.get_fragments()]
    return merge(table, kept + [from_json(text) for text in new])


def barrier(table: lance.LanceDataset) -> lance.LanceDataset:
    """Commit a version without any change: whatever was prepared on an earlier one conflicts from now on.

    Raises CommitConflictError if rows or schema changed since `table.version`.
    """
    return merge(table, [fragment.metadata for fragment in table.get_fragments()])


def merge(table: lance.LanceDataset, fragments: list[lance.FragmentMetadata]) -> lance.LanceDataset:
    """Commit exactly these fragments on top of exactly this version."""
    operation = lance.LanceOperation.Merge(fragments, table.lance_schema)
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


def replace_fragments(table: lance.LanceDataset, removed: list[int], new: Sequence[str]) -> lance.LanceDataset:
    """Replace whole fragments, given by their ids, by `new` ones. Other writers' appends do not conflict."""
    operation = lance.LanceOperation.Update(
        removed_fragment_ids=removed,
        updated_fragments=[],
        new_fragments=[from_json(text) for text in new],
        fields_modified=[],
    )
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


def replace_columns(table: lance.LanceDataset, files: Mapping[int, DataFile]) -> lance.LanceDataset:
    """Give fragments, by their ids, a file each that has all rows of some columns, in place of those that they had.

    All files have the same columns. Each has a row for each row of its fragment, deleted ones included.
    """
    columns = next(iter(files.values())).fields
    updated = []
    for number, file in files.items():
        fragment = table.get_fragment(number)
        assert fragment is not None, "the caller looked"
        updated.append(with_columns(fragment.metadata, file))
    operation = lance.LanceOperation.Update(
        updated_fragments=updated, fields_modified=columns, update_mode="rewrite_columns"
    )
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


def with_columns(fragment: lance.FragmentMetadata, file: DataFile) -> lance.FragmentMetadata:
    """A fragment that has the columns of `file` from it, and all others from the files that it has."""
    kept = []
    for each in fragment.files:
        left = [REPLACED if field in file.fields else field for field in each.fields]
        if any(field != REPLACED for field in left):
            each.fields = left
            kept.append(each)
    fragment.files = [*kept, file]
    return fragment


def append(table: lance.LanceDataset, new: Sequence[str]) -> lance.LanceDataset:
    """Append fragments. A repeated call appends them twice, so this is only for tables with a single writer."""
    operation = lance.LanceOperation.Append([from_json(text) for text in new])
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version)


def overwrite(table: lance.LanceDataset, schema: pa.Schema) -> lance.LanceDataset:
    """Remove all rows, and replace the columns by `schema`. Raises CommitConflictError unless `table` is the latest."""
    operation = lance.LanceOperation.Overwrite(schema, [])
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


def set_config(table: lance.LanceDataset, values: Mapping[str, str | None]) -> lance.LanceDataset:
    """Set keys of the table's config in one step, and remove those whose value is None.

    Raises CommitConflictError if one of those that are set was set or removed since `table.version`.
    """
    update = lance.LanceOperation.UpdateMap(dict(values), replace=False)
    operation = lance.LanceOperation.UpdateConfig(config_updates=update)
    # Without retries it would fail, too, if another commit of whatever kind took the number of the next version first.
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=ATTEMPTS)


def on_latest(uri: str, change: Callable[[lance.LanceDataset], object]) -> lance.LanceDataset:
    """The table after a change of its columns or metadata, which is tried again if another writer commits meanwhile.

    Lance doesn't repeat such a change by itself. Raises VistaError after ATTEMPTS conflicts in a row.
    """
    for _ in range(ATTEMPTS):
        try:
            change(lance.dataset(uri))
            return lance.dataset(uri)
        except (CommitConflictError, OSError) as error:
            if not is_conflict(error):
                raise
    raise VistaError(f"{uri}: other writers committed {ATTEMPTS} times in a row. Run the same command again")


def is_conflict(error: BaseException) -> bool:
    """True if a commit failed because of another one. A compaction's conflict is known by its message alone."""
    return isinstance(error, CommitConflictError) or "commit conflict" in str(error)


def to_json(fragments: Iterable[lance.FragmentMetadata]) -> list[str]:
    """Fragment metadata as text, which can be sent between processes and versions of Python."""
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def from_json(text: str) -> lance.FragmentMetadata:
    """The reverse of `to_json`."""
    return lance.FragmentMetadata.from_json(text)


def exchange_index(table: lance.LanceDataset, new: Index, replaced: Sequence[str]) -> lance.LanceDataset:
    """Add an index whose files are written, and remove those named `replaced`, in one atomic step.

    Raises CommitConflictError if one of these changed since `table.version`, or rows moved that `new` has.
    """
    operation = lance.LanceOperation.CreateIndex([new], segments_of(table, replaced))
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


@contextmanager
def detached_with_index(table: lance.LanceDataset, new: Index, replaced: Sequence[str]) -> Iterator[lance.LanceDataset]:
    """The latest version of the table with an exchanged index, which nobody sees who doesn't know its number.

    Lance looks for no conflicts: if others moved rows since `table.version`, those that `new` has are elsewhere there.
    Lance keeps the manifest of such a version for ever, but not its files, so it is removed when the context ends.
    """
    operation = lance.LanceOperation.CreateIndex([new], segments_of(table, replaced))
    hidden = lance.LanceDataset.commit(table.uri, operation, read_version=table.version, detached=True)
    try:
        yield hidden
    finally:
        fs, path = filesystem(f"{table.uri}/_versions/d{hidden.version}.manifest")
        with suppress(OSError):  # a few kilobytes, which nobody looks at
            fs.rm_file(path)


def segments_of(table: lance.LanceDataset, names: Sequence[str]) -> list[Index]:
    """The segments of some indexes, as Lance's operations take them."""
    return [
        Index(
            uuid=segment.uuid,
            name=index.name,
            fields=index.fields,
            dataset_version=segment.dataset_version_at_last_update,
            fragment_ids=segment.fragment_ids,
            index_version=segment.index_version,
        )
        for index in table.describe_indices()
        if index.name in names
        for segment in index.segments
    ]
