"""Finds a model's files: in a model folder, given by the user, or downloaded from the Hugging Face hub."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from vista_core.config import MODELS, EncoderSettings, ModelConfig, is_folder, read_text_config
from vista_core.errors import DownloadError, UsageError
from vista_core.model_folder import CONFIG, MODEL_FILE, TOKENIZER, ModelFolder

BUILT_IN = Path(__file__).parent / "models"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


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
    """The weights file for these settings: given, the model folder's, or downloaded. Raises DownloadError."""
    if settings.weights is not None:
        return Path(settings.weights)
    if settings.model in WEIGHTS:
        repo, filename = WEIGHTS[settings.model]
        return _fetch(repo, filename, "--weights PATH")
    if is_on_hub(settings.model):
        return _fetch_of(settings.model, MODEL_FILE)
    return open_folder(settings.model).weights


def text_folder(settings: EncoderSettings) -> Path:
    """The folder with `config.json` and tokenizer for these settings: given, the model folder, or downloaded.

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
    return open_folder(settings.model).path


def model_name(settings: EncoderSettings) -> str:
    """The name of the model: one of MODELS, or that of the model folder. Raises UsageError or DownloadError."""
    return open_folder(settings.model).name if is_folder(settings.model) else settings.model


def resolve_config(settings: EncoderSettings) -> ModelConfig:
    """The model's sizes; those of a known model's text tower come from the `config.json` beside the tokenizer.

    Raises UsageError or DownloadError.
    """
    if is_folder(settings.model):
        return open_folder(settings.model).config
    known = MODELS[settings.model]
    return replace(known, text=read_text_config(text_folder(settings) / "config.json", known.text))


def resolve_alpha(settings: EncoderSettings) -> str:
    """What becomes of transparent images: as the settings say, else as with the images that the model was trained with.

    Raises UsageError or DownloadError.
    """
    return settings.alpha or (open_folder(settings.model).alpha if is_folder(settings.model) else "drop")


def open_folder(model: str) -> ModelFolder:
    """The model folder `model`: local, that of a built-in model, or the files of a hub's repository but the weights.

    Raises UsageError if there is no such folder or its config.json is wrong, DownloadError if a file can't be had.
    """
    if "://" in model:
        raise UsageError(f"--model {model}: only local folders and repositories of the hub are read here: copy it here")
    if is_on_hub(model):
        return ModelFolder.open([_fetch_of(model, filename) for filename in (TOKENIZER, CONFIG)][-1].parent)
    return ModelFolder.open(Path(model) if is_folder(model) else BUILT_IN / model)


def is_on_hub(model: str) -> bool:
    """True if `--model` is a repository of the hub: OWNER/NAME or OWNER/NAME@REVISION, and no local folder."""
    return HUB_NAME.fullmatch(model) is not None and not Path(model).is_dir()


def pinned(model: str) -> str:
    """A repository of the hub as OWNER/NAME@COMMIT, whichever branch or tag it names. Raises DownloadError."""
    repo = hub_repo(model)
    return f"{repo.name}@{repo.revision}"


def hub_repo(model: str) -> HubRepo:
    """The repository that `--model` names, at a commit: that of the branch `main` if it names none."""
    name, _, revision = model.partition("@")
    if not COMMIT.fullmatch(revision):
        from vista_core.download import commit_of

        revision = commit_of(name, revision or "main")
    return HubRepo(name, revision)


def _fetch_of(model: str, filename: str) -> Path:
    """A file of the repository that `--model` names."""
    try:
        return _fetch(hub_repo(model), filename, "--model FOLDER")
    except DownloadError as error:
        raise DownloadError(
            f"--model {model}: there is no such folder here. As a repository of the hub: {error}"
        ) from error


def _fetch(repo: HubRepo, filename: str, option: str) -> Path:
    """A file from the hub's local cache, else downloaded; DownloadError names `option`, which takes a local copy."""
    from vista_core.download import fetch  # its library takes a fifth of a second, and most models are folders

    return fetch(repo.name, repo.revision, filename, option)
