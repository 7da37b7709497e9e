"""Images on the disks of this machine."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipelines.fetching.locations import FetchError, FetchRules, Location, not_allowed, parse_prefixes
from pipelines.reasons import FETCH_FAILED, FETCH_FORBIDDEN, FETCH_NOT_FOUND

REASONS = {
    FileNotFoundError: FETCH_NOT_FOUND,
    NotADirectoryError: FETCH_NOT_FOUND,
    PermissionError: FETCH_FORBIDDEN,
}


class Disk:
    """Reads local files; a transport."""

    def __init__(self, rules: FetchRules) -> None:
        self.rules = rules

    def version(self, location: Location) -> str:
        """Size and time of modification."""
        with self.opened(location) as (_, info):
            return f"{info.st_size}-{info.st_mtime_ns}"

    def content(self, location: Location) -> bytes:
        """The file, up to the size that it had when it was opened."""
        with self.opened(location) as (file, info):
            return file.read(info.st_size)

    @contextmanager
    def opened(self, location: Location) -> Iterator[tuple[io.FileIO, os.stat_result]]:
        """Open a regular file below an allowed folder; a link, which an archive may contain, must lead there, too."""
        real = os.path.realpath(location.path)
        folders = [
            os.path.realpath(prefix.path) for prefix in parse_prefixes(self.rules.allowed) if prefix.scheme == "file"
        ]
        if not any(Path(real).is_relative_to(folder) for folder in folders):
            raise not_allowed(f"it is a link to {real}, not below an allowed prefix", f"{Path(real).parent}/")
        try:
            # A link that replaces the file since it was resolved is not followed. Without O_NONBLOCK, opening a FIFO
            # would wait for a writer.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with closing(io.FileIO(real, opener=lambda name, _: os.open(name, flags))) as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise FetchError(FETCH_FAILED, "it is not a regular file")
                self.rules.check_size(info.st_size)
                yield file, info
        except OSError as error:
            raise FetchError(REASONS.get(type(error), FETCH_FAILED), error.strerror or str(error)) from error
