"""The drawings, written once."""

import pytest

from pipelines.drawings.evaluation import write_evaluation
from pipelines.drawings.training import write_training


@pytest.fixture(scope="session")
def training(tmp_path_factory):
    """A folder with training records of few scenes."""
    folder = tmp_path_factory.mktemp("drawings") / "train"
    write_training(folder, scenes=600, seed=0)
    return folder


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory):
    """A folder with both tasks."""
    folder = tmp_path_factory.mktemp("drawings") / "eval"
    write_evaluation(folder, seed=0)
    return folder
