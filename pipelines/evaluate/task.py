"""A task: a folder, a data set of the hub, or one that is known by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pipelines.evaluate.tasks import TASKS, KnownTask
from pipelines.quality.judgements import Judgements, read_table
from pipelines.quality.task_folder import TaskFolder
from pipelines.storage.uris import absolute
from vista_core import DownloadError, UsageError

HUB: Final = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})/?")


@dataclass(frozen=True)
class Task:
    """Something to evaluate: one data set, or several that are searched as one corpus."""

    name: str
    folders: tuple[TaskFolder, ...]
    known: KnownTask | None = None

    @classmethod
    def open(cls, named: str) -> Task:
        """A folder, a data set of the hub, or a task by name. Raises UsageError if it is none of these.

        Raises DownloadError for a data set that can't be downloaded.
        """
        if named in TASKS:
            task = TASKS[named]
            return cls(named, tuple(with_corpus(download(each)) for each in task.datasets), task)
        if match := HUB.fullmatch(named):
            return cls(match["name"].rpartition("/")[2], (with_corpus(download(named)),))
        if named.startswith("hf://"):
            raise UsageError(f"--task {named}: write hf://datasets/OWNER/NAME@REVISION, with all 40 digits of a commit")
        uri = absolute(named).rstrip("/")
        try:
            return cls(uri.rpartition("/")[2], (with_corpus(uri),))
        except UsageError as error:
            raise UsageError(f"{error}. Tasks that are known by name: {', '.join(TASKS)}") from error

    def judgements(self) -> Judgements:
        """The judgements of all data sets. Raises UsageError for those that can't be understood."""
        parts = [Judgements.read(each.qrels) for each in self.folders]
        if len(parts) == 1:
            return parts[0]
        grades: dict[str, dict[str, int]] = {}
        for part in parts:
            for query, found in part.grades.items():
                grades.setdefault(query, {}).update(found)
        return Judgements(", ".join(each.qrels for each in self.folders), grades)

    def competing(self) -> dict[str, list[str]]:
        """The documents that compete for a query, by query, if the task has such."""
        found: dict[str, list[str]] = {}
        for folder in self.folders:
            if folder.top_ranked is not None:
                for row in read_table(folder.top_ranked).to_pylist():
                    found.setdefault(str(row["query-id"]), []).extend(documents_of(row))
        return found


def documents_of(row: dict[str, Any]) -> list[str]:
    """The documents of a row of `top_ranked`: a list, or one."""
    value = row.get("corpus-ids", row.get("corpus-id"))
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def download(uri: str) -> str:
    """The local copy of a data set of the hub, downloaded unless it is there. Raises DownloadError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    match = HUB.fullmatch(uri)
    assert match is not None, uri
    try:
        return str(snapshot_download(match["name"], repo_type="dataset", revision=match["revision"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise DownloadError(
            f"{uri} can't be downloaded: {reason}. Where there is no network, copy the data set, and name its folder: "
            "--task FOLDER"
        ) from error


def with_corpus(uri: str) -> TaskFolder:
    """A folder that has all parts of a task. Raises UsageError, which names what is missing."""
    folder = TaskFolder.open(uri, "--task")
    if folder.corpus is None:
        raise UsageError(f"--task {uri}: no corpus in it (corpus.parquet, corpus.jsonl or a folder corpus)")
    return folder
