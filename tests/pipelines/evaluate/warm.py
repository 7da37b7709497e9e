"""Evaluations whose runs of `embed` encode on warm workers."""

from pipelines.evaluate import run
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.run import Evaluated
from tests.pipelines.embed.on_warm_workers import WARM


def evaluate(config: EvaluateConfig) -> Evaluated:
    """`pipelines.evaluate.run.evaluate`."""
    return run.evaluate(config, WARM)
