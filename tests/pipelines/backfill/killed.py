"""Fill a column in this process, which does something to the table at a certain event and then kills itself.

    python -m tests.pipelines.backfill.killed EVENT OPERATION DB

`OPERATION` is one of `others.OPERATIONS`, or `nothing`.
"""

from __future__ import annotations

import os
import signal
import sys

from pipelines.backfill.run import Setup
from tests.pipelines.backfill.others import Meddling
from tests.pipelines.backfill.tables import backfill


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    event, operation, db = sys.argv[1:]
    meddling = Meddling(f"{db}/shop.lance", event, [operation] if operation != "nothing" else [], kill)
    backfill(db, Setup(listeners=[meddling]), commit_seconds=0, transport_rows=8)
