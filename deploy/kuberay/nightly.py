"""Creates a RayJob in the cluster that this pod is in, and waits until it has ended: `python nightly.py RAYJOB.yaml`.

Exit code 0 if the run succeeded, else 1. If it is told to stop (SIGTERM), it deletes the RayJob, whose run then stops
as on SIGTERM: what is encoded is committed, and the next night goes on.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_SECONDS = 10.0
PATIENCE_SECONDS = 300.0  # for an API server that doesn't answer


class Api:
    """The RayJobs of this pod's namespace."""

    def __init__(self, server: str, account: Path) -> None:
        namespace = (account / "namespace").read_text().strip()
        self.url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self.token = account / "token"  # is replaced every hour
        authority = account / "ca.crt"
        self.tls = ssl.create_default_context(cafile=str(authority)) if authority.exists() else None

    def send(self, method: str, name: str = "", body: Any = None) -> dict[str, Any]:
        """The server's answer. Raises OSError; of that, HTTPError for a request that the server refuses."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token.read_text().strip()}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{name}".rstrip("/"), data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self.tls) as answer:
            return json.load(answer)


def say(text: str) -> None:
    """A line of the log."""
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text, flush=True)


def state_of(job: dict[str, Any]) -> str:
    """The states of a RayJob and of the run in it, and what KubeRay says of them, in a line."""
    status = job.get("status") or {}
    known = [status.get(key) for key in ("jobDeploymentStatus", "jobStatus", "reason", "message")]
    return ", ".join(str(each) for each in known if each) or "accepted"


def wait(api: Api, name: str, stopped: threading.Event, poll: float = POLL_SECONDS) -> int:
    """Watch a RayJob until it has ended; returns the exit code."""
    last, answered = "", time.monotonic()
    while True:
        try:
            job = api.send("GET", name)
            answered = time.monotonic()
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                say(f"{name} is gone: somebody deleted it")
                return 1
            if time.monotonic() - answered > PATIENCE_SECONDS:
                say(f"the API server has not answered for {PATIENCE_SECONDS:.0f} s: {error}; {name} goes on by itself")
                return 1
            job = None
        if job is not None:
            if (state := state_of(job)) != last:
                say(f"{name}: {state}")
                last = state
            status = job.get("status") or {}
            if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
                return 0 if status.get("jobStatus") == "SUCCEEDED" else 1
        if stopped.wait(poll):
            say(f"stopped: deleting {name}")
            api.send("DELETE", name)
            return 1


def main(path: Path, server: str, account: Path = ACCOUNT, poll: float = POLL_SECONDS) -> int:
    """Create the RayJob of a file, named after the night, and wait for it."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    job = yaml.safe_load(path.read_text())
    job["metadata"]["name"] += time.strftime("-%Y%m%d-%H%M%S", time.gmtime())
    api, name = Api(server, account), job["metadata"]["name"]
    try:
        api.send("POST", body=job)
    except urllib.error.HTTPError as error:
        say(f"{name} was refused: {error}: {error.read().decode(errors='replace')[:2000]}")
        return 1
    except OSError as error:
        say(f"{name} could not be created at {server}: {error}")
        return 1
    say(f"{name} created; `kubectl logs --follow --selector job-name={name}` shows its run")
    return wait(api, name, stopped, poll)


if __name__ == "__main__":
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{each}") for each in ("HOST", "PORT"))
    if len(sys.argv) != 2 or not host:
        sys.exit("usage, in a pod of a Kubernetes cluster: python nightly.py RAYJOB.yaml")
    sys.exit(main(Path(sys.argv[1]), f"https://{host}:{port}"))
