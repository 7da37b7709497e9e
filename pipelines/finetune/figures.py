"""The figures of a training, for its page, its card and other programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipelines.finetune.batches import Skipped
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.prepared import Prepared
from pipelines.finetune.training import Stepped, Training, Validated
from pipelines.storage.model_files import local_files
from vista_core import EncoderSettings
from vista_core.hub import model_name, resolve_alpha

LAST: Final = 50  # steps whose mean loss is reported
NAMED: Final = 3  # images that can't be used, in a line for people


def in_steps(count: int) -> str:
    """A number of steps, for people."""
    return f"{count:,} {'step' if count == 1 else 'steps'}"


@dataclass(frozen=True)
class Figures:
    """What a training did."""

    config: FinetuneConfig
    training: Training
    prepared: Prepared
    trained_on: str  # the processes, for people
    stepped: Sequence[Stepped]
    validated: Sequence[Validated]
    skipped: Counter[Skipped]

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.config.model_name

    @property
    def start(self) -> EncoderSettings:
        """The model that it started from, with its files but the weights on this machine."""
        return local_files(self.training.start, weights=False)

    @property
    def alpha(self) -> str:
        """What became of transparent images."""
        return resolve_alpha(self.start)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return [task.name for task in self.prepared.tasks]

    @property
    def seconds(self) -> float:
        """Time of the training, over all runs."""
        return self.stepped[-1].seconds if self.stepped else 0.0

    def losses(self, task: int) -> list[tuple[int, float]]:
        """The steps of a task, and their losses."""
        return [(each.step, each.loss) for each in self.stepped if each.task == task and each.loss is not None]

    def last_losses(self) -> dict[str, float]:
        """The mean loss of the last steps of each task."""
        found = {}
        for number, name in enumerate(self.tasks):
            if last := [loss for _, loss in self.losses(number)][-LAST:]:
                found[name] = sum(last) / len(last)
        return found

    @property
    def left_out(self) -> list[dict[str, Any]]:
        """What was left out of batches, and how often, as `in_words` takes it."""
        return [{**each._asdict(), "times": times} for each, times in sorted(self.skipped.items())]

    def facts(self) -> dict[str, Any]:
        """The content of training.json."""
        return {
            "model": self.name,
            "started from": model_name(self.start),
            "recipe": self.config.recipe,
            "hyperparameters": dataclasses.asdict(self.training.recipe),
            "seed": self.config.seed,
            "precision of products": self.training.dtype,
            "processes": self.trained_on,
            "data": {"tasks": dict(zip(self.tasks, self.training.plan.counts, strict=True)), **self.prepared.facts},
            "steps": len(self.stepped),
            "seconds": round(self.seconds, 1),
            "loss": {task: round(loss, 4) for task, loss in self.last_losses().items()},
            "held-out pairs": self.validated[-1].hit_rates if self.validated else {},
            "skipped": self.left_out,
            "losses": [[each.step, each.task, each.loss] for each in self.stepped],
            "validations": [dataclasses.asdict(each) for each in self.validated],
        }


def in_words(left_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was left out: `pairs 12 times, image_undecodable: images/a.png, images/b.png`."""
    kinds: dict[tuple[str, str], dict[str, int]] = {}
    for each in left_out:
        kinds.setdefault((each["what"], each["reason"]), {})[each["image"]] = each["times"]
    found = []
    for (what, reason), images in kinds.items():
        named = ", ".join(list(images)[:NAMED])
        more = f" and {len(images) - NAMED:,} more (training.json names all)" if len(images) > NAMED else ""
        found.append(f"{what}s {sum(images.values()):,} times, {reason}: {named}{more}")
    return found
