"""What --gate-task names: queries and judgements by which each new version of a table is compared with the last."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipelines.fetching.locations import FetchRules
from pipelines.quality.judgements import Judgements
from pipelines.quality.task_folder import TaskFolder
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.source import Source
from pipelines.storage.uris import absolute, bucket_or_folder
from vista_core import UsageError


@dataclass(frozen=True)
class GateTask:
    """Queries with judgements of a table's rows, and by how much the candidate version may be worse."""

    folder: TaskFolder
    judgements: Judgements
    drop: float  # of nDCG@10
    rules: FetchRules  # for images of queries

    @classmethod
    def open(cls, uri: str, drop: float, rules: FetchRules) -> GateTask:
        """Read the judgements. Raises UsageError if the folder has none, or no queries."""
        uri = absolute(uri).rstrip("/")
        folder = TaskFolder.open(uri, "--gate-task")
        rules = dataclasses.replace(rules, allowed=(*rules.allowed, bucket_or_folder(folder.queries)))
        return cls(folder, Judgements.read(folder.qrels), drop, rules)

    def source(self) -> Source:
        """The queries. Raises UsageError if they have no ids."""
        source = open_source(self.folder.queries, Columns())
        if not source.has_ids:
            raise UsageError(
                f"--gate-task: {self.folder.queries}: no column with ids, so judgements can't name queries"
            )
        return source
