"""What a training leaves in its output folder.

config.json, tokenizer.json, model.safetensors   the model, for --model
model.pth                                        the same weights in the released layout
README.md                                        the model's card
report.html, tensorboard/                        losses and hit rates as plots
training.json                                    all figures; is written last
options.json, data/, checkpoints/                what a run goes on from
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch.utils.tensorboard import SummaryWriter

from pipelines.finetune.card import card
from pipelines.finetune.figures import Figures, in_steps, in_words
from pipelines.finetune.page import page_of
from pipelines.progress import duration
from pipelines.report.page import render
from pipelines.storage.uris import filesystem
from vista_core import ModelConfig
from vista_core.checkpoint import empty_model, released_state
from vista_core.hub import resolve_config, text_folder
from vista_core.model_folder import ModelFolder
from vista_core.released import save_pth
from vista_core.tokenizer import read_tokenizer

FIGURES_FILE: Final = "training.json"
PTH_FILE: Final = "model.pth"
CARD_FILE: Final = "README.md"
REPORT_FILE: Final = "report.html"
TENSORBOARD: Final = "tensorboard"


@dataclass(frozen=True)
class Trained:
    """The result of the command."""

    output: str
    facts: dict[str, Any]
    is_json: bool = False

    @classmethod
    def of(cls, output: str) -> Trained | None:
        """What an output folder says; None if its training isn't complete."""
        fs, path = filesystem(output)
        try:
            return cls(output, json.loads(fs.cat_file(f"{path}/{FIGURES_FILE}")))
        except FileNotFoundError:
            return None

    def __str__(self) -> str:
        """The summary, or JSON without the losses of each step."""
        facts = {name: value for name, value in self.facts.items() if name not in ("losses", "validations")}
        if self.is_json:
            return json.dumps({"output": self.output, **facts})
        lines = [f"{facts['model']}: {in_steps(facts['steps'])} in {duration(facts['seconds'])}"]
        for task, loss in facts["loss"].items():
            found = facts["held-out pairs"].get(task, {})
            rates = "".join(f", {name} {value:.3f}" for name, value in found.items())
            lines.append(f"  {task}: loss {loss:.3f}{rates}{' (held-out pairs)' if rates else ''}")
        lines += [f"  skipped {each}" for each in in_words(facts["skipped"])]
        return "\n".join([*lines, f"model: {self.output}", f"report: {self.output}/{REPORT_FILE}"])


def write_model(figures: Figures, weights: dict[str, Any]) -> Trained:
    """Write everything; `weights` are the model's, by the names of its parameters."""
    facts, config = figures.facts(), resolve_config(figures.start)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), figures, config, weights)
        fs, path = filesystem(figures.config.output)
        fs.makedirs(path, exist_ok=True)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                target = f"{path}/{file.relative_to(folder).as_posix()}"
                fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                fs.put_file(str(file), target)
        fs.pipe_file(f"{path}/{FIGURES_FILE}", json.dumps(facts, indent=1).encode())
    return Trained(figures.config.output, facts, figures.config.json)


def write_files(folder: Path, figures: Figures, config: ModelConfig, weights: dict[str, Any]) -> None:
    """Write the model folder, the `.pth`, the card, the page and the log of TensorBoard to the local disk."""
    model = empty_model(config)
    model.load_state_dict(weights, assign=True)
    state = released_state(model)
    made_by = {name: figures.facts()[name] for name in ("started from", "recipe", "hyperparameters", "data", "steps")}
    tokenizer = read_tokenizer(text_folder(figures.start))
    ModelFolder(folder, figures.name, config, made_by, figures.alpha).write(tokenizer, state)
    save_pth(folder / PTH_FILE, config, state)
    (folder / CARD_FILE).write_text(card(figures), encoding="utf-8")
    (folder / REPORT_FILE).write_text(render(page_of(figures)), encoding="utf-8")
    with SummaryWriter(str(folder / TENSORBOARD)) as writer:
        for step in figures.stepped:
            if step.loss is not None:
                writer.add_scalar(f"loss/{figures.tasks[step.task]}", step.loss, step.step)
            writer.add_scalar("learning rate", step.learning_rate, step.step)
            writer.add_scalar("norm of the gradients", step.gradient_norm, step.step)
        for validated in figures.validated:
            for task, rates in validated.hit_rates.items():
                for name, value in rates.items():
                    writer.add_scalar(f"{name}/{task}", value, validated.step)
