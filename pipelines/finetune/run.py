"""The whole run of `finetune`: prepare the data, train, write the model and its page."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow.fs as pafs
import ray
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipelines.cluster.session import cluster_now, cores, start_ray
from pipelines.fetching.addresses import is_network
from pipelines.fetching.locations import FetchRules
from pipelines.finetune.clicks import read_clicks
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.figures import Figures, in_steps
from pipelines.finetune.layout import has_lines, read_layout
from pipelines.finetune.mine import with_mined
from pipelines.finetune.output import Trained, write_model
from pipelines.finetune.parquet import parquet_files, read_parquet
from pipelines.finetune.plan import Plan
from pipelines.finetune.prepared import Prepared, write_bytes
from pipelines.finetune.progress import TrainingProgress
from pipelines.finetune.training import Training
from pipelines.finetune.worker import Board, read_state, work
from pipelines.storage.model_files import absolute_model, local_files
from pipelines.storage.uris import absolute, filesystem
from vista_core import EncoderSettings, UsageError, VistaError
from vista_core.checkpoint import check_keys, open_checkpoint
from vista_core.device import resolve_dtype
from vista_core.hub import resolve_config, weights_path

OPTIONS_FILE: Final = "options.json"
CHECKPOINTS: Final = "checkpoints"
GOES_ON: Final = "the same command goes on from the last checkpoint"
DATA: Final = "data"
MINED: Final = "mined"
# Options that may be others when a training goes on, as they don't change what is learned.
FREE: Final = ("device", "processes", "tokens", "recompute", "loaders", "json", "max_minutes")
POLL_SECONDS: Final = 0.5
MAX_FAILURES: Final = 3  # of workers; after each, training goes on from the last checkpoint
TOKENS: Final = {"cpu": 16_384, "cuda": 131_072}
MOST_LOADERS: Final = 8

log = logging.getLogger(__name__)


class TrainingError(VistaError):
    """A training ended before its last step."""


def finetune(config: FinetuneConfig) -> Trained:
    """Train, or go on with a training that was interrupted, and write the model folder.

    Raises UsageError for data, a model or options that can't be used, and TrainingError if training fails.
    """
    config = with_absolute_paths(config)
    check_same_options(config)
    if (done := Trained.of(config.output)) is not None:
        log.info("%s is complete already", config.output)
        return replace(done, is_json=config.json)
    check_model(config)
    folder = f"{config.output}/{DATA}"
    prepared = Prepared.open(folder)
    if prepared is None:
        prepared = read_data(config, folder)
        if config.mine_negatives:
            prepared = with_mined(config, prepared, f"{config.output}/{MINED}")
        # Only now that the data can be used, so that who mends an option doesn't need another folder; and before the
        # data is complete, so that there is none whose options aren't known.
        write_bytes(f"{config.output}/{OPTIONS_FILE}", json.dumps(options_that_matter(config), indent=1).encode())
        prepared.write(folder)
    start_ray()
    workers = Workers.of(config)
    training = planned(config, prepared, workers)
    log.info(
        "%s: %s; %s of %s queries, on %s",
        config.output,
        ", ".join(
            f"{task.name} with {len(task.pairs):,} {'pair' if len(task.pairs) == 1 else 'pairs'}"
            for task in prepared.tasks
        ),
        in_steps(training.steps),
        training.plan.batch,
        workers,
    )
    with fit(config, training, workers, prepared).as_directory() as folder:
        state = read_state(Path(folder))
    reports = (state["stepped"], state["validated"], state["skipped"])
    return write_model(Figures(config, training, prepared, str(workers), *reports), state["model"])


def check_model(config: FinetuneConfig) -> None:
    """Raise UsageError or CheckpointError if the model to start from can't be had, before anything is written."""
    settings = local_files(config.encoder.settings("cpu"))
    check_keys(resolve_config(settings), open_checkpoint(weights_path(settings)))


def read_data(config: FinetuneConfig, folder: str) -> Prepared:
    """The pairs to train with; images that are cells of a table are written into `folder`."""
    if config.data is None:
        assert config.db and config.table and config.clicks, "the options name them"
        rules = FetchRules(config.allow_prefix) if config.allow_prefix else None
        return read_clicks((config.db, config.table), config.clicks, rules, folder)
    files = parquet_files(config.data)
    if files and not has_lines(config.data):
        return read_parquet(files, config.data, folder)
    return read_layout(config.data)


def with_absolute_paths(config: FinetuneConfig) -> FinetuneConfig:
    """Workers have working directories of their own."""
    return replace(
        config,
        data=config.data and absolute(config.data).rstrip("/"),
        db=config.db and absolute(config.db),
        clicks=config.clicks and absolute(config.clicks),
        allow_prefix=tuple(each if is_network(each) else absolute(each) for each in config.allow_prefix),
        output=absolute(config.output).rstrip("/"),
        model=absolute_model(config.model),
        weights=config.weights and absolute(config.weights),
        from_pretrained=config.from_pretrained and absolute(config.from_pretrained),
    )


def options_that_matter(config: FinetuneConfig) -> dict[str, Any]:
    """The options that change what is learned, as JSON has them."""
    given = {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE}
    stored: dict[str, Any] = json.loads(json.dumps(given))
    return stored


def check_same_options(config: FinetuneConfig) -> None:
    """Raise UsageError if the output folder has a training with other options."""
    fs, path = filesystem(f"{config.output}/{OPTIONS_FILE}")
    try:
        before: dict[str, Any] = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        return
    given = options_that_matter(config)
    names = sorted(name for name in before | given if before.get(name) != given.get(name))
    if names:
        differ = "; ".join(f"{name} {given.get(name)!r} here, {before.get(name)!r} there" for name in names)
        raise UsageError(f"--output {config.output} has a training with other options: {differ}. Name another folder")


@dataclass(frozen=True)
class Workers:
    """The processes that train: how many, and on what."""

    device: Literal["cpu", "cuda"]
    count: int
    loaders: int  # of each

    @classmethod
    def of(cls, config: FinetuneConfig) -> Workers:
        """Those that were asked for, or one for each GPU. Raises UsageError if the cluster has not so many."""
        found = cluster_now()
        on_gpus = config.device == "cuda" or (config.device == "auto" and found.gpus >= 1)
        count = config.processes or (max(1, int(found.gpus)) if on_gpus else 1)
        there, what = (found.gpus, "GPUs") if on_gpus else (found.cpus, "CPUs")
        if count > there:
            raise UsageError(f"{count} processes train on {count} {what}, but the Ray cluster has {there:g}")
        each = cores() * found.nodes // count
        loaders = min(MOST_LOADERS, max(1, each - 1)) if config.loaders is None else config.loaders
        return cls("cuda" if on_gpus else "cpu", count, loaders)

    def __str__(self) -> str:
        """What trains, for people."""
        one, many = ("GPU", "GPUs") if self.device == "cuda" else ("CPU process", "CPU processes")
        return f"{self.count} {one if self.count == 1 else many}"


def planned(config: FinetuneConfig, prepared: Prepared, workers: Workers) -> Training:
    """What the workers are to do."""
    recipe, tasks = config.chosen_recipe, prepared.tasks
    repeats = config.repeats()
    if unknown := sorted(repeats.keys() - {task.name for task in tasks}):
        raise UsageError(f"--repeat {unknown[0]}: there are the tasks {', '.join(task.name for task in tasks)}")
    plan = Plan(
        counts=tuple(len(task.pairs) for task in tasks),
        batch=recipe.batch,
        seed=config.seed,
        held_out=config.validation,
        repeats=tuple(repeats.get(task.name, 1) for task in tasks),
    )
    if not plan.steps_per_epoch:
        raise UsageError(f"--repeat {' '.join(config.repeat)}: no task is left to train with")
    start = config.encoder.settings(workers.device)
    return Training(
        recipe=recipe,
        plan=plan,
        steps=config.steps or plan.steps(recipe.epochs),
        prepared=f"{config.output}/{DATA}",
        negatives=tuple(recipe.edit_negatives if task.edits else recipe.negatives for task in tasks),
        start=start,
        dtype=precision(config, start, workers.device),
        tokens=config.tokens or TOKENS[workers.device],
        recompute=config.recompute,
        loaders=workers.loaders,
        save_every=config.checkpoint_steps,
        max_seconds=config.max_minutes and 60 * config.max_minutes,
    )


def precision(config: FinetuneConfig, start: EncoderSettings, device: str) -> str:
    """The precision of products. float16 would need scaled losses, so it isn't used."""
    chosen = resolve_dtype(config.dtype, device, resolve_config(local_files(start, weights=False)))
    return "float32" if chosen == "float16" else chosen


def fit(config: FinetuneConfig, training: Training, workers: Workers, prepared: Prepared) -> Checkpoint:
    """Train to the end, and return the last checkpoint. Raises TrainingError."""
    fs, path = filesystem(config.output)
    board = Board.remote()  # type: ignore[attr-defined]
    gpus = workers.device == "cuda"
    trainer = TorchTrainer(
        work,
        train_loop_config={"training": training, "board": board},
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=gpus, resources_per_worker={"CPU": 1, **({"GPU": 1} if gpus else {})}
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=pafs.PyFileSystem(pafs.FSSpecHandler(fs)),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    fitting, over = Fitting(trainer.fit), False
    with TrainingProgress(training, [task.name for task in prepared.tasks]) as progress:
        try:
            while not over:
                over = fitting.over(POLL_SECONDS)
                for report in ray.get(board.take.remote()):
                    progress(report)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"stopped after {progress.done}; {GOES_ON}") from stop
    result = fitting.result()
    if result.checkpoint is None:
        raise TrainingError(f"training ended without a checkpoint in {config.output}/{CHECKPOINTS}")
    return result.checkpoint


class Fitting:
    """A call in a thread. Ray Train would handle SIGINT itself in the main thread, and end this process at once."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.found: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Call the function, and keep what it returns or raises."""
        try:
            self.found = self.function()
        except BaseException as error:  # noqa: BLE001  # raised in the main thread
            self.error = error

    def over(self, seconds: float) -> bool:
        """True if the call has ended; waits so long for it."""
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def result(self) -> Any:
        """What the function returned. Raises TrainingError with the first worker's error."""
        if self.error is None:
            return self.found
        failures = getattr(self.error, "worker_failures", None) or {0: self.error}
        rank, first = min(failures.items())
        if isinstance(first, UsageError):
            raise first
        raise TrainingError(
            f"training failed in process {rank}: {type(first).__name__}: {first}. When that is mended, {GOES_ON}"
        ) from self.error
