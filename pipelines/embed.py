"""Embed a catalog: read -> select -> decode -> encode -> write -> commit -> gate -> publish."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayTaskError

from pipelines.progress import RunProgress, duration
from pipelines.ray_session import cluster_now, start_ray
from pipelines.records import IMAGE, REJECT_SCHEMA, RESERVED, table_schema
from pipelines.resources import Resources, share_out
from pipelines.run_config import EmbedConfig, ImageIdentity, encoder_settings
from pipelines.sink.commit import Committer, Counts, clear_stale_rejects
from pipelines.sink.fragments import Bundle, Refill, Written, write_bundle
from pipelines.sink.gates import Verdict, conservation
from pipelines.sink.runs import RunRecord
from pipelines.sink.table import (
    TableVersion,
    as_column,
    ensure_dataset,
    index_ids,
    made_from,
    new_table_schema,
    open_dataset,
    publish,
    stored_identity,
    table_uri,
)
from pipelines.sources import Source
from pipelines.sources.columns import Columns, Images
from pipelines.sources.excerpt import first_units, thin_out
from pipelines.sources.kinds import open_source
from pipelines.sources.objects import absolute, bucket_or_folder, printable
from pipelines.stages.decode import decode
from pipelines.stages.encode import EncodeActor, local_file
from pipelines.stages.fetch import fetch, identify
from pipelines.stages.places import FetchRules
from pipelines.stages.select import select
from vista_core import MODELS, EncoderIdentity, EncoderSettings, UsageError, VistaError, display_name
from vista_core.device import resolve_dtype

FETCH_ROWS = 256
COMMIT_ROWS = 262_144
COMMIT_BYTES = 256 << 20
REJECTS_JUDGED_FROM = 1_000
LIBRARIES = ("ray", "pylance", "lancedb", "torch", "tokenizers", "pillow", "pyarrow", "vista")

log = logging.getLogger(__name__)


class TooManyRejectsError(VistaError):
    """More of the source was rejected than --max-reject-rate allows."""


class GateError(VistaError):
    """The run's result did not pass a gate and was not published."""

    exit_code = 3


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
    units: list[dict]
    settings: EncoderSettings
    identity: EncoderIdentity
    resources: Resources

    @property
    def source(self) -> Source:
        """What is read."""
        return self.catalog.source

    @property
    def rows(self) -> int:
        """How many rows there are to read, or a guess."""
        rows = sum(unit["rows"] for unit in self.units)
        return rows if self.config.limit is not None else round(rows * self.config.sample)

    @property
    def partial(self) -> bool:
        """Whether only a part of the source is read."""
        return self.config.limit is not None or self.config.sample < 1

    @property
    def exact(self) -> bool:
        """Whether the number of rows to read is known."""
        return self.config.limit is not None or (self.source.exact and self.config.sample == 1)


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    job: Job
    counts: Counts
    version: int
    seconds: float
    startup_seconds: float
    first_rows: int

    def __str__(self) -> str:
        """The lines that end a run."""
        config, counts = self.job.config, self.counts
        lines = [
            f"{config.table}: read {counts.read:,}: written {counts.written:,}, rewritten {counts.rewritten:,}, "
            f"unchanged {counts.unchanged:,}, rejected {counts.rejected:,}",
            f"{name_encoder(self.job)}: {duration(self.seconds)}, of which start-up {duration(self.startup_seconds)}"
            + (f", then {self.rows_per_second:,.1f} rows/s encoded" if self.rows_per_second else ""),
        ]
        if counts.removed:
            lines.append(f"removed {counts.removed:,} rows whose record turned bad (--keep-stale keeps them)")
        if counts.reasons:
            lines.append(f"rejected, see {config.table}_rejects: {name_reasons(counts)}")
        lines += excerpts(config)
        lines.append(f"published version {self.version} of {table_uri(config.db, config.table)}")
        return "\n".join(lines)

    @property
    def rows_per_second(self) -> float | None:
        """Rows encoded after start-up, which ends with the first batch; None where too little is left to judge by.

        Unchanged rows are not among them: on a night that resumes they would make any encoder look fast.
        """
        seconds, rows = self.seconds - self.startup_seconds, self.counts.written - self.first_rows
        return rows / seconds if seconds > 1 and rows > 0 else None


def embed(config: EmbedConfig) -> Summary:
    """Embed what is new or changed in `config.source`, and publish it.

    Raises UsageError before anything is written, and VistaError when a run fails: what it committed stays, and the
    same command resumes it.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    config = with_absolute_paths(config)
    catalog = open_catalog(config)
    log.info("source %s: %s", config.source, "; ".join([*catalog.source.describe(), *excerpts(config)]))
    start_ray()
    job = resolve(config, catalog)
    log.info("%s; %s units of work", name_encoder(job), f"{len(job.units):,}")
    table, rejects = open_tables(job)
    record = RunRecord(table_uri(config.db, f"{config.table}_runs"), started, configuration(job), library_versions())
    record.start()
    committer = Committer(index_ids(table), rejects, record.run, config.keep_stale)
    verdicts: list[Verdict] = []
    try:
        startup, first_rows = run(job, committer, began)
        verdicts.append(conservation(committer.counts))
        version = finish(job, committer, verdicts)
    except BaseException as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        record.fail(committer.counts, verdicts, f"{type(cause).__name__}: {cause}"[:2000])
        raise
    summary = Summary(job, committer.counts, version, time.monotonic() - began, startup, first_rows)
    record.succeed(committer.counts, verdicts, version, summary.rows_per_second)
    return summary


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


def build(job: Job, base: TableVersion) -> Dataset:
    """The flow, from units to encoded records."""
    uses, settings = job.resources, job.settings
    units = [{"unit": json.dumps(unit)} for unit in job.units]
    read = functools.partial(
        read_and_select, source=job.source.without_listing(), rules=job.rules, share=job.config.sample, base=base
    )
    records = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        read, batch_size=1, num_cpus=uses.read_cpus
    )
    if job.source.elsewhere:
        records = records.map_batches(
            functools.partial(fetch, rules=job.rules),
            batch_format="pyarrow",
            batch_size=FETCH_ROWS,
            num_cpus=uses.fetch_cpus,
        )
    return (
        records.map_batches(
            functools.partial(decode, settings=settings, store_images=job.config.store_images),
            batch_format="pyarrow",
            batch_size=uses.transport_rows,
            num_cpus=uses.decode_cpus,
        )
        # Fused into decode. Without it a block is 128 MB, which of texts may be an hour's work between two commits.
        .repartition(target_num_rows_per_block=uses.transport_rows)
        .map_batches(
            EncodeActor,
            batch_format="pyarrow",
            batch_size=uses.transport_rows,
            compute=ActorPoolStrategy(size=uses.actors),
            num_cpus=uses.actor_cpus or None,  # Ray Data wants one of the two, not both
            num_gpus=uses.actor_gpus or None,
            fn_constructor_args=(settings, job.identity, uses.threads),
        )
    )


def read_and_select(
    batch: dict[str, Any], source: Source, rules: FetchRules, share: float, base: TableVersion
) -> Iterator[pa.Table]:
    """One unit, streamed: its records that need a vector, its rejects, and its tallies."""
    for unit in map(json.loads, batch["unit"]):
        for records, rejects in thin_out(source.read(unit), share, unit.get("limit")):
            rows = FETCH_ROWS if source.elsewhere else max(1, len(records))  # whose images may be in memory at once
            for start in range(0, len(records), rows):
                bad = {row - start: reject for row, reject in rejects.items() if start <= row < start + rows}
                yield from select(*identify(records.slice(start, rows), bad, rules), source.has_ids, base)


def run(job: Job, committer: Committer, began: float) -> tuple[float, int]:
    """Stream the source through the flow and commit what arrives.

    Returns the seconds since `began` until the first rows came, and how many those were.
    """
    # Reserves nothing: backpressured tasks keep their CPUs, and wait for what this one commits.
    write = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(write_bundle)
    startup, first_rows = 0.0, 0
    with RunProgress(job.rows, job.exact) as progress:
        waiting: list[Any] = []
        rows = size = 0
        last_commit = time.monotonic()
        for refs in build(job, committer.base).iter_internal_ref_bundles():
            if not refs.num_rows():
                continue
            if not startup:
                startup, first_rows = time.monotonic() - began, refs.num_rows() or 0
            waiting += refs.block_refs
            rows, size = rows + (refs.num_rows() or 0), size + refs.size_bytes()
            due = time.monotonic() - last_commit >= job.config.commit_seconds
            if due or rows >= COMMIT_ROWS or size >= COMMIT_BYTES:
                commit(committer, write, waiting)
                check_reject_rate(committer, job.config, REJECTS_JUDGED_FROM)
                waiting, rows, size, last_commit = [], 0, 0, time.monotonic()
            progress.update(committer.counts, rows)
        commit(committer, write, waiting)
        progress.update(committer.counts, 0, ended=True)
    check_reject_rate(committer, job.config, 1)
    return startup, first_rows


def commit(committer: Committer, write: Any, blocks: list[Any]) -> None:
    """Have a worker write `blocks`, as often as it takes, and commit them."""

    def write_remotely(bundle: Bundle) -> Written | Refill:
        return ray.get(write.remote(bundle, *blocks))

    if blocks:
        committer.commit(write_remotely)


def check_reject_rate(committer: Committer, config: EmbedConfig, judged_from: int) -> None:
    """Stop a run whose source is worse than the user expects, before it has cost a night."""
    counts = committer.counts
    if counts.read >= judged_from and counts.rejected > config.max_reject_rate * counts.read:
        raise TooManyRejectsError(
            f"{counts.rejected:,} of {counts.read:,} rows read were rejected ({counts.rejected / counts.read:.1%}), "
            f"more than --max-reject-rate {config.max_reject_rate:g}: {name_reasons(counts)}. For example: "
            f"{committer.example_of(counts.reasons.most_common(1)[0][0])}. "
            f"{config.table}_rejects has each row and why. Mend the cause and run again, or run with a higher rate: "
            "what was committed stays"
        )


def finish(job: Job, committer: Committer, verdicts: list[Verdict]) -> int:
    """Publish the table if the gates let it pass, and return its version."""
    if failed := [verdict for verdict in verdicts if not verdict.passed]:
        raise GateError("not published: " + "; ".join(f"{v.gate}: {v.message}" for v in failed))
    if not job.partial:
        listed = {printable(name) for unit in job.units for name in unit_objects(unit)}
        clear_stale_rejects(committer.rejects, committer.run, listed)
    committer.table = index_ids(committer.table)
    publish(committer.table)
    return committer.table.version


def unit_objects(unit: dict) -> list[str]:
    """The source objects that a unit reads."""
    return unit["images"] if "images" in unit else [unit["object"]]


def resolve(config: EmbedConfig, catalog: Catalog) -> Job:
    """Settle everything that can be settled before the start. Raises UsageError for what can't work."""
    resources = share_out(cluster_now(), config.device, config.num_actors)
    existing = open_dataset(table_uri(config.db, config.table))
    column = stored_identity(existing) if existing is not None else None
    settings = settle_encoder(config, resources, column)
    here = dataclasses.replace(settings, device="cpu", weights=local_file(settings.weights))
    identity = EncoderIdentity.of(here)
    if column is not None and (differences := identity.differences(column)):
        raise UsageError(
            f"{table_uri(config.db, config.table)}: the column `vector` was embedded with another encoder, and the "
            f"vectors of two can't be compared: {'; '.join(differences)}. Use the column's encoder, or another --table"
        )
    units = catalog.source.units()
    if config.limit is not None:
        units = first_units(catalog.source, units, config.sample, config.limit)
    if not sum(unit["rows"] for unit in units):
        raise UsageError(f"--source {config.source}: there are no records in it")
    resources = limit_actors(resources, sum(unit["rows"] for unit in units))
    settings = dataclasses.replace(settings, dtype=identity.dtype)  # not for each actor's machine to decide
    return Job(config, catalog, fetch_rules(config, catalog), units, settings, identity, resources)


def limit_actors(resources: Resources, rows: int) -> Resources:
    """No more encoders than there are batches for them."""
    return dataclasses.replace(resources, actors=min(resources.actors, math.ceil(rows / resources.transport_rows)))


def settle_encoder(config: EmbedConfig, uses: Resources, column: EncoderIdentity | None) -> EncoderSettings:
    """The encoder asked for; what was left open is as in the column that is there, else what is fastest here."""
    settings = dataclasses.replace(encoder_settings(config), device=uses.device)
    if column is not None:
        inherited = as_column(settings, column)
        return dataclasses.replace(
            inherited,
            dtype=inherited.dtype if config.dtype == "auto" else config.dtype,
            alpha=config.alpha or inherited.alpha,
            max_tokens=config.max_tokens or inherited.max_tokens,
        )
    if uses.device == "cuda" and settings.dtype == "auto":
        # The driver's machine need not have the GPU that the actors will have.
        return dataclasses.replace(settings, dtype=resolve_dtype("auto", "cuda", MODELS[config.model]))
    return settings


def open_tables(job: Job) -> tuple[lance.LanceDataset, lance.LanceDataset]:
    """The table and its rejects, created where they are missing."""
    config, source = job.config, job.source
    schema = table_schema(
        source.extra, job.identity.dimension, image_uri=source.has_uris, store_images=config.store_images
    )
    files = {
        "model": config.model,
        "weights": config.weights,
        "from_pretrained": config.from_pretrained,
    } | job.catalog.remembered()
    table = ensure_dataset(table_uri(config.db, config.table), new_table_schema(schema, job.identity, files))
    if config.store_images and IMAGE not in table.schema.names:
        raise UsageError(f"--store-images: {config.table} was made without it; choose another --table")
    check_columns(table.schema, schema)
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


def name_reasons(counts: Counts) -> str:
    """The commonest reasons first."""
    return ", ".join(f"{reason} {number:,}" for reason, number in counts.reasons.most_common(5))


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
