"""What changes the weights: AdamW (arXiv 1711.05101) or, if the recipe says so, Muon for the matrices of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn import Parameter

from pipelines.finetune.recipe import Recipe

LAYERS = ("vision.blocks.", "text.layers.", "visual_proj.")


class Optimizers:
    """Several optimizers as one. Each of their groups has a `peak`, the highest learning rate of a training."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)

    @classmethod
    def of(cls, weights: Iterable[tuple[str, Parameter]], recipe: Recipe) -> Optimizers:
        """For the weights of a VistaModel that are trained, by name. Norms and biases have no weight decay."""
        adamw, muon = dict[tuple[bool, bool], list[Parameter]](), list[Parameter]()
        for name, weight in weights:
            if recipe.muon_learning_rate is not None and weight.dim() == 2 and name.startswith(LAYERS):
                muon.append(weight)
            else:
                adamw.setdefault((name.startswith("text."), weight.dim() > 1), []).append(weight)
        groups = [
            {
                "params": members,
                "peak": recipe.text_learning_rate if of_text else recipe.learning_rate,
                "weight_decay": recipe.weight_decay if matrices else 0.0,
            }
            for (of_text, matrices), members in adamw.items()
        ]
        found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=0.0, fused=True)]
        if muon:
            # Steps as long as those of AdamW at the same rate (arXiv 2502.16982, section 2.2).
            group = {"params": muon, "peak": recipe.muon_learning_rate, "weight_decay": recipe.weight_decay}
            found.append(torch.optim.Muon([group], lr=0.0, adjust_lr_fn="match_rms_adamw"))
        return cls(found)

    @property
    def groups(self) -> Iterator[dict[str, Any]]:
        """The groups of weights."""
        for each in self.optimizers:
            yield from each.param_groups

    def step(self, rate: float) -> None:
        """Change the weights by their gradients, at a share of the highest learning rates."""
        for group in self.groups:
            group["lr"] = rate * group["peak"]
        for each in self.optimizers:
            each.step()

    def forget_gradients(self) -> None:
        """Before the next step."""
        for each in self.optimizers:
            each.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` takes."""
        return [each.state_dict() for each in self.optimizers]

    def load_state_dict(self, stored: list[dict[str, Any]]) -> None:
        """Go on from a state."""
        for each, of_each in zip(self.optimizers, stored, strict=True):
            each.load_state_dict(of_each)
