"""Which attempt of its task runs here: Ray runs a task again, without bound, when its worker died.

Ray counts attempts but has no public call that tells a task; tests/pipelines/cluster/test_attempts.py fails first if a
version changes it.
"""

from __future__ import annotations

from typing import Any

import ray

from vista_core import VistaError

MOST_ATTEMPTS = 10


def earlier_attempts() -> int | None:
    """How many attempts of the Ray task that runs here were ended by the death of their worker; None outside of one.

    Raises VistaError after ten, since a run that tries for ever tells nobody.
    """
    worker: Any = ray._private.worker.global_worker
    if worker.mode != ray.WORKER_MODE:
        return None
    count = int(worker.core_worker.get_current_task_attempt_number())
    if count >= MOST_ATTEMPTS:
        raise VistaError(
            f"{count} workers in a row died at one task, {ray.get_runtime_context().get_task_name()}. No record is at "
            "fault: look for lack of memory and lost nodes, and run the same command again: what was committed stays"
        )
    return count
