"""Run the embedding job on a Ray that it starts itself, say where that listens, and stop the whole process group.

    python -m tests.pipelines.embed.alone OPTIONS OF jobs/embed_corpus.py

When the first rows arrived it prints a line for each port that this process and those below it listen on, the runtime
environment of its workers, and what becomes of a client that has no token, and sends SIGTERM to its process group, as
`timeout` does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import ray

from jobs import run_job
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup, embed
from pipelines.events import Arrived, Event

CLIENT = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1])
except Exception as error:
    print("without the token:", type(error).__name__)
"""


class StopsTheGroup:
    """A listener that looks around when the first rows arrive, and then sends the signal."""

    done = False

    def __call__(self, event: Event) -> None:
        """Act on the first Arrived."""
        if isinstance(event, Arrived) and not self.done:
            self.done = True
            me = psutil.Process()
            for process in [me, *me.children(recursive=True)]:
                for connection in process.net_connections():
                    if connection.status == psutil.CONN_LISTEN:
                        print("listens:", connection.laddr.ip, process.name(), flush=True)
            print("runtime environment:", ray.get_runtime_context().runtime_env, flush=True)
            without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
            address = ray.get_runtime_context().gcs_address
            subprocess.run([sys.executable, "-c", CLIENT, address], env=without, check=False)
            os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(run_job(EmbedConfig, lambda config: embed(config, Setup([StopsTheGroup()]))))
