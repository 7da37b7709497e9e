"""Files of the Hugging Face hub: from its cache on this machine, else downloaded."""

from functools import cache
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HTTPError,  # httpx's or httpx2's, whichever huggingface_hub is built on
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from vista_core.errors import DownloadError
from vista_core.model_folder import CONFIG

NOT_REACHED = (HTTPError, OfflineModeIsEnabled, OSError)
TIMEOUT_S = 5.0  # of the first request, which finds out if the hub is reachable


@cache  # one commit for all files that a process reads
def commit_of(name: str, revision: str) -> str:
    """The commit that a branch or tag is now or, without a network, was when its files were downloaded."""
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision), timeout=TIMEOUT_S)
        path = Path(hf_hub_download(name, CONFIG, revision=revision))
    except NOT_REACHED:
        path = fetch(name, revision, CONFIG, "--model FOLDER")
    return path.parent.name  # .../snapshots/COMMIT/config.json


def fetch(name: str, revision: str, filename: str, option: str) -> Path:
    """A file from the hub's local cache, else downloaded; DownloadError names `option`, which takes a local copy."""
    try:
        return Path(hf_hub_download(name, filename, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    url = hf_hub_url(name, filename, revision=revision)
    try:
        # Without a network, a download retries for 23 s; a request for the metadata fails at once.
        get_hf_file_metadata(url, timeout=TIMEOUT_S)
        return Path(hf_hub_download(name, filename, revision=revision))
    except NOT_REACHED as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise DownloadError(
            f"{filename} of {name} is not on this machine and could not be downloaded ({reason}). "
            f"Download it where there is a network, and give it with {option}: "
            f"https://huggingface.co/{name}/resolve/{revision}/{filename}"
        ) from error
