"""Files on the disks of this machine: only regular ones are opened, and a link only if it may lead where it does.

Whoever can write into a source can put links there. What they lead to must not become part of a table, unless the user
allows it. Hard links can't be told from other files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import IO

NOT_REGULAR = "it is no regular file"
OF_THE_FILE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}  # the last one is for sockets

Folders = tuple[str, ...]  # real paths of the folders, or files, in which a file must really be


class UnreadableError(OSError):
    """A file that is there but can't be read: it costs its own records, unlike a disk that fails. Has no errno."""


def with_cure(error: OSError) -> str:
    """What the system says, and what to do where that is known."""
    cure = ". Give the user that runs the job the right to read it" if isinstance(error, PermissionError) else ""
    return f"{error.strerror or error}{cure}"


def real_folders(paths: Iterable[str]) -> Folders:
    """The folders that local paths really are, once each; URIs of stores are left out."""
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths if "://" not in path))


def leads_out(path: str, folders: Folders) -> str:
    """Why a file must not be read, with the cure, since it really is outside of `folders`; empty if it may be."""
    return outside(os.path.realpath(path), folders)


def outside(real: str, folders: Folders) -> str:
    """The same for a real path."""
    if any(real == folder or real.startswith(f"{folder.rstrip('/')}/") for folder in folders):
        return ""
    cure = f"if files may be read there, give --allow-prefix {real.rpartition('/')[0]}/"
    return f"it is a link to {real}, outside of the source; {cure}"


def refusal(path: str, folders: Folders) -> str:
    """Why a file must not be opened, or can't be: it leads nowhere or out, or is no regular file. Else empty."""
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        return f"it is a link that can't be followed: {with_cure(error)}"
    return leads_out(path, folders) or ("" if stat.S_ISREG(mode) else NOT_REGULAR)


def open_regular(path: str, folders: Folders | None = None) -> IO[bytes]:
    """Open a regular file, if it really is in one of `folders` (None: wherever it is).

    Raises UnreadableError, with the cause, for a link that leads elsewhere or nowhere, a file that this user may not
    read, a folder, a pipe, a socket or a device; FileNotFoundError if nothing is there.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if folders is not None and (refused := leads_out(path, folders)):
            raise UnreadableError(refused) from error
        if error.errno in OF_THE_FILE or Path(path).is_symlink():
            raise UnreadableError(f"it can't be opened: {with_cure(error)}") from error
        raise
    try:
        if folders is not None and (refused := outside(real_path(descriptor, path), folders)):
            raise UnreadableError(refused)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnreadableError(NOT_REGULAR)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def real_path(descriptor: int, path: str) -> str:
    """Where an open file is, from the kernel if it has /proc: one call, and no link can be changed meanwhile."""
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return os.path.realpath(path)
