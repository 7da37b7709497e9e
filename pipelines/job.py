"""A run's job: everything that is settled before anything is written. What can't work is refused here."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa
import xxhash

from pipelines.ray_session import cluster_now
from pipelines.records import IMAGE, REJECT_SCHEMA, RESERVED, table_schema
from pipelines.resources import Resources, share_out
from pipelines.run_config import EmbedConfig, ImageIdentity, encoder_settings
from pipelines.sink.read_objects import as_they_were, held, remembered
from pipelines.sink.reembed import is_under_way
from pipelines.sink.table import (
    TableVersion,
    as_column,
    ensure_dataset,
    made_from,
    new_table_schema,
    open_dataset,
    since,
    stored_identity,
    table_uri,
)
from pipelines.sources import Source
from pipelines.sources.columns import Columns, Images
from pipelines.sources.excerpt import first_units
from pipelines.sources.kinds import open_source
from pipelines.sources.objects import SourceObject, absolute, bucket_or_folder, is_named_by, printable
from pipelines.stages.encode import local_file
from pipelines.stages.places import FetchRules
from vista_core import MODELS, EncoderIdentity, EncoderSettings, UsageError, display_name
from vista_core.device import resolve_dtype

READING = 1  # another number reads every object again: for when records are made of objects in another way
LIBRARIES = ("ray", "pylance", "lancedb", "torch", "tokenizers", "pillow", "pyarrow", "vista")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Catalog:
    """A source, and what of its reading must be the same on each night that it is read."""

    source: Source
    images: Images
    image_identity: ImageIdentity

    def remembered(self) -> dict[str, Any]:
        """What is stored with the table."""
        return {"columns": self.source.roles, "images": self.images, "image_identity": self.image_identity}


@dataclass(frozen=True)
class Job:
    """Everything a run was resolved to, before anything is written."""

    config: EmbedConfig
    catalog: Catalog
    rules: FetchRules
    settings: EncoderSettings
    identity: EncoderIdentity
    resources: Resources
    objects: dict[str, SourceObject]  # what is listed, by name, in listing order
    skipped: dict[str, dict]  # those that are not read, being as they were, with their row of NAME_objects
    units: list[dict]  # of the others

    @property
    def source(self) -> Source:
        """What is read."""
        return self.catalog.source

    @property
    def schema(self) -> pa.Schema:
        """The table's, where it is made by this run."""
        config, source = self.config, self.source
        columns = table_schema(
            source.extra, self.identity.dimension, image_uri=source.has_uris, store_images=config.store_images
        )
        files = {"model": config.model, "weights": config.weights, "from_pretrained": config.from_pretrained}
        return new_table_schema(columns, self.identity, files | self.catalog.remembered())

    @property
    def rows(self) -> int:
        """How many rows there are to read, or a guess."""
        rows = sum(unit["rows"] for unit in self.units)
        return rows if self.config.limit is not None else round(rows * self.config.sample)

    @property
    def exact(self) -> bool:
        """Whether the number of rows to read is known."""
        return self.config.limit is not None or (self.source.exact and self.config.sample == 1)

    def name(self, uri: str) -> str:
        """The name by which the table knows an object: its URI, behind the name of the source if that has one."""
        return object_name(self.config, printable(uri))

    def objects_of(self, unit: dict) -> list[str]:
        """The names of the objects that a unit reads."""
        return [self.name(uri) for uri in (unit["images"] if "images" in unit else [unit["object"]])]

    @property
    def unit_counts(self) -> Counter[str]:
        """In how many units each object is read; none of a part of the source, which says nothing of whole objects."""
        units = [] if is_partial(self.config) else self.units
        return Counter(name for unit in units for name in self.objects_of(unit))

    def owns(self, name: str) -> bool:
        """Whether an object belongs to this source: by the source's name or, where it has none, by its URI."""
        mark = object_name(self.config, "")
        if mark:
            return name.startswith(mark)
        return is_named_by(self.config.source, name)


def object_name(config: EmbedConfig, uri: str) -> str:
    """`uri` behind the name of the source; a URI that has a `#` has a `/` before it, and names have none."""
    return f"{config.source_name}#{uri}" if config.source_name else uri


def is_partial(config: EmbedConfig) -> bool:
    """Whether only a part of the source is read."""
    return config.limit is not None or config.sample < 1


def excerpts(config: EmbedConfig) -> list[str]:
    """What is said of a run that reads a part of its source."""
    sample = [f"ONLY a sample of {config.sample:.3%} of the records"] if config.sample < 1 else []
    return sample + ([f"ONLY the first {config.limit:,} records"] if config.limit is not None else [])


def with_absolute_paths(config: EmbedConfig) -> EmbedConfig:
    """Workers have working directories of their own."""
    return dataclasses.replace(
        config,
        source=absolute(config.source),
        db=absolute(config.db),
        weights=config.weights and absolute(config.weights),
        from_pretrained=config.from_pretrained and absolute(config.from_pretrained),
        image_root=config.image_root and absolute(config.image_root),
        allow_prefix=tuple(map(absolute, config.allow_prefix)),
    )


def open_catalog(config: EmbedConfig) -> Catalog:
    """The source, read in the way that the table was made.

    A guess may turn out otherwise the night that a catalog gains a column, and another id column would double the
    table; so would ids that begin to be numbered. Raises UsageError where only the user can know.
    """
    existing = open_dataset(table_uri(config.db, config.table))
    before = made_from(existing) if existing is not None else {}
    like = passed_through(existing.schema) if existing is not None else None
    images = as_before(config, "images", "each", before)
    identity = as_before(config, "image_identity", "version", before)
    asked = Columns(config.id_column, config.text_column, config.image_column, images)
    source = open_source(config.source, asked, like, config.source_kind)
    columns = before.get("columns", {})
    settled = {role: getattr(asked, role) or columns.get(role, taken) for role, taken in source.roles.items()}
    if settled != source.roles:
        try:
            source = open_source(config.source, Columns(**settled, images=images), like, config.source_kind)
        except UsageError as error:
            kept = ", ".join(f"{role}: {column}" for role, column in columns.items() if column)
            found = "; ".join(source.describe())
            raise UsageError(
                f"{error}. ({config.table} was filled with {kept or 'no columns'}; found: {found})"
            ) from error
    for role, column in settled.items():
        if source.roles[role] != column:
            raise UsageError(
                f"{config.table} was filled without a column for {role!r}, and {source.roles[role]!r} would now be "
                f"taken for it: say so with --{role}-column {source.roles[role]}, or choose another --table"
            )
    return Catalog(source, images, identity)


def passed_through(table: pa.Schema) -> pa.Schema:
    """A table's columns that come from the source as they are."""
    return pa.schema([field for field in table if field.name not in RESERVED])


def as_before(config: EmbedConfig, name: str, default: str, before: dict[str, Any]) -> Any:
    """An option that a table keeps: another value would embed all of it anew, under other ids or fingerprints."""
    asked, kept = getattr(config, name), before.get(name, default) if before else None
    if kept is not None and asked not in (None, kept):
        raise UsageError(
            f"--{name.replace('_', '-')} {asked}: the table {config.table} was filled with {kept!r}; to change "
            "that would embed every record anew. Leave the option out, or choose another --table"
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


def resolve(config: EmbedConfig, catalog: Catalog) -> Job:
    """Settle everything that can be settled before the start. Raises UsageError for what can't work."""
    resources = share_out(cluster_now(), config.device, config.num_actors)
    if config.transport_rows is not None:
        resources = dataclasses.replace(resources, transport_rows=config.transport_rows)
    existing = open_dataset(table_uri(config.db, config.table))
    column = stored_identity(existing) if existing is not None and not config.reembed else None
    settings = settle_encoder(config, resources, column)
    identity = EncoderIdentity.of(dataclasses.replace(settings, device="cpu", weights=local_file(settings.weights)))
    if column is not None and (differences := identity.differences(column)):
        raise UsageError(
            f"{table_uri(config.db, config.table)}: the column `vector` was embedded with another encoder, and the "
            f"vectors of two can't be compared: {'; '.join(differences)}. Use the column's encoder or another --table, "
            "or replace the whole column with --reembed"
        )
    settings = dataclasses.replace(settings, dtype=identity.dtype)  # not for each actor's machine to decide
    job = Job(config, catalog, fetch_rules(config, catalog), settings, identity, resources, {}, {}, [])
    return survey(job, existing)


def survey(job: Job, existing: lance.LanceDataset | None) -> Job:
    """Which objects are to be read, since they are not as an earlier run read them in full, and in which units."""
    config, source = job.config, job.source
    listed = source.objects()
    objects = {job.name(name): item for name, item in listed.items()}
    job = dataclasses.replace(job, objects=objects)
    skipped = {} if is_partial(config) or existing is None else unchanged_objects(job, existing)
    chosen = source.only({name for name in listed if job.name(name) not in skipped}) if skipped else source
    units = chosen.units() if len(skipped) < len(objects) else []
    if config.limit is not None:
        units = first_units(source, units, config.sample, config.limit)
    rows = sum(unit["rows"] for unit in units)
    if not rows and not skipped:
        raise UsageError(f"--source {config.source}: there are no records in it")
    actors = min(job.resources.actors, max(1, math.ceil(rows / job.resources.transport_rows)))  # a batch for each
    resources = dataclasses.replace(job.resources, actors=actors)
    return dataclasses.replace(job, skipped=skipped, units=units, resources=resources)


def unchanged_objects(job: Job, existing: lance.LanceDataset) -> dict[str, dict]:
    """The objects that needn't be read, with what NAME_objects says of them."""
    images_may_change = job.source.elsewhere and job.catalog.image_identity != "uri"
    begins_anew = job.config.reembed and not is_under_way(existing, job.schema)
    if job.config.read_all or images_may_change or begins_anew:
        return {}
    known = remembered(table_uri(job.config.db, f"{job.config.table}_objects"))
    digest = reading_digest(job, existing.schema)
    if not any(row["reading"] == digest for row in known.values()):
        return {}
    versions = {name: item.version for name, item in job.objects.items()}
    found = as_they_were(known, versions, digest, held(TableVersion(existing.uri, existing.version)))
    # Which of an object's rows are missing is found by reading it.
    return {name: row for name, row in found.items() if not (job.config.deletes and row["missing"])}


def reading_digest(job: Job, table: pa.Schema) -> str:
    """Stands for all that, beside an object's content, makes rows of it."""
    config = job.config
    options = [config.source_kind, config.image_root, config.allow_prefix, config.max_image_mb, config.keep_stale]
    columns = [(field.name, str(field.type)) for field in table]
    made_by = [READING, job.identity.to_json(), since(table), job.catalog.remembered(), options, columns]
    return xxhash.xxh3_128_hexdigest(json.dumps(made_by).encode())


def settle_encoder(config: EmbedConfig, uses: Resources, column: EncoderIdentity | None) -> EncoderSettings:
    """The encoder asked for; what was left open is as in the column that is there, else what is fastest here."""
    settings = dataclasses.replace(encoder_settings(config), device=uses.device)
    if column is not None:
        inherited = as_column(settings, column)
        return dataclasses.replace(
            inherited,
            dtype=inherited.dtype if config.dtype == "auto" else config.dtype,
            alpha=config.alpha or inherited.alpha,
            resize=config.resize or inherited.resize,
            max_tokens=config.max_tokens or inherited.max_tokens,
        )
    if uses.device == "cuda" and settings.dtype == "auto":
        # The driver's machine need not have the GPU that the actors will have.
        return dataclasses.replace(settings, dtype=resolve_dtype("auto", "cuda", MODELS[config.model]))
    return settings


def open_tables(job: Job) -> tuple[lance.LanceDataset, lance.LanceDataset]:
    """The table and its rejects, created where they are missing."""
    config = job.config
    table = ensure_dataset(table_uri(config.db, config.table), job.schema)
    if config.store_images and IMAGE not in table.schema.names:
        raise UsageError(f"--store-images: {config.table} was made without it; choose another --table")
    check_columns(table.schema, job.schema)
    return table, ensure_dataset(table_uri(config.db, f"{config.table}_rejects"), REJECT_SCHEMA)


def check_columns(table: pa.Schema, source: pa.Schema) -> None:
    """Columns of an existing table keep their types; a column that only one side has is said, not an error."""
    for field in source:
        if field.name not in table.names:
            log.warning("column %s of the source is not in the table and is left out", field.name)
        elif table.field(field.name).type != field.type:
            raise UsageError(
                f"column {field.name!r} is {field.type} in the source and {table.field(field.name).type} in the table. "
                "Cast it in the source, or embed into another --table"
            )
    if missing := [name for name in table.names if name not in source.names]:
        log.warning("columns of the table that the source lacks are null in new rows: %s", ", ".join(missing))


def name_encoder(job: Job) -> str:
    """The encoder as people need to know it."""
    uses = job.resources
    place = "GPU" if uses.device == "cuda" else "CPU"
    model = display_name(job.config.model, job.config.weights)
    return f"{model}, {job.identity.dtype}, {uses.actors} {place} encode actor{'s' * (uses.actors > 1)}"


def configuration(job: Job) -> dict[str, Any]:
    """The run's options as they were resolved, for its record."""
    return {
        "options": dataclasses.asdict(job.config),
        "encoder": json.loads(job.identity.to_json()),
        "resources": dataclasses.asdict(job.resources),
        "units": len(job.units),
    }


@functools.cache
def library_versions() -> dict[str, str]:
    """What a run's result may depend on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def work_of(job: Job) -> str:
    """What there is to read."""
    reading = f"{len(job.objects) - len(job.skipped):,} of {len(job.objects):,} objects to read" if job.skipped else ""
    return "; ".join(filter(None, [reading, f"{len(job.units):,} units of work"]))
