"""Publishing: the tag `published` moves to a version that passed all gates, and back on request."""

from __future__ import annotations

import dataclasses
import itertools

import lance

from pipelines.events import Events, Published, TagMoving
from pipelines.signals import deferred
from pipelines.tables.dataset import PUBLISHED, open_dataset, published
from pipelines.tables.default_column import default_column
from pipelines.tables.lease import Lease, holder_of, put
from pipelines.tables.origin import MARKER
from pipelines.tables.search_setting import KEY
from pipelines.tables.transactions import CommitConflictError
from pipelines.tables.vector_column import VectorColumn, vector_columns
from vista_core import UsageError

PREVIOUS = "previous"  # tag of the version that was published before the present one


@deferred()
def publish(table: lance.LanceDataset, lease: Lease, events: Events) -> None:
    """Move the tag `published` to this version of the table, and the tag `previous` to the one published so far.

    Reports TagMoving before each move, and Published at the end. Raises LeaseLostError if another run took over. A
    signal does not end the command in between.

    Lance lets anybody move a tag at any time. So the version is first written into the lease, which conflicts with a
    takeover. If the lease was lost while the tag moved, the tag is restored to the version that the lease records.
    """
    latest = lance.dataset(table.uri)
    lease.check(latest)
    now = holder_of(latest)
    assert now is not None, "the lease was checked in this very version"
    before = published(latest)
    try:
        put(latest, dataclasses.replace(now, published=table.version))
    except CommitConflictError:
        lease.check(lance.dataset(table.uri))
        raise
    moves = {PUBLISHED: table.version} if before is None else {PREVIOUS: before, PUBLISHED: table.version}
    for tag, version in moves.items():
        events.report(TagMoving(tag, version))
        move(latest, tag, version)
    after = holder_of(lance.dataset(table.uri))
    if after is not None and after.run != lease.run:
        if after.published is not None:
            move(latest, PUBLISHED, after.published)
        lease.check(lance.dataset(table.uri))
    events.report(Published(table.version))


def roll_back(table: lance.LanceDataset, lease: Lease, events: Events, to: int | None = None) -> int:
    """Publish an earlier version, and return it: `to` or, by default, the one that the tag `previous` names.

    `previous` then names the version that was published so far, so a second call without `to` undoes the first. The
    gates are not run again. Raises UsageError if there is no such version, or it has no vector column.
    """
    now, tags = published(table), table.tags.list()
    if now is None or (to is None and PREVIOUS not in tags):
        raise UsageError(f"{table.uri}: there is no version before the published one to go back to")
    version = int(tags[PREVIOUS]["version"]) if to is None else to
    there = open_dataset(table.uri, version) if version > 0 else None
    if there is None or version == now:
        fault = "does not exist, or was removed" if there is None else "is the published one already"
        versions = in_ranges([each["version"] for each in table.versions()])
        raise UsageError(f"{table.uri}: version {version} {fault}. Versions that exist: {versions}")
    try:
        require_vectors(there)
    except UsageError as error:
        raise UsageError(f"{table.uri}, version {version}: {error}") from error
    publish(there, lease, events)
    return version


def require_vectors(table: lance.LanceDataset) -> None:
    """Raise UsageError unless a version has vectors; in a table of vista's, the default column names its encoder."""
    if MARKER in (table.schema.metadata or {}):
        VectorColumn.of(table.schema, default_column(table))
    elif not vector_columns(table.schema):
        raise UsageError("it has no column of vectors")


def same_content(one: lance.LanceDataset, other: lance.LanceDataset) -> bool:
    """True if readers see no difference: same rows, indexes, settings of searches, and default column."""

    def beside_rows(table: lance.LanceDataset) -> tuple[set, dict, str]:
        segments = {segment.uuid for index in table.describe_indices() for segment in index.segments}
        settings = {key: value for key, value in table.config().items() if key.startswith(KEY)}
        return segments, settings, default_column(table)

    return same_rows(one, other) and beside_rows(one) == beside_rows(other)


def same_rows(one: lance.LanceDataset, other: lance.LanceDataset) -> bool:
    """True if two versions have the same rows in the same files, and the same schema."""
    files = [[each.metadata.to_json() for each in table.get_fragments()] for table in (one, other)]
    return files[0] == files[1] and one.schema.equals(other.schema, check_metadata=True)


def in_ranges(numbers: list[int]) -> str:
    """Ascending numbers in short: `1-3, 7`."""
    runs = itertools.groupby(enumerate(numbers), lambda each: each[1] - each[0])
    ranges = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else f"{each[0]}" for each in ranges)


def move(table: lance.LanceDataset, tag: str, version: int) -> None:
    """Create or update a tag."""
    if tag not in table.tags.list():
        try:
            table.tags.create(tag, version)
            return
        except ValueError:  # Lance repeats a request whose answer was lost, and then the tag is there already
            if tag not in table.tags.list():
                raise
    table.tags.update(tag, version)
