"""A function that runs in a child process, so that a crash, a hang or a lack of memory ends the child alone.

Records cost a copy to the child and back, and a child takes seconds to start. So nothing runs in one until a worker
has died.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any

import psutil
import pyarrow as pa

from pipelines.cluster.watchdog import TIMED_OUT, watched
from vista_core import VistaError

GAVE_UP = 3  # exit code of a child that ran out of memory, or whose function ended the interpreter
LONGEST_LAST_WORDS = 200  # characters of what the child wrote last
ENTRY = "from pipelines.cluster.child import serve; serve({})"


@dataclass(frozen=True)
class ProcessLimits:
    """What a call may take in a child process."""

    seconds: float  # for one result
    memory: int  # bytes, beside what the process has when it starts


class ChildDiedError(Exception):
    """The child process ended during a call. The message says how; `timed_out` if it was too slow."""

    def __init__(self, message: str, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class Child:
    """A child process that calls `function`, a generator function. It is started when needed, and anew if it died."""

    def __init__(self, function: Callable[..., Iterator[Any]], limits: ProcessLimits) -> None:
        self.function = function
        self.limits = limits
        self.running: tuple[subprocess.Popen[bytes], Connection, IO[bytes]] | None = None

    def call(self, *arguments: Any) -> Iterator[Any]:
        """The results of `function(*arguments)`, which is called in the child; what it raises is raised here.

        Raises ChildDiedError if the child dies, as it does after `limits.seconds` without a result.
        """
        process, connection, _ = self.running or self.start()
        in_step = False  # True once the child waits for another call
        try:
            connection.send(arguments)
            while not in_step:
                kind, value = connection.recv()
                in_step = kind != "result"
                if kind == "result":
                    yield value
                elif kind == "raised":
                    raise value
        except (EOFError, ConnectionError):
            raise self.death(process.wait()) from None
        finally:
            if not in_step:
                self.close()

    def start(self) -> tuple[subprocess.Popen[bytes], Connection, IO[bytes]]:
        """Start the child. Raises VistaError if it doesn't get ready, since then no record is at fault."""
        import ray.cloudpickle  # imported here, since the child needs no Ray

        here, there = socket.socketpair()
        output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        with there:
            process = subprocess.Popen(
                [sys.executable, "-c", ENTRY.format(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[there.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RUST_BACKTRACE": "0"},
            )
        self.running = (process, Connection(here.detach()), output)
        try:
            pickled = ray.cloudpickle.dumps(self.function)  # type: ignore[no-untyped-call]
            self.running[1].send((pickled, self.limits))
            self.running[1].recv()
        except (EOFError, ConnectionError):
            message = f"a child process did not start: {self.death(process.wait())}"
            self.close()
            raise VistaError(message) from None
        return self.running

    def death(self, code: int) -> ChildDiedError:
        """How the child ended, with the last line that it wrote."""
        assert self.running is not None, "only called when a child has ended"
        output = self.running[2]
        output.seek(0)
        lines = [line for line in output.read().decode(errors="replace").splitlines() if says_something(line)]
        if any(line.startswith(TIMED_OUT) for line in lines):
            return ChildDiedError(f"the process gave no result for {self.limits.seconds:g} seconds", timed_out=True)
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = f": {lines[-1].strip()[:LONGEST_LAST_WORDS]}" if lines else ""
        return ChildDiedError(f"the process {how}{last}", timed_out=False)

    def close(self) -> None:
        """End the child. A later call starts another one."""
        if self.running is not None:
            process, connection, output = self.running
            self.running = None
            connection.close()
            process.kill()
            process.wait()
            output.close()

    def __del__(self) -> None:
        self.close()


def says_something(line: str) -> bool:
    """False for an empty line, and for Rust's advice behind a panic."""
    return line.strip() != "" and not line.startswith("note: ")


def one_result(function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Makes a generator function of a plain one, by `functools.partial`."""
    yield function(*arguments)


def serve(descriptor: int) -> None:
    """The child's side: call the function with the arguments that arrive, until the parent closes the connection."""
    connection = Connection(descriptor)
    pickled, limits = connection.recv()
    function = pickle.loads(pickled)
    limit_memory(limits.memory)
    connection.send("ready")
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        try:
            for result in watched(function(*arguments), limits.seconds):
                tell(connection, "result", result)
            tell(connection, "end", None)
        except MemoryError:
            give_up(f"out of memory: more than {limits.memory >> 20:,} MiB")
        except Exception as error:  # noqa: BLE001 (the parent raises it)
            tell(connection, "raised", error)
        except BaseException as error:  # noqa: BLE001 (a panic in Rust, or an exit)
            give_up(f"{type(error).__name__}: {error}")


def tell(connection: Connection, kind: str, value: Any) -> None:
    """Send a message to the parent, or end this process if the parent is gone."""
    try:
        connection.send((kind, value))
    except ConnectionError:
        os._exit(0)


def give_up(message: str) -> None:
    """End this process with `message` as its last words."""
    os.write(2, message.encode(errors="replace"))
    os._exit(GAVE_UP)


def limit_memory(more: int) -> None:
    """Let this process allocate `more` bytes than it has now; what goes beyond is a MemoryError or an abort.

    It dumps no core, which would be as large.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        most, hard = psutil.Process().memory_info().data + more, resource.getrlimit(resource.RLIMIT_DATA)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def as_ipc(table: pa.Table) -> tuple[Callable[[bytes], pa.Table], tuple[bytes]]:
    """How a table is sent to another process: pickled, a slice would have the buffers of the whole table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return from_ipc, (sink.getvalue().to_pybytes(),)


def from_ipc(content: bytes) -> pa.Table:
    """The table that `as_ipc` sent."""
    return pa.ipc.open_stream(content).read_all()


ForkingPickler.register(pa.Table, as_ipc)
