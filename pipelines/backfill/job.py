"""A run's job: everything that is decided before anything is written. What can't work is refused here."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import lance

from pipelines.backfill.config import BackfillConfig
from pipelines.backfill.content import (
    Content,
    TableRows,
    content_of,
    image_identity_of,
    of_vista,
    require_images_in_reach,
    rows_of,
)
from pipelines.backfill.finished import Filling
from pipelines.cluster.resources import Resources, share_out
from pipelines.cluster.scaling import cluster_for
from pipelines.fetching.addresses import is_network
from pipelines.fetching.locations import FetchRules
from pipelines.records import REJECT_SCHEMA
from pipelines.report.destination import absolute_option
from pipelines.stages.pool import Encoding
from pipelines.storage.errors import without_rust_location
from pipelines.storage.model_files import absolute_model
from pipelines.storage.uris import absolute, bucket_or_folder
from pipelines.tables.dataset import open_dataset
from pipelines.tables.encoder_choice import EncoderOptions, choose_encoder
from pipelines.tables.filter import enclosed
from pipelines.tables.origin import MARKER, Origin, with_files
from pipelines.tables.runs import REQUIRED
from pipelines.tables.transactions import on_latest
from pipelines.tables.vector_column import VectorColumn, is_vector, names_encoder
from vista_core import EncoderSettings, UsageError

OPTIONS: Final = "backfill"  # where the configuration of a run has the options of this command


@dataclass(frozen=True)
class Target:
    """A column to fill, the encoder that fills it, and what it is filled from."""

    column: VectorColumn
    settings: EncoderSettings
    content: Content
    is_new: bool


@dataclass(frozen=True)
class Job:
    """Everything that a run was resolved to."""

    config: BackfillConfig
    targets: tuple[Target, ...]
    rows: TableRows
    rules: FetchRules
    resources: Resources

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """The columns that are filled."""
        return tuple(each.column for each in self.targets)

    @property
    def encodings(self) -> list[Encoding]:
        """Their encoders."""
        return [Encoding(each.settings, each.column.identity) for each in self.targets]

    def fillings(self, table: lance.LanceDataset) -> tuple[Filling, ...]:
        """The columns as the table has them."""
        names = self.rows.content_columns
        return tuple(Filling.of(table, each.column, each.content, names) for each in self.targets)

    def __str__(self) -> str:
        """What is filled, from what."""
        columns = ", ".join(
            f"`{each.column.name}` by {each.column.identity.model}, {each.column.identity.dtype}"
            for each in self.targets
        )
        return f"{columns}, from {self.targets[0].content}; {self.resources}"


def with_absolute_paths(config: BackfillConfig) -> BackfillConfig:
    """Workers have working directories of their own."""
    return dataclasses.replace(
        config,
        db=absolute(config.db),
        model=tuple(map(absolute_model, config.model)),
        weights=tuple(each if each == "-" else absolute(each) for each in config.weights),
        from_pretrained=tuple(each if each == "-" else absolute(each) for each in config.from_pretrained),
        report=absolute_option(config.report),
        image_root=config.image_root and absolute(config.image_root),
        allow_prefix=tuple(each if is_network(each) else absolute(each) for each in config.allow_prefix),
    )


def table_to_fill(config: BackfillConfig) -> lance.LanceDataset:
    """The latest version of the table. Raises UsageError if it can't be filled."""
    table = open_dataset(config.table_uri)
    if table is None:
        raise UsageError(f"there is no table {config.table} in {config.db}")
    if table.data_storage_version in ("legacy", "0.1"):
        raise UsageError(f"{table.uri} has Lance's format of 2023, which can't get columns like this. Write it anew")
    for name, required in (("runs", REQUIRED), ("rejects", set(REJECT_SCHEMA.names))):
        side = open_dataset(config.side_table(name))
        if side is not None and not required <= set(side.schema.names):
            raise UsageError(f"{side.uri} is needed for what runs report, and is another table. Rename that one")
    return table


def resolve_job(config: BackfillConfig, table: lance.LanceDataset) -> Job:
    """Decide everything that can be decided before the start. Raises UsageError for what can't work."""
    resources = share_out(cluster_for(config.device), config.device, config.num_actors)
    where = usable_filter(table, config.where)
    if config.transport_rows is not None:
        resources = dataclasses.replace(resources, transport_rows=config.transport_rows)
    fields = {name: table.schema.field(name) for name in config.column if name in table.schema.names}
    before = {name: Content.of(field) or made_by_embed(table) for name, field in fields.items()}
    first = next((each for each in before.values() if each is not None), None)
    identity = image_identity_of(table, config.image_identity, first)
    asked = Content(config.text_column or (), config.image_column, identity)
    content, layout = content_of(table, asked, first)
    targets = [target_of(config, number, table, content, resources) for number in range(len(config.column))]
    if any(each not in (None, content) for each in before.values()):
        raise UsageError("--column: these columns were filled from different columns. Fill them one by one")
    fingerprints = [each.column.fingerprint for each in targets]
    rules = FetchRules(
        allowed=(bucket_or_folder(config.table_uri), *filter(None, [config.image_root]), *config.allow_prefix),
        root=config.image_root,
        max_bytes=int(config.max_image_mb * 1e6),
        timeout_seconds=config.fetch_timeout,
        identity=identity,
    )
    require_images_in_reach(table, content, rules)
    return Job(config, tuple(targets), rows_of(table, layout, fingerprints, where), rules, resources)


def usable_filter(table: lance.LanceDataset, where: str | None) -> str | None:
    """A filter as Lance takes it. Raises UsageError for one that can't be used."""
    condition = enclosed(where)
    if condition is not None:
        try:
            table.to_table(columns=[], filter=condition, limit=1, with_row_id=True)
        except (ValueError, OSError) as error:
            raise UsageError(f"--where {where!r}: {without_rust_location(str(error))}") from error
    return condition


def made_by_embed(table: lance.LanceDataset) -> Content | None:
    """What the columns that `embed` fills are made of."""
    if MARKER not in (table.schema.metadata or {}):
        return None
    return of_vista(table, Content((), None, Origin.of(table).image_identity))


def target_of(
    config: BackfillConfig, number: int, table: lance.LanceDataset, content: Content, resources: Resources
) -> Target:
    """One of the columns. Raises UsageError if it is there and is not one that this encoder fills."""
    name, existing, options = config.column[number], None, config.encoder(number)
    if name in table.schema.names:
        field = table.schema.field(name)
        if not is_vector(field.type):
            raise UsageError(f"--column {name}: {table.uri} has a column of this name without vectors: {field.type}")
        if not names_encoder(field):
            raise UsageError(
                f"--column {name}: the column does not name the encoder of its vectors, so nobody knows which of them "
                "to keep. Fill another column"
            )
        existing = VectorColumn.of(table.schema, name)
        if existing.fingerprint not in table.schema.names:
            raise UsageError(f"--column {name}: the column `{existing.fingerprint}` is not there. Fill another column")
        if existing.since:
            raise UsageError(f"--column {name}: `vista embed --reembed` is replacing it. Run that command again first")
        options = with_files_of(existing, table, options)
    elif f"{name}_fingerprint" in table.schema.names:
        raise UsageError(f"--column {name}: {table.uri} has a column `{name}_fingerprint` already. Choose another name")
    settings, column = choose_encoder(options, resources.device, name, existing)
    if existing is None:
        column = dataclasses.replace(column, files=options.files, filling=True)
    elif options.files.folder is not None:  # the table will say where the folder is now
        column = dataclasses.replace(column, files=options.files)
    return Target(column, settings, content, existing is None)


def with_files_of(column: VectorColumn, table: lance.LanceDataset, options: EncoderOptions) -> EncoderOptions:
    """Options with the encoder's files that the column names, where the user names none."""
    files = column.files
    if files is None and MARKER in (table.schema.metadata or {}):
        made_by = Origin.of(table)
        files = made_by.files if made_by.model == options.model else None
    if files is None or options.files.folder is not None:
        return options
    return dataclasses.replace(
        options,
        weights=options.weights or files.weights,
        from_pretrained=options.from_pretrained or files.from_pretrained,
    )


def configuration(job: Job) -> dict[str, Any]:
    """The resolved options of the run, for its record."""
    return {
        OPTIONS: dataclasses.asdict(job.config),
        "encoder": [json.loads(each.identity.to_json()) for each in job.columns],
        "resources": dataclasses.asdict(job.resources),
    }


def add_columns(table: lance.LanceDataset, targets: Sequence[Target]) -> lance.LanceDataset:
    """The table with those of the columns that it lacks, without vectors: this changes no data file.

    Those that are there name where their encoder's model folder is now.
    """
    for target in targets:
        column = target.column
        content = {key.encode(): value.encode() for key, value in target.content.metadata.items()}
        field = column.field.with_metadata({**column.field.metadata, **content})
        if column.name not in table.schema.names:
            added = [field, column.fingerprint_field]
            table = on_latest(table.uri, functools.partial(lance.LanceDataset.add_columns, transforms=added))
        else:
            table = with_files(table, column)
    return table
