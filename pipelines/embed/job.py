"""A run's job: everything that is decided before anything is written. What can't work is refused here."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lance
import pyarrow as pa
import xxhash

from pipelines.cluster.resources import Cluster, Resources, share_out
from pipelines.embed.catalog import Catalog, fetch_rules
from pipelines.embed.columns import KeptColumn, kept_columns, require_other_names
from pipelines.embed.config import EmbedConfig
from pipelines.fetching.addresses import is_network
from pipelines.fetching.locations import FetchRules
from pipelines.ingest.manifest import Entry, read_manifest, row_checksum_by_file, unchanged_files
from pipelines.ingest.reembed import is_under_way
from pipelines.quality.gate_task import GateTask
from pipelines.report.destination import absolute_option
from pipelines.sources.source import Source, units_in
from pipelines.sources.units import Unit
from pipelines.storage.files import SourceFile
from pipelines.storage.model_files import absolute_model
from pipelines.storage.uris import absolute, folders_of, is_named_by, printable
from pipelines.tables.dataset import TableVersion
from pipelines.tables.fresh_columns import made_by_encoders
from pipelines.tables.vector_column import VectorColumn, since
from vista_core import UsageError

OPTIONS: Final = "options"  # where the configuration of a run has the options of this command
READING = 2  # another number reads every file again: for when records are made of files in another way


@dataclass(frozen=True)
class Job:
    """Everything that a run was resolved to."""

    config: EmbedConfig
    catalog: Catalog
    rules: FetchRules
    kept: tuple[KeptColumn, ...]  # the vector columns that it fills, the default one first
    resources: Resources
    files: Mapping[str, SourceFile]  # the listing by name, in listing order
    skipped: Mapping[str, Entry]  # the files that are skipped, unchanged
    units: Sequence[Unit]  # of the others
    gate_task: GateTask | None = None

    @property
    def source(self) -> Source:
        """What is read."""
        return self.catalog.source

    @property
    def column(self) -> VectorColumn:
        """The default column, by whose fingerprints files and rows are known."""
        return self.kept[0].column

    @property
    def others(self) -> tuple[VectorColumn, ...]:
        """The other columns that it fills."""
        return tuple(each.column for each in self.kept[1:])

    @property
    def rows(self) -> int:
        """How many records there are to read, or an estimate."""
        return sum(unit.rows for unit in self.units)

    @property
    def exact(self) -> bool:
        """True if `rows` is not an estimate."""
        return self.config.limit is not None or (self.source.exact and self.config.sample == 1)

    @property
    def mark(self) -> str:
        """What precedes the names of this source's files in the table."""
        return mark_of(self.config)

    def name(self, uri: str) -> str:
        """The name by which the table knows a file: its printable URI behind the source's mark."""
        return f"{self.mark}{printable(uri)}"

    def files_of(self, unit: Unit) -> tuple[str, ...]:
        """The names of the files that a unit reads."""
        return tuple(map(self.name, unit.uris))

    @property
    def units_by_file(self) -> Counter[str]:
        """In how many units each file is read; empty for a part of the source, which tells nothing of whole files."""
        units = self.units if self.config.scope.is_whole else ()
        return Counter(name for unit in units for name in self.files_of(unit))

    @property
    def versions(self) -> dict[str, str]:
        """The version of each file."""
        return {name: file.version for name, file in self.files.items()}

    def owns(self, name: str) -> bool:
        """True if a file belongs to this source: by the source's name or, if it has none, by its URI."""
        return name.startswith(self.mark) if self.mark else is_named_by(self.config.source, name)

    def is_gone(self, name: str) -> bool:
        """True if a file of this source is no longer there. Of a folder that could not be listed, nobody knows.

        Such a folder is among the files, as one that can't be read.
        """
        return name not in self.files and self.owns(name) and self.files.keys().isdisjoint(folders_of(name))

    def __str__(self) -> str:
        """The encoder, and what there is to read."""
        reading = f"{len(self.files) - len(self.skipped):,} of {len(self.files):,} files to read, in "
        return f"{describe_encoder(self)}; {reading}{len(self.units):,} units of work"


def mark_of(config: EmbedConfig) -> str:
    """`NAME#` for a source with a name. A URI that has a `#` has a `/` before it, and names have none."""
    return f"{config.source_name}#" if config.source_name else ""


def with_absolute_paths(config: EmbedConfig) -> EmbedConfig:
    """Workers have working directories of their own."""
    return dataclasses.replace(
        config,
        source=absolute(config.source),
        db=absolute(config.db),
        model=absolute_model(config.model),
        weights=config.weights and absolute(config.weights),
        from_pretrained=config.from_pretrained and absolute(config.from_pretrained),
        report=absolute_option(config.report),
        gate_task=config.gate_task and absolute(config.gate_task),
        image_root=config.image_root and absolute(config.image_root),
        allow_prefix=tuple(each if is_network(each) else absolute(each) for each in config.allow_prefix),
    )


def resolve_job(config: EmbedConfig, catalog: Catalog, existing: lance.LanceDataset | None, cluster: Cluster) -> Job:
    """Decide everything that can be decided before the start. Raises UsageError for what can't work."""
    resources = share_out(cluster, config.device, config.num_actors)
    if config.transport_rows is not None:
        resources = dataclasses.replace(resources, transport_rows=config.transport_rows)
    require_other_names(catalog.source.extra, existing)
    kept = kept_columns(config, resources.device, existing)
    rules = fetch_rules(config, catalog)
    task = None if config.gate_task is None else GateTask.open(config.gate_task, config.gate_drop, rules)
    return survey(Job(config, catalog, rules, kept, resources, {}, {}, (), task), existing)


def survey(job: Job, existing: lance.LanceDataset | None) -> Job:
    """List the source, and decide which files are read, in which units; unchanged files are skipped."""
    config, source = job.config, job.source
    listed = source.files()
    job = dataclasses.replace(job, files={job.name(name): file for name, file in listed.items()})
    skipped = skippable(job, existing) if config.scope.is_whole and existing is not None else {}
    chosen = source.only({name for name in listed if job.name(name) not in skipped}) if skipped else source
    units = units_in(config.scope, chosen) if len(skipped) < len(listed) else []
    rows = sum(unit.rows for unit in units)
    if not rows and not skipped:
        raise UsageError(f"--source {config.source}: there are no records in it")
    resources = job.resources.limited_to(math.ceil(rows / job.resources.transport_rows))
    return dataclasses.replace(job, skipped=skipped, units=units, resources=resources)


def skippable(job: Job, existing: lance.LanceDataset) -> dict[str, Entry]:
    """The files that need not be read, with their entries in the manifest."""
    images_may_change = job.source.external_images and job.catalog.image_identity != "uri"
    begins_anew = job.config.reembed and not is_under_way(existing, job.column)
    if job.config.read_all or images_may_change or begins_anew:
        return {}
    manifest = read_manifest(job.config.side_table("objects"))
    digest = reading_digest(job, existing.schema)
    if not any(entry.reading == digest for entry in manifest.values()):
        return {}
    held = row_checksum_by_file(TableVersion(existing.uri, existing.version), job.column.fingerprint)
    found = unchanged_files(manifest, job.versions, digest, held)
    # Which rows of a file are missing is found out by reading it.
    return {name: entry for name, entry in found.items() if not (job.config.deletes and entry.missing)}


def reading_digest(job: Job, table: pa.Schema) -> str:
    """Stands for everything, beside a file's content, that makes rows of it."""
    config, name = job.config, job.column.name
    options = [config.source_kind, config.image_root, config.allow_prefix, config.max_image_mb, config.keep_stale]
    options += [config.strict_columns, config.encoding]
    # A column that a backfill is filling comes and goes without any file being read for it.
    kept = {name for each in job.kept for name in (each.column.name, each.column.fingerprint)}
    left = made_by_encoders(table) - kept
    columns = [(field.name, str(field.type)) for field in table if field.name not in left]
    made_by = [READING, job.column.identity.to_json(), since(table, name), job.catalog.reading, options, columns]
    if job.others:
        made_by.append([(each.name, each.identity.to_json(), each.since) for each in job.others])
    return xxhash.xxh3_128_hexdigest(json.dumps(made_by).encode())


def describe_encoder(job: Job) -> str:
    """The encoders as people need to know them."""
    if not job.others:
        return f"{job.kept[0].encoder}, {job.resources}"
    encoders = "; ".join(f"`{each.column.name}` by {each.encoder}" for each in job.kept)
    return f"{encoders}; {job.resources} for each"


def configuration(job: Job) -> dict[str, Any]:
    """The resolved options of the run, for its record."""
    identities = [json.loads(each.column.identity.to_json()) for each in job.kept]
    return {
        OPTIONS: dataclasses.asdict(job.config),
        "encoder": identities if job.others else identities[0],
        "resources": dataclasses.asdict(job.resources),
        "units": len(job.units),
    }
