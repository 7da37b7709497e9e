"""Build the indexes of a table in this process, which kills itself at a certain event.

    python -m tests.pipelines.index.killed EVENT N DB

`N` is the number of the event that kills it, or 0 for none.
"""

from __future__ import annotations

import os
import signal
import sys

from pipelines.cluster.calls import in_this_process
from pipelines.events import Event
from pipelines.index.run import Setup, index_table
from tests.pipelines.index.tables import CHOICE, config


class Kills:
    """A listener that kills the process at the `number`-th event of a kind."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind = kind
        self.left = number

    def __call__(self, event: Event) -> None:
        """Count down, and print what is survived."""
        print(type(event).__name__, flush=True)
        if type(event).__name__ == self.kind:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    kind, number, db = sys.argv[1:]
    index_table(config(db), Setup([Kills(kind, int(number))], in_this_process, CHOICE, queries=32))
