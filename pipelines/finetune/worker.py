"""The processes that train, as Ray Train's workers, and what they tell the process that started them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Final

import ray
import ray.train
import torch
from ray.train.torch import get_device

from pipelines.finetune.processes import Processes
from pipelines.finetune.training import State, Stepped, Trainer, Training, Validated
from pipelines.storage.home import ensure_home
from pipelines.storage.model_files import local_files
from vista_core.checkpoint import load_model, open_checkpoint
from vista_core.hub import resolve_config, weights_path

STATE_FILE: Final = "state.pt"


@ray.remote(num_cpus=0)
class Board:
    """Holds what the leading process reports until it is read."""

    def __init__(self) -> None:
        self.reports: list[Stepped | Validated] = []

    def put(self, report: Stepped | Validated) -> None:
        """Report something."""
        self.reports.append(report)

    def take(self) -> list[Stepped | Validated]:
        """What was reported since this was last called."""
        taken, self.reports = self.reports, []
        return taken


def work(given: dict[str, Any]) -> None:
    """What each of Ray Train's workers does: train from the last checkpoint, or from the start."""
    ensure_home()
    training, board = given["training"], given["board"]
    assert isinstance(training, Training)
    context = ray.train.get_context()
    device = get_device()
    if device.type == "cpu":  # Ray limits a process to the CPUs that it reserves
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    start = local_files(training.start)
    model = load_model(resolve_config(start), open_checkpoint(weights_path(start))).to(device)
    state = State.new(model, training.recipe)
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state.restore(read_state(Path(folder)))
    Trainer(training, state, Processes.joined(), lambda report: tell(board, report), save).run()


def tell(board: Any, report: Stepped | Validated) -> None:
    """Put a report on the board, without waiting for it."""
    board.put.remote(report)


def save(state: State) -> None:
    """Save a checkpoint; all processes come here together, and the leading one has the state."""
    metrics = {"step": state.step}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state.stored(), Path(folder) / STATE_FILE)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def read_state(folder: Path) -> dict[str, Any]:
    """The state that `save` wrote."""
    stored: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=False)
    return stored
