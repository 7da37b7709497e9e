"""A server on a free port of this machine that writes on the socket what it is told to, be it HTTP or not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple


class Answer(NamedTuple):
    """What the server writes: each part by itself, then what is repeated for ever, if anything; then it hangs up."""

    parts: tuple[bytes, ...]
    repeated: bytes = b""
    pause: float = 0.0  # seconds after each part
    honest: bool = False  # a proper answer, which has no body for HEAD


@contextmanager
def serve_hostile(answers: Mapping[str, Answer]) -> Iterator[str]:
    """A server that answers requests for `/NAME` by `answers[NAME]`, and others by hanging up; yields its URL."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            request = await reader.readuntil(b"\r\n\r\n")
            method, name = request.split()[0], request.split()[1].decode().strip("/")
            answer = answers.get(name, Answer((b"",)))
            if answer.honest and method == b"HEAD":
                answer = Answer((answer.parts[0].partition(b"\r\n\r\n")[0] + b"\r\n\r\n",))
            await write(writer, answer)
        writer.close()

    async def write(writer: asyncio.StreamWriter, answer: Answer) -> None:
        for part in answer.parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(answer.pause)
        while answer.repeated:
            writer.write(answer.repeated)
            await writer.drain()
            await asyncio.sleep(answer.pause)

    async def serve() -> None:
        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        stop = asyncio.Event()
        started.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()

    started: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    port, loop, stop = started[0]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
