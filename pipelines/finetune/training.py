"""The training of one process: steps, searches for the held-out pairs, and states that it can go on from."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.finetune.batches import Batches, Skipped, TrainingBatch, loaded_ahead
from pipelines.finetune.optimizer import Optimizers
from pipelines.finetune.plan import Plan, rate_at
from pipelines.finetune.prepared import Prepared
from pipelines.finetune.processes import Processes
from pipelines.finetune.recipe import Recipe
from pipelines.finetune.step import Computation, loss_and_backward, recompute_layers, trained
from pipelines.finetune.validation import held_out_batches, hit_rates
from pipelines.storage.model_files import local_files
from vista_core import EncoderSettings, Preprocessor
from vista_core.model import VistaModel


@dataclass(frozen=True)
class Training:
    """What is to be done, as values that can be sent to another process."""

    recipe: Recipe
    plan: Plan
    steps: int
    prepared: str  # folder of the prepared data
    negatives: tuple[int, ...]  # that a pair of each task brings into its batch
    start: EncoderSettings  # the model to start from
    dtype: str
    tokens: int
    recompute: bool
    loaders: int
    save_every: int  # steps
    max_seconds: float | None = None


@dataclass(frozen=True)
class Stepped:
    """A step was made, over the batches of all processes. `loss` is None if no pair of it could be used."""

    step: int
    task: int
    loss: float | None
    learning_rate: float
    gradient_norm: float
    seconds: float  # of the training up to now
    progress: float  # of the training, from 0 to 1


@dataclass(frozen=True)
class Validated:
    """The held-out pairs were searched for: hit rates of each task by their names, such as `hit_rate@5`."""

    step: int
    hit_rates: dict[str, dict[str, float]]


@dataclass
class State:
    """Where a training stands; `step` is the next one. From equal states, trainings with equal data go on equally."""

    model: VistaModel
    optimizer: Optimizers
    step: int = 0
    seconds: float = 0.0
    stepped: list[Stepped] = field(default_factory=list)
    validated: list[Validated] = field(default_factory=list)
    skipped: Counter[Skipped] = field(default_factory=Counter)  # of all processes, up to the last save

    @classmethod
    def new(cls, model: VistaModel, recipe: Recipe) -> State:
        """The beginning of a training of a model, which is on its device."""
        model.train().requires_grad_(True)
        if recipe.trained == "vision":
            model.text.requires_grad_(False)
        weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        return cls(model, Optimizers.of(weights, recipe))

    def stored(self) -> dict[str, Any]:
        """The state as values that torch saves."""
        kept = {name: getattr(self, name) for name in ("step", "seconds", "stepped", "validated", "skipped")}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **kept}

    def restore(self, stored: dict[str, Any]) -> None:
        """The inverse of `stored`."""
        self.model.load_state_dict(stored.pop("model"))
        self.optimizer.load_state_dict(stored.pop("optimizer"))
        for name, value in stored.items():
            setattr(self, name, value)


@dataclass
class Trainer:
    """One of the processes that train. `report` hears of every step in the leading one; all of them call `save`."""

    training: Training
    state: State
    processes: Processes
    report: Callable[[Stepped | Validated], None]
    save: Callable[[State], None]

    def __post_init__(self) -> None:
        prepared = Prepared.open(self.training.prepared)
        assert prepared is not None, "it was prepared before processes were started"
        self.skipped = Counter[Skipped]()  # of this process, since the last save
        self.tasks = [task.name for task in prepared.tasks]
        self.held_out: list[TrainingBatch] = []
        if self.processes.leads:
            self.held_out = held_out_batches(
                prepared, Preprocessor.load(local_files(self.training.start, weights=False)), self.training.plan
            )
        self.computation = Computation(
            getattr(torch, self.training.dtype), self.training.tokens, self.training.recipe.temperature
        )

    def run(self) -> None:
        """Make the steps that are left. What is saved last is the end of the training."""
        training, state = self.training, self.state
        if training.recompute:
            recompute_layers(state.model)
        share = Batches(training.prepared, training.start, training.plan, training.negatives)
        share.rank, share.processes = self.processes.rank, self.processes.count
        before, began = state.seconds, time.monotonic()
        for batch in loaded_ahead(share, state.step, training.steps, training.loaders):
            progress = self.progress(batch.step, before + time.monotonic() - began)
            if progress >= 1:
                break
            rate = rate_at(progress, training.recipe.warmup, training.recipe.schedule)
            loss, norm = self.step(batch, rate)
            state.step, state.seconds = batch.step + 1, before + time.monotonic() - began
            self.skipped.update(batch.skipped)
            peak = training.recipe.learning_rate
            self.tell(Stepped(batch.step, batch.task, loss, rate * peak, norm, state.seconds, progress))
            if state.step % training.save_every == 0 and state.step < training.steps:
                self.validate_and_save()
        self.validate_and_save()

    def progress(self, step: int, seconds: float) -> float:
        """How much of the training is over, by steps or by time: in all processes that of the leading one."""
        by_step = (step + 0.5) / self.training.steps
        if self.training.max_seconds is None:
            return by_step
        return self.processes.leaders(max(by_step, seconds / self.training.max_seconds), self.state.model.device)

    def step(self, batch: TrainingBatch, rate: float) -> tuple[float | None, float]:
        """One step at a share of the highest learning rates; returns the loss, and the norm of its gradients."""
        loss = loss_and_backward(self.state.model, batch, self.computation, self.processes)
        norm = 0.0
        if loss is not None:
            longest = self.training.recipe.max_gradient_norm
            norm = float(torch.nn.utils.clip_grad_norm_(trained(self.state.model), longest))
            self.state.optimizer.step(rate)
        self.state.optimizer.forget_gradients()
        return loss, norm

    def tell(self, happened: Stepped | Validated) -> None:
        """Note what happened, and report it."""
        if isinstance(happened, Stepped):
            self.state.stepped.append(happened)
        else:
            self.state.validated.append(happened)
        if self.processes.leads:
            self.report(happened)

    def validate_and_save(self) -> None:
        """Search for the held-out pairs, unless that was done at this step, and save the state."""
        validated, step = self.state.validated, self.state.step
        if self.held_out and not (validated and validated[-1].step == step):
            rates = {
                self.tasks[batch.task]: hit_rates(self.state.model, batch, self.computation) for batch in self.held_out
            }
            self.tell(Validated(step, rates))
        for each in self.processes.collect(self.skipped):
            self.state.skipped.update(each)
        self.skipped = Counter()
        self.save(self.state)
