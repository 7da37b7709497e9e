"""Embed a catalog: read -> select -> decode -> encode -> write -> commit -> gate -> publish."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayTaskError

from pipelines.progress import RunProgress, duration
from pipelines.records import IMAGE, REJECT_SCHEMA, table_schema
from pipelines.resources import Cluster, Resources, share_out
from pipelines.run_config import EmbedConfig, encoder_settings
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
from pipelines.sources import Columns, Source, open_source
from pipelines.sources.objects import absolute, printable
from pipelines.stages.decode import decode
from pipelines.stages.encode import EncodeActor, local_file
from pipelines.stages.select import select
from vista_core import MODELS, EncoderIdentity, EncoderSettings, UsageError, VistaError, display_name
from vista_core.device import resolve_dtype

COMMIT_ROWS = 262_144
ACTOR_START_SECONDS = 600
COMMIT_BYTES = 256 << 20
REJECTS_JUDGED_FROM = 1_000
LIBRARIES = ("ray", "pylance", "lancedb", "torch", "tokenizers", "pillow", "pyarrow", "vista")

log = logging.getLogger(__name__)


class TooManyRejectsError(VistaError):
    """More of the source was rejected than --max-reject-rate allows."""


class GateError(VistaError):
    """The run's result did not pass a gate and was not published."""


@dataclass(frozen=True)
class Job:
    """Everything a run was resolved to, before anything is written."""

    config: EmbedConfig
    source: Source
    units: list[dict]
    settings: EncoderSettings
    identity: EncoderIdentity
    resources: Resources


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
        if counts.reasons:
            lines.append(f"rejected, see {config.table}_rejects: {name_reasons(counts)}")
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
    source = open_catalog(config)
    log.info("source %s: %s", config.source, "; ".join(source.describe()))
    start_ray()
    job = resolve(config, source)
    log.info("%s; %s units of work", name_encoder(job), f"{len(job.units):,}")
    table, rejects = open_tables(job)
    record = RunRecord(table_uri(config.db, f"{config.table}_runs"), started, configuration(job), library_versions())
    record.start()
    committer = Committer(index_ids(table), rejects, record.run)
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


def with_absolute_paths(config: EmbedConfig) -> EmbedConfig:
    """Workers have working directories of their own."""
    return dataclasses.replace(
        config,
        source=absolute(config.source),
        db=absolute(config.db),
        weights=config.weights and absolute(config.weights),
        from_pretrained=config.from_pretrained and absolute(config.from_pretrained),
    )


def open_catalog(config: EmbedConfig) -> Source:
    """The source, its columns taken for the same as when the table was made.

    A guess may turn out otherwise the night that a catalog gains a column, and another id column would double the
    table. Raises UsageError where only the user can know.
    """
    asked = Columns(config.id_column, config.text_column, config.image_column)
    source = open_source(config.source, asked)
    existing = open_dataset(table_uri(config.db, config.table))
    before = made_from(existing).get("columns", {}) if existing is not None else {}
    settled = {role: getattr(asked, role) or before.get(role, taken) for role, taken in source.roles.items()}
    if settled != source.roles:
        source = open_source(config.source, Columns(**settled))
    for role, column in settled.items():
        if source.roles[role] != column:
            raise UsageError(
                f"{config.table} was filled without a column for {role!r}, and {source.roles[role]!r} would now be "
                f"taken for it: say so with --{role}-column {source.roles[role]}, or choose another --table"
            )
    return source


def build(job: Job, base: TableVersion) -> Dataset:
    """The flow, from units to encoded records."""
    uses, settings = job.resources, job.settings
    units = [{"unit": json.dumps(unit)} for unit in job.units]
    return (
        ray.data.from_items(units, override_num_blocks=len(units))
        .map_batches(
            functools.partial(read_and_select, source=job.source.without_listing(), base=base),
            batch_size=1,
            num_cpus=uses.read_cpus,
        )
        .map_batches(
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


def read_and_select(batch: dict[str, Any], source: Source, base: TableVersion) -> Iterator[pa.Table]:
    """One unit, streamed: its records that need a vector, its rejects, and its tallies."""
    for unit in batch["unit"]:
        for records, rejects in source.read(json.loads(unit)):
            yield from select(records, rejects, source.has_ids, base)


def run(job: Job, committer: Committer, began: float) -> tuple[float, int]:
    """Stream the source through the flow and commit what arrives.

    Returns the seconds since `began` until the first rows came, and how many those were.
    """
    # Reserves nothing: backpressured tasks keep their CPUs, and wait for what this one commits.
    write = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(write_bundle)
    startup, first_rows = 0.0, 0
    with RunProgress(sum(unit["rows"] for unit in job.units)) as progress:
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
                check_reject_rate(committer.counts, job.config, REJECTS_JUDGED_FROM)
                waiting, rows, size, last_commit = [], 0, 0, time.monotonic()
            progress.update(committer.counts, rows)
        commit(committer, write, waiting)
        progress.update(committer.counts, 0, ended=True)
    check_reject_rate(committer.counts, job.config, 1)
    return startup, first_rows


def commit(committer: Committer, write: Any, blocks: list[Any]) -> None:
    """Have a worker write `blocks`, as often as it takes, and commit them."""

    def write_remotely(bundle: Bundle) -> Written | Refill:
        return ray.get(write.remote(bundle, *blocks))

    if blocks:
        committer.commit(write_remotely)


def check_reject_rate(counts: Counts, config: EmbedConfig, judged_from: int) -> None:
    """Stop a run whose source is worse than the user expects, before it has cost a night."""
    if counts.read >= judged_from and counts.rejected > config.max_reject_rate * counts.read:
        raise TooManyRejectsError(
            f"{counts.rejected:,} of {counts.read:,} rows read were rejected ({counts.rejected / counts.read:.1%}), "
            f"more than --max-reject-rate {config.max_reject_rate:g}: {name_reasons(counts)}. "
            f"{config.table}_rejects has each row and why. Mend the source and run again, or run with a higher rate: "
            "what was committed stays"
        )


def finish(job: Job, committer: Committer, verdicts: list[Verdict]) -> int:
    """Publish the table if the gates let it pass, and return its version."""
    if failed := [verdict for verdict in verdicts if not verdict.passed]:
        raise GateError("not published: " + "; ".join(f"{v.gate}: {v.message}" for v in failed))
    listed = {printable(name) for unit in job.units for name in unit_objects(unit)}
    clear_stale_rejects(committer.rejects, committer.run, listed)
    committer.table = index_ids(committer.table)
    publish(committer.table)
    return committer.table.version


def unit_objects(unit: dict) -> list[str]:
    """The source objects that a unit reads."""
    return unit["images"] if "images" in unit else [unit["object"]]


def start_ray() -> None:
    """Join the cluster of RAY_ADDRESS (as a submitted job does) or one that runs here, else start one."""
    if not ray.is_initialized():
        # Ray forks only to exec, so nothing of Lance runs in between.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        # Ray Data's actors always draw a complaint from the core worker about their arguments (ray#53727).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with quiet_stderr():  # it would say that the level was set
            ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env=worker_environment())
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # It warns of every stage that uses memory at all, since none says beforehand how much.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    # Encoders that can't start must end the run with their error; and decoding needn't start before they did.
    context.wait_for_min_actors_s = ACTOR_START_SECONDS


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops what native code writes to standard error meanwhile; exceptions are not affected."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def worker_environment() -> dict[str, Any]:
    """Lets workers import this code where it isn't installed; under `ray job submit` they can already."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    here = str(Path(__file__).resolve().parents[1])
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}}


def resolve(config: EmbedConfig, source: Source) -> Job:
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
    units = source.units()
    if not sum(unit["rows"] for unit in units):
        raise UsageError(f"--source {config.source}: there are no records in it")
    resources = limit_actors(resources, sum(unit["rows"] for unit in units))
    settings = dataclasses.replace(settings, dtype=identity.dtype)  # not for each actor's machine to decide
    return Job(config, source, units, settings, identity, resources)


def cluster_now() -> Cluster:
    """What Ray has to give at this moment."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return Cluster(cpus, gpus, sum("CPU" in node for node in nodes))


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
        "columns": source.roles,
    }
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
