"""Tells somebody that a command failed: the command or web address of VISTA_NOTIFY."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pipelines.current_run import CURRENT
from pipelines.storage.uris import redacted_text

VARIABLE: Final = "VISTA_NOTIFY"
SECONDS: Final = 30.0  # for which an answer is waited for

log = logging.getLogger(__name__)


def notify(exit_code: int, message: str, seconds: float = SECONDS) -> None:
    """Send what happened to the web address, or to the standard input of the command, that VISTA_NOTIFY names.

    It is a JSON object; its `text` is what services such as Slack show. What can't be sent is a warning.
    """
    target = os.environ.get(VARIABLE)
    if not target:
        return
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    facts = {
        "text": f"vista failed with exit code {exit_code}: {message}",
        "message": message,
        "exit_code": exit_code,
        "run": CURRENT.id,
        "command": command,
        "host": socket.gethostname(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    body = f"{redacted_text(json.dumps(facts))}\n".encode()
    try:
        if target.startswith(("http://", "https://")):
            request = urllib.request.Request(target, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=seconds):
                pass
        else:
            subprocess.run(target, shell=True, input=body, timeout=seconds, check=True, stdout=subprocess.DEVNULL)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # not the address, which may be a secret
        log.warning("%s could not be told of the failure: %s", VARIABLE, what(error))


def what(error: Exception) -> str:
    """What went wrong, without the command or the address."""
    match error:
        case subprocess.CalledProcessError():
            return f"the command ended with exit code {error.returncode}"
        case subprocess.TimeoutExpired():
            return f"the command did not end within {error.timeout:.1f} s"
        case urllib.error.HTTPError():
            return f"the server answered {error.code} {error.reason}"
        case urllib.error.URLError():
            return str(error.reason)
    return type(error).__name__
