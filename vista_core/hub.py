"""Finds a model's files: built in (vista-tiny), given by the user, or downloaded from the Hugging Face hub."""

from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HTTPError,  # httpx's or httpx2's, whichever huggingface_hub is built on
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from vista_core.config import EncoderSettings, ModelConfig, read_text_config
from vista_core.errors import DownloadError, UsageError

BUILT_IN = Path(__file__).parent / "models"
TIMEOUT_S = 5.0  # of the first request, which finds out if the hub is reachable


@dataclass(frozen=True)
class HubRepo:
    """A repository of the hub, pinned to one commit."""

    name: str
    revision: str


_VISUALIZED = HubRepo("BAAI/bge-visualized", "98db10b10d22620010d06f11733346e1c98c34aa")
WEIGHTS = {
    "bge-visualized-base-en-v1.5": (_VISUALIZED, "Visualized_base_en_v1.5.pth"),
    "bge-visualized-m3": (_VISUALIZED, "Visualized_m3.pth"),
}
TEXT_MODELS = {
    "bge-visualized-base-en-v1.5": HubRepo("BAAI/bge-base-en-v1.5", "a5beb1e3e68b9ab74eb54cfd186867f64f240e1a"),
    "bge-visualized-m3": HubRepo("BAAI/bge-m3", "5617a9f61b028005a4858fdac845db406aefb181"),
}


def weights_path(settings: EncoderSettings) -> Path:
    """The weights file for these settings: given, built in or downloaded. Raises DownloadError."""
    if settings.weights is not None:
        return Path(settings.weights)
    if settings.model in WEIGHTS:
        repo, filename = WEIGHTS[settings.model]
        return _fetch(repo, filename, "--weights PATH")
    return BUILT_IN / settings.model / "model.safetensors"


def text_folder(settings: EncoderSettings) -> Path:
    """The folder with `config.json` and tokenizer for these settings: given, built in or downloaded.

    Raises UsageError if the given folder doesn't exist, DownloadError if a file can't be downloaded.
    """
    if settings.from_pretrained is not None:
        folder = Path(settings.from_pretrained)
        if not folder.is_dir():
            raise UsageError(
                f"--from-pretrained {folder}: there is no such folder; give one with config.json and a tokenizer"
            )
        return folder
    if settings.model in TEXT_MODELS:
        repo, option = TEXT_MODELS[settings.model], "--from-pretrained FOLDER"
        return [_fetch(repo, filename, option) for filename in ("config.json", "tokenizer.json")][-1].parent
    return BUILT_IN / settings.model


def _fetch(repo: HubRepo, filename: str, option: str) -> Path:
    """A file from the hub's local cache, else downloaded; DownloadError names `option`, which takes a local copy."""
    try:
        return Path(hf_hub_download(repo.name, filename, revision=repo.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    url = hf_hub_url(repo.name, filename, revision=repo.revision)
    try:
        # Without a network, a download retries for 23 s; a request for the metadata fails at once.
        get_hf_file_metadata(url, timeout=TIMEOUT_S)
        return Path(hf_hub_download(repo.name, filename, revision=repo.revision))
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise DownloadError(
            f"{filename} of {repo.name} is not on this machine and could not be downloaded ({reason}). "
            f"Download it where there is a network, and give it with {option}: "
            f"https://huggingface.co/{repo.name}/resolve/{repo.revision}/{filename}"
        ) from error


def resolve_config(settings: EncoderSettings) -> ModelConfig:
    """The model's sizes; those of the text tower come from the `config.json` beside the tokenizer."""
    text = read_text_config(text_folder(settings) / "config.json", settings.config.text)
    return replace(settings.config, text=text)
