"""The contract with Ray: a task learns how often its worker died before, and a run doesn't try for ever."""

import os

import pytest
import ray

from pipelines.cluster.attempts import earlier_attempts


def test_outside_of_a_task_nothing_is_known():
    assert earlier_attempts() is None


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_knows_how_many_of_its_workers_died():
    @ray.remote(max_retries=-1)
    def survives(deaths: int) -> int:
        found = earlier_attempts()
        if found < deaths:
            os.abort()
        return found

    assert ray.get([survives.remote(0), survives.remote(2)]) == [0, 2]
    assert earlier_attempts() is None, "the driver is no task"
