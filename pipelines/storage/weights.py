"""Weights of a model that are in an object store: downloaded once for each node."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path, PurePosixPath

from botocore.exceptions import BotoCoreError

from pipelines.storage.errors import credentials_hint
from pipelines.storage.files import file_version
from pipelines.storage.home import cache_folder
from pipelines.storage.uris import filesystem
from vista_core import UsageError


def local_file(uri: str | None, cache: Path | None = None) -> str | None:
    """The path of a local copy of the weights at `uri`; local paths, and None, are returned as they are.

    `cache` is the folder of copies; default: one of this user's. The copy keeps its suffix, which tells the format, and
    is renamed into place once it is complete, since the encoders of a node download side by side. Raises UsageError,
    with the cause, if the download fails.
    """
    if uri is None or "://" not in uri:
        return uri
    try:
        cache = cache or cache_folder() / "weights"
        fs, path = filesystem(uri)
        version = file_version(fs.info(path))
        digest = hashlib.sha256(f"{uri} {version}".encode()).hexdigest()
        copy = cache / f"{digest}{PurePosixPath(path).suffix}"
        if not copy.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                fs.get_file(path, f"{folder}/weights")
                Path(folder, "weights").replace(copy)
    except (OSError, BotoCoreError, ValueError, ImportError) as error:
        raise UsageError(f"--weights {uri}: {type(error).__name__}: {error}. {credentials_hint(uri)}") from error
    return str(copy)
