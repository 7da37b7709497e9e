"""A decode stage that some records kill. It imports little, since child processes import it, too."""

import os
import signal
from pathlib import Path

from pipelines.stages.decode import decode

KILLED_ONCE = "the worker of this one is killed, once: "


class Panic(BaseException):
    """What a panic in Rust arrives as."""


def takes_memory():
    """Allocates, without touching it, until the system would end the process."""
    taken = []
    while len(taken) < 1000:
        taken.append(bytearray(10 << 20))
    os.kill(os.getpid(), signal.SIGKILL)


def panics():
    raise Panic("index out of bounds")


def never_ends():
    while True:
        pass


POISON = {
    "aborts": os.abort,
    "takes all memory": takes_memory,
    "panics": panics,
    "never ends": never_ends,
}


def poisonous(records, **options):
    """A decode stage with native libraries that have bugs."""
    for text in records["text"].to_pylist():
        if text in POISON:
            POISON[text]()
        if text and text.startswith(KILLED_ONCE):
            marker = Path(text.removeprefix(KILLED_ONCE))
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return decode(records, **options)
