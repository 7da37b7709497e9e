"""The source, opened in the way in which the table was made from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa

from pipelines.embed.config import EmbedConfig
from pipelines.fetching.locations import FetchRules
from pipelines.records import RESERVED
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.source import Source
from pipelines.storage.uris import bucket_or_folder
from pipelines.tables.fresh_columns import made_by_encoders
from pipelines.tables.origin import Origin
from pipelines.tables.widening import finished
from vista_core import UsageError


@dataclass(frozen=True)
class Catalog:
    """A source, and all of its reading that must be the same in each run."""

    source: Source
    images: Any  # what becomes of a list of images: `columns.Images`
    image_identity: Any  # when an external image counts as changed: `locations.FetchRules.identity`

    @property
    def reading(self) -> dict[str, Any]:
        """What would make other ids or fingerprints if it changed, as `Origin.reading`."""
        return {"columns": self.source.roles, "images": self.images, "image_identity": self.image_identity}

    def origin(self, config: EmbedConfig, model: str) -> Origin:
        """What is stored with a table that is made from it, by the `model` of this name."""
        return Origin(model, **self.reading).of_encoder(model, config.encoder.files)


def open_catalog(config: EmbedConfig, existing: lance.LanceDataset | None) -> Catalog:
    """Open the source, with the columns and options that the existing table was filled with.

    Columns are detected, and the detection can change on the night when a catalog gains a column: another id column
    would double the table. Raises UsageError where only the user can know.
    """
    before = Origin.of(existing) if existing is not None else None
    like = passed_through(existing.schema) if existing is not None else None
    images = kept_option(config, "images", "each", before)
    identity = kept_option(config, "image_identity", "version", before)
    text = config.text_column or ()
    asked = Columns(
        config.id_column,
        text,
        config.image_column,
        images,
        strict=config.strict_columns,
        encoding=config.encoding,
        only=config.only,
    )
    source = open_source(config.source, asked, like, config.source_kind, limits_of(config))
    columns = before.columns if before is not None else {}
    wanted = {role: asked.roles.get(role) or columns.get(role, taken) for role, taken in source.roles.items()}
    if before is not None and "cells" not in columns:
        wanted.pop("cells", None)  # the table has a row for each cell, whatever is in it
    elif "cells" in columns and wanted:
        wanted["cells"] = True
    if wanted != source.roles:
        source = reopen(config, source, asked.with_roles(wanted), like, columns)
    for role, column in wanted.items():
        if source.roles.get(role) != column:
            raise UsageError(
                f"{config.table} was filled without a column for {role!r}, and {source.roles[role]!r} would now be "
                f"taken for it: say so with --{role}-column {named(source.roles[role])}, or choose another --table"
            )
    return Catalog(source, images, identity)


def reopen(
    config: EmbedConfig, source: Source, columns: Columns, like: pa.Schema | None, before: dict[str, Any]
) -> Source:
    """Open the source with the `columns` of the table instead of those that were detected."""
    try:
        return open_source(config.source, columns, like, config.source_kind, limits_of(config))
    except UsageError as error:
        kept = ", ".join(f"{role}: {named(column)}" for role, column in before.items() if column and role != "cells")
        found = "; ".join(source.describe())
        raise UsageError(f"{error}. ({config.table} was filled with {kept or 'no columns'}; found: {found})") from error


def named(columns: str | list[str]) -> str:
    """The columns of a role, as an option names them."""
    return columns if isinstance(columns, str) else " ".join(columns)


def limits_of(config: EmbedConfig) -> Limits:
    """The limits of reading: links of the source may lead where images may be fetched from."""
    return dataclasses.replace(DEFAULTS, link_targets=config.allow_prefix)


def passed_through(table: pa.Schema) -> pa.Schema:
    """The columns of a table that come unchanged from the source."""
    made = RESERVED | made_by_encoders(table)
    return pa.schema([field for field in finished(table) if field.name not in made])


def kept_option(config: EmbedConfig, name: str, default: str, before: Origin | None) -> Any:
    """An option that a table keeps. Raises UsageError for another value, under which all ids or fingerprints differ."""
    asked, kept = getattr(config, name), getattr(before, name) if before is not None else None
    if kept is not None and asked not in (None, kept):
        raise UsageError(
            f"--{name.replace('_', '-')} {asked}: the table {config.table} was filled with {kept!r}; to change "
            "that would embed every record anew. Omit the option, or choose another --table"
        )
    return asked or kept or default


def fetch_rules(config: EmbedConfig, catalog: Catalog) -> FetchRules:
    """Where images may be fetched from: the source's own bucket or folder, and what the user allows."""
    roots = [config.image_root] if config.image_root else []
    return FetchRules(
        allowed=(bucket_or_folder(config.source), *roots, *config.allow_prefix),
        root=config.image_root,
        max_bytes=int(config.max_image_mb * 1e6),
        timeout_seconds=config.fetch_timeout,
        identity=catalog.image_identity,
    )
