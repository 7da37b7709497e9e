"""An S3 server that can be killed and restarted with the same data at the same address."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec import AbstractFileSystem

from tests.s3 import ATTEMPTS, KEY, SECRET, SERVERS, answers, command, environment, free_ports


class RestartableS3:
    """SeaweedFS on its own ports, with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(2 * len(SERVERS))
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def fs(self) -> AbstractFileSystem:
        """This server's file system, regardless of the environment's AWS_* variables."""
        return fsspec.filesystem(
            "s3", key=KEY, secret=SECRET, endpoint_url=self.endpoint, skip_instance_cache=True, use_listings_cache=False
        )

    def start(self) -> bool:
        """Start or restart the server and wait until it answers; False if it failed to start (a port was taken)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command(self.folder, self.ports),
                cwd=self.folder,
                env=environment(self.endpoint),
                stdout=log,
                stderr=log,
            )
        return answers(self.endpoint, self.process)

    def kill(self) -> None:
        """Kill the server, as if its machine had failed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def restartable(folder: Path) -> Iterator[RestartableS3]:
    """Run a server while the context lasts."""
    for attempt in range(ATTEMPTS):
        server = RestartableS3(folder / str(attempt))
        try:
            if server.start():
                yield server
                return
        finally:
            server.kill()
    raise RuntimeError(f"no S3 server after {ATTEMPTS} attempts")
