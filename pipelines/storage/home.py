"""Where this process may keep files of its own, also in a container whose user id has no name and no home."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Set HOME if the home directory is unknown or not there. Libraries look for their settings and caches in it."""
    if home() is None:
        os.environ["HOME"] = str(own_folder())


def cache_folder() -> Path:
    """Where downloads are kept: in the home directory or, if that is read-only, where temporary files are."""
    found = home()
    return (found if found is not None and os.access(found, os.W_OK | os.X_OK) else own_folder()) / ".cache" / "vista"


def home() -> Path | None:
    """The home directory, if it exists."""
    try:
        found = Path.home()
    except RuntimeError:  # HOME is not set, and the user id has no entry in /etc/passwd
        return None
    return found if found.is_dir() else None


def own_folder() -> Path:
    """A folder for temporary files that belongs to this user alone; a new one if somebody else has taken its name."""
    folder = Path(tempfile.gettempdir()) / f"vista-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_own = folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_own else Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
