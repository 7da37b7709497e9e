"""Make another vector column the default one of a table. It needs neither Ray nor the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import lance

from pipelines.events import Publishing
from pipelines.fetching.locations import FetchRules
from pipelines.options import NAME, SHARE, check_options
from pipelines.storage.uris import absolute
from pipelines.tables.beside_vectors import published_alike
from pipelines.tables.dataset import published
from pipelines.tables.default_column import default_column, searched_column, set_default_column
from pipelines.tables.publish import publish
from pipelines.tables.recorded import Recorded, open_existing, recorded
from pipelines.tables.vector_column import VectorColumn, names_encoder, vector_columns, why_incomplete
from vista_core import UsageError


@dataclass(frozen=True)
class SwitchConfig:
    """Make --column the vector column of --db/--table that is searched by default. Changes no row. If the table is
    published, so is the new version.

    Exit code: 0 done, 1 failed, 2 bad usage, 3 the gate of --gate-task failed.
    """

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table."""
    column: str
    """The vector column, which must be complete and name its encoder."""
    gate_task: str | None = None
    """A folder with queries and qrels (judgements of ids of this table), as `vista evaluate` reads them: a column by
    which searches find less of what is relevant than by the default one does not take its place (exit code 3)."""
    gate_drop: Annotated[float, SHARE] = 0.01
    """With --gate-task: by how much the nDCG@10 may be lower. A lower one counts if it is no accident of the queries: 0
    is outside the 95 % interval of the difference."""
    take_over: bool = False
    """Begin although another run holds the table, because that run is dead."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)


@dataclass(frozen=True)
class Switched:
    """The result of a switch."""

    uri: str
    column: str
    before: str | None  # what readers searched by default until then; None if they had to name a column
    version: int  # that readers see
    is_published: bool  # False for a table that was never published: readers open the latest version
    verdict: str | None = None  # of the gate

    def __str__(self) -> str:
        """What was done, and how to undo it."""
        if self.before == self.column:
            return f"`{self.column}` is the default column of {self.uri} already: nothing was changed"
        place = "the published version" if self.is_published else "the latest version"
        instead = f" instead of `{self.before}`" if self.before else ""
        lines = [f"`{self.column}` is the default column of {self.uri}{instead} in {place}, {self.version}"]
        if self.verdict:
            lines.insert(0, f"retrieval quality: {self.verdict}")
        if self.before:
            lines.append(f"to undo this, run the same command with --column {self.before}")
        return "\n".join(lines)


def switch_column(config: SwitchConfig) -> Switched:
    """Make a column the default one, for all readers at once. Holds the lease meanwhile, like a rollback.

    Whatever ended it, the same command finishes it. Raises UsageError if there is no such table or column, if the
    column can't be the default one, or if rows of the table wait to be published; LeaseHeldError if another run holds
    the table.
    """
    seen = open_existing(absolute(config.db), config.table)
    before = readers_column(seen)
    require_switchable(seen, config.column)
    if before == searched_column(seen) == config.column:
        version = published(seen)
        return Switched(seen.uri, config.column, before, version or int(seen.version), version is not None)
    judge = gate_of(config)
    with recorded(seen, {"switch": True, "column": config.column}, config.take_over) as run:
        # Under the lease, so that no other run changes a column between the verdict and the switch.
        verdict = judge(lance.dataset(seen.uri), before)
        version = switch(run, config.column)
    return Switched(seen.uri, config.column, before, version, published(seen) is not None, verdict)


def gate_of(config: SwitchConfig) -> Callable[[lance.LanceDataset, str | None], str | None]:
    """The gate of --gate-task: it takes a version of the table, and the column that is searched by default.

    It returns its verdict, or raises GateError if the other column is worse; queries are encoded, and columns searched
    exactly, in this process. Without --gate-task it returns None. Raises UsageError for a task that can't be used.
    """
    if config.gate_task is None:
        return lambda table, before: None
    # These import torch and Ray, which a switch without a gate needs neither of.
    from pipelines.gates.evidence import here
    from pipelines.gates.judge import GateError
    from pipelines.gates.retrieval import System, compared
    from pipelines.quality.gate_task import GateTask

    task = GateTask.open(config.gate_task, config.gate_drop, FetchRules(()))

    def judge(table: lance.LanceDataset, before: str | None) -> str:
        if before is None:
            raise GateError(
                f"--gate-task: {table.uri} has no default column that names its encoder, so there is nothing that "
                f"`{config.column}` could be compared with. Switch without the gate"
            )
        verdict = compared(task, System.of(table, before), System.of(table, config.column), here)
        if not verdict.passed:
            raise GateError(f"`{before}` stays the default column: {verdict.gate}: {verdict.message}")
        return verdict.message

    return judge


def readers_column(table: lance.LanceDataset) -> str | None:
    """The column that readers search by default now, who see the published version or, without one, the latest."""
    now = published(table)
    return searched_column(table if now is None else lance.dataset(table.uri, version=now))


def switch(run: Recorded, name: str) -> int:
    """Set the default column, publish that if the table is published, and return the version that readers see."""
    latest = lance.dataset(run.table.uri)
    require_switchable(latest, name)
    now = published(latest)
    only_later = now is not None and readers_column(latest) == name  # since a rollback undid the switch to another one
    if not only_later:
        published_alike(latest)
    run.lease.check(latest)
    if default_column(latest) != name:
        latest = set_default_column(latest, name)
    if now is None or only_later:
        return int(latest.version) if now is None else now
    published_alike(latest)  # once more: other writers may have come in between
    run.events.report(Publishing(latest.version))
    publish(latest, run.lease, run.events)
    return int(latest.version)


def require_switchable(table: lance.LanceDataset, name: str) -> None:
    """Raise UsageError, with the cure, unless a column can be the default one."""
    found = vector_columns(table.schema)
    if name not in found:
        raise UsageError(
            f"--column {name}: {table.uri} has no such vector column. Vector columns: {', '.join(found) or 'none'}. "
            "`vista backfill` adds one"
        )
    if not names_encoder(table.schema.field(name)):
        raise UsageError(
            f"--column {name}: the column of {table.uri} does not name the encoder of its vectors, so readers could "
            f"not search it without more words. `vista search --column {name} --model MODEL` searches it, and "
            "`vista backfill` adds a column that names its encoder"
        )
    if VectorColumn.of(table.schema, name).filling:
        raise UsageError(f"--column {name}: {table.uri}: {why_incomplete(name)}. Then run this command again")
