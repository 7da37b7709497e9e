"""Files of a model that are in an object store: downloaded once for each node."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from botocore.exceptions import BotoCoreError

from pipelines.storage.errors import credentials_hint
from pipelines.storage.files import file_version
from pipelines.storage.home import cache_folder
from pipelines.storage.uris import BUCKETS, absolute, filesystem
from vista_core import EncoderSettings, UsageError
from vista_core.config import is_folder
from vista_core.hub import is_on_hub, pinned
from vista_core.model_folder import CONFIG, MODEL_FILE, TOKENIZER
from vista_core.tokenizer import SLOW_VOCABULARIES

OF_A_FOLDER: Final = (CONFIG, TOKENIZER, *SLOW_VOCABULARIES, "tokenizer_config.json", MODEL_FILE)


def absolute_model(model: str) -> str:
    """`--model` as every worker understands it: a known name, or where a model folder is.

    A repository of the hub becomes the commit that it is at. Raises UsageError for a place where no folder can be,
    DownloadError if the hub can't tell the commit.
    """
    if not is_folder(model):
        return model
    if is_on_hub(model):
        return pinned(model)
    place = absolute(model)
    scheme, separator, _ = place.partition("://")
    if separator and scheme not in BUCKETS:
        raise UsageError(
            f"--model {model}: a model folder is a local folder, s3:// or gs://, or OWNER/NAME of the Hugging Face hub"
        )
    return place


def local_files(settings: EncoderSettings, weights: bool = True, cache: Path | None = None) -> EncoderSettings:
    """Settings whose files in an object store are replaced by copies on this machine.

    Without `weights`, they are enough for a Preprocessor. Raises UsageError, with the cause, if a download fails.
    """
    if "://" in settings.model:
        return dataclasses.replace(settings, model=local_folder(settings.model, weights, cache))
    return dataclasses.replace(settings, weights=local_file(settings.weights, cache)) if weights else settings


def local_file(uri: str | None, cache: Path | None = None) -> str | None:
    """The path of a local copy of the weights at `uri`; local paths, and None, are returned as they are.

    `cache` is the folder of copies; default: one of this user's. The copy keeps its suffix, which tells the format.
    """
    if uri is None or "://" not in uri:
        return uri
    cache = cache or cache_folder() / "weights"
    with naming(f"--weights {uri}", uri):
        fs, path = filesystem(uri)
        version = file_version(fs.info(path))
        copy = cache / f"{digest_of(uri, version)}{PurePosixPath(path).suffix}"
        download(fs, path, version, copy)
    return str(copy)


def local_folder(uri: str, weights: bool, cache: Path | None = None) -> str:
    """The path of a local copy of the model folder at `uri`, perhaps without its weights.

    Another version of any of its files makes another copy.
    """
    cache = cache or cache_folder() / "models"
    with naming(f"--model {uri}", uri):
        fs, path = filesystem(uri)
        listed = [each for each in fs.ls(path, detail=True) if each["type"] == "file"]
        found = {PurePosixPath(each["name"]).name: file_version(each) for each in listed}
        versions = {name: found[name] for name in OF_A_FOLDER if name in found}
        if CONFIG not in versions:
            raise FileNotFoundError(f"there is no {CONFIG}, so it is no model folder")
        copy = cache / digest_of(uri, *(f"{name} {version}" for name, version in versions.items()))
        for name, version in versions.items():
            if weights or name != MODEL_FILE:
                download(fs, f"{path}/{name}", version, copy / name)
    return str(copy)


@contextlib.contextmanager
def naming(option: str, uri: str) -> Iterator[None]:
    """Errors of a download as a UsageError that names the option."""
    try:
        yield
    except (OSError, BotoCoreError, ValueError, ImportError) as error:
        raise UsageError(f"{option}: {type(error).__name__}: {error}. {credentials_hint(uri)}") from error


def digest_of(*parts: str) -> str:
    """Sha256 in hex of some words."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def download(fs: Any, path: str, version: str, copy: Path) -> None:
    """Copy a file of a store in the version that was looked up, unless it was copied before.

    The copy is renamed into place once it is complete, since the encoders of a node download side by side. Raises
    OSError if the file changes meanwhile.
    """
    if copy.exists():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent) as folder:
        partial = Path(folder, "partial")
        fs.get_file(path, str(partial))
        if file_version(fs.info(path)) != version:
            raise OSError(f"{PurePosixPath(path).name} changed while it was downloaded; run the same command again")
        partial.replace(copy)
