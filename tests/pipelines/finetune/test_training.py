"""The training of one process, without Ray: what it learns, and what it goes on from."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

from pipelines.finetune.figures import in_steps
from pipelines.finetune.layout import read_layout
from pipelines.finetune.plan import Plan, rate_at
from pipelines.finetune.processes import Processes
from pipelines.finetune.recipe import RECIPES, Recipe
from pipelines.finetune.training import State, Stepped, Trainer, Training, Validated
from tests.pipelines.finetune.drawn import write_data
from tests.pipelines.finetune.small import TINY, model
from vista_core import EncoderSettings

RECIPE = Recipe(trained="all", batch=16, learning_rate=1e-3, text_learning_rate=1e-3, warmup=0.1)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    prepared = read_layout(str(write_data(folder / "train")))
    prepared.write(str(folder / "prepared"))
    plan = Plan(tuple(len(task.pairs) for task in prepared.tasks), RECIPE.batch, seed=0)
    return Training(
        recipe=RECIPE,
        plan=plan,
        steps=8,
        prepared=str(folder / "prepared"),
        negatives=(1, 1),
        start=EncoderSettings(TINY),
        dtype="float32",
        tokens=100_000,
        recompute=False,
        loaders=0,
        save_every=3,
    )


class Run:
    """A training, and everything that it reported and saved."""

    def __init__(self, training, stored=None):
        self.state = State.new(model(), training.recipe)
        if stored is not None:
            self.state.restore(torch.load(io.BytesIO(stored), weights_only=False))
        self.reports, self.saved = [], []
        Trainer(training, self.state, Processes(), self.reports.append, self.save).run()

    def save(self, state):
        stream = io.BytesIO()
        torch.save(state.stored(), stream)
        self.saved.append(stream.getvalue())

    @property
    def losses(self):
        return {each.step: each.loss for each in self.reports if isinstance(each, Stepped)}


@pytest.fixture(scope="module")
def undisturbed(training):
    return Run(training)


@pytest.fixture(scope="module")
def with_muon(training):
    """A training whose matrices Muon trains."""
    return replace(training, recipe=replace(RECIPE, muon_learning_rate=3e-3))


def test_every_step_is_reported_and_every_third_state_saved(undisturbed, training):
    assert list(undisturbed.losses) == list(range(8))
    assert len(undisturbed.saved) == 3  # after 3, after 6, and at the end
    assert [each.step for each in undisturbed.reports if isinstance(each, Validated)] == [3, 6, 8]
    assert undisturbed.state.stepped == [each for each in undisturbed.reports if isinstance(each, Stepped)]


@pytest.mark.parametrize("saved", [0, 1])
def test_what_goes_on_has_the_same_losses_and_weights(undisturbed, training, saved):
    later = Run(training, undisturbed.saved[saved])
    first = 3 * (saved + 1)
    assert list(later.losses) == list(range(first, 8))
    assert later.losses == pytest.approx({step: undisturbed.losses[step] for step in later.losses}, rel=1e-6)
    assert [each.loss for each in later.state.stepped] == pytest.approx(list(undisturbed.losses.values()), rel=1e-6)
    for one, other in zip(later.state.model.parameters(), undisturbed.state.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_with_muon_what_goes_on_has_the_same_losses(with_muon):
    run = Run(with_muon)
    later = {step: run.losses[step] for step in range(3, 8)}
    assert Run(with_muon, run.saved[0]).losses == pytest.approx(later, rel=1e-5)


def test_muon_trains_the_matrices_of_layers_and_adamw_the_rest(training, with_muon):
    state = State.new(model(), with_muon.recipe)
    names = {weight: name for name, weight in state.model.named_parameters()}
    adamw, muon = (
        [names[weight] for group in each.param_groups for weight in group["params"]]
        for each in state.optimizer.optimizers
    )
    assert sorted(adamw + muon) == sorted(names.values())
    assert all(name.startswith(("vision.blocks", "text.layers", "visual_proj")) for name in muon)
    assert all(name.endswith("weight") for name in muon)
    assert not any(each in " ".join(muon) for each in ("norm", "embedding"))
    [alone] = State.new(model(), training.recipe).optimizer.optimizers
    assert isinstance(alone, torch.optim.AdamW)


def test_with_muon_it_learns_faster(training, with_muon):
    """The model has random weights."""
    adamw, muon = (Run(replace(each, steps=30, save_every=1000)).losses for each in (training, with_muon))
    assert sum(list(muon.values())[-5:]) < 0.8 * sum(list(adamw.values())[-5:])


def test_a_state_of_the_end_has_nothing_left_to_do(undisturbed, training):
    over = Run(training, undisturbed.saved[-1])
    assert over.reports == []
    assert len(over.saved) == 1


def test_batches_made_by_another_process_are_the_same(undisturbed, training):
    assert Run(replace(training, loaders=1)).losses == pytest.approx(undisturbed.losses, rel=1e-6)


def test_other_seeds_have_other_losses(undisturbed, training):
    other = Run(replace(training, plan=replace(training.plan, seed=1), steps=2))
    assert other.losses != pytest.approx({step: undisturbed.losses[step] for step in other.losses}, rel=1e-3)


def test_the_text_tower_is_frozen_where_the_recipe_says_so(training):
    before, run = model().state_dict(), Run(replace(training, recipe=replace(RECIPE, trained="vision"), steps=3))
    after = run.state.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and not [name for name in changed if name.startswith("text.")]
    assert "visual_proj.weight" in changed


def test_a_training_that_is_out_of_time_ends_and_is_saved(training):
    run = Run(replace(training, steps=1000, max_seconds=1e-9))
    assert run.losses == {}
    assert len(run.saved) == 1


def test_with_a_time_limit_the_learning_rate_follows_the_time(training):
    recipe = replace(RECIPE, warmup=0.0)
    run = Run(replace(training, recipe=recipe, steps=100_000, max_seconds=3.0))
    steps = [each for each in run.reports if isinstance(each, Stepped)]
    assert 0 < len(steps) < 1000
    for step, until in zip(steps, [0.0, *(each.seconds for each in steps)], strict=False):
        assert until <= step.progress * 3.0 <= step.seconds
        assert step.learning_rate == recipe.learning_rate * rate_at(step.progress, 0.0, recipe.schedule)


def test_it_learns(training):
    run = Run(replace(training, steps=30, save_every=1000))
    first, last = (sum(list(run.losses.values())[at]) / 5 for at in (slice(0, 5), slice(-5, None)))
    assert last < 0.7 * first


def test_recipes_have_the_published_values():
    stage2, cirr = RECIPES["stage2"], RECIPES["cirr"]
    assert (stage2.trained, stage2.batch, stage2.epochs, stage2.learning_rate) == ("vision", 640, 5, 2e-5)
    assert (stage2.edit_negatives, stage2.negatives, stage2.temperature) == (3, 1, 0.02)
    assert (cirr.trained, cirr.batch, cirr.epochs, cirr.negatives) == ("all", 720, 50, 4)
    assert {each.temperature for each in RECIPES.values()} == {0.02}


@pytest.mark.parametrize(("count", "said"), [(0, "0 steps"), (1, "1 step"), (1200, "1,200 steps")])
def test_steps_are_counted_in_words(count, said):
    assert in_steps(count) == said
