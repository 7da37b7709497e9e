"""Publishing: the tag `published` moves once, when all gates are passed, and back on request."""

from __future__ import annotations

import dataclasses

import lance
from lance.commit import CommitConflictError

from pipelines.sink.lease import Lease, holder_of, put
from pipelines.sink.table import PUBLISHED, published
from vista_core import UsageError

PREVIOUS = "previous"  # tag of the version that was published before, which --rollback goes back to


def publish(table: lance.LanceDataset, lease: Lease) -> None:
    """Move the tag `published` to this version of the table.

    A tag is last-writer-wins. So the version is first written into the lease, which conflicts with a takeover; and who
    finds after moving the tag that the lease was lost meanwhile puts it where the lease says.
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
    if before is not None:
        move(latest, PREVIOUS, before)
    move(latest, PUBLISHED, table.version)
    after = holder_of(lance.dataset(table.uri))
    if after is not None and after.run != lease.run:
        move(latest, PUBLISHED, after.published)
        lease.check(lance.dataset(table.uri))


def roll_back(table: lance.LanceDataset, lease: Lease) -> int:
    """Exchange the tags `published` and `previous`, and return the version that is published then."""
    tags = table.tags.list()
    if PREVIOUS not in tags or PUBLISHED not in tags:
        raise UsageError(f"{table.uri}: there is no version before the published one to go back to")
    publish(lance.dataset(table.uri, version=int(tags[PREVIOUS]["version"])), lease)
    return int(tags[PREVIOUS]["version"])


def move(table: lance.LanceDataset, tag: str, version: int | None) -> None:
    """Create or update a tag."""
    change = table.tags.update if tag in table.tags.list() else table.tags.create
    change(tag, version)
