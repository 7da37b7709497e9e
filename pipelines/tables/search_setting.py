"""How the index of a vector column is searched: measured when the index was built, and stored with it in the table.

A setting is a key of the table's config, so a version of the table pins rows, vectors, index and setting together. The
key contains the name of the index, and every build gives its index a new name. So a version never has a setting that
was measured with another index, whoever commits in between.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lance

from pipelines.tables.transactions import set_config

KEY = "vista.search."  # what precedes the name of the index in the key


@dataclass(frozen=True)
class SearchSetting:
    """The cheapest measured setting that reaches the recall that was asked for. Stored as JSON: the names are fixed."""

    index: str  # name of the index
    nprobes: int
    refine_factor: int  # 0: no refine
    recall: float  # recall@10 that was asked for
    measured: float  # recall@10 that was measured against exact search
    metric: str = "cosine"  # the index's distance; a search by another one doesn't use the index
    filtered_nprobes: int = 0  # with a filter; measured with one that keeps 1 % of the rows
    filtered_refine_factor: int = 0
    filtered_measured: float = 0.0  # recall@10 of that

    @classmethod
    def of(cls, dataset: lance.LanceDataset, column: str) -> SearchSetting | None:
        """The setting of this version of the table; None means: search exactly.

        So it is for a column with two vector indexes, since Lance decides by itself which one a search uses.
        """
        names = vector_indexes(dataset, column)
        value = dataset.config().get(KEY + names[0]) if len(names) == 1 else None
        if value is None:
            return None
        stored = json.loads(value)
        return cls(**{each.name: stored[each.name] for each in dataclasses.fields(cls) if each.name in stored})

    def nearest(self, filtered: bool = False) -> dict[str, Any]:
        """What a search adds to the `nearest` of Lance's scanner."""
        nprobes, refine_factor = self.nprobes, self.refine_factor
        if filtered:
            nprobes = max(nprobes, self.filtered_nprobes)
            refine_factor = max(refine_factor, self.filtered_refine_factor)
        return {"metric": self.metric, **options(nprobes, refine_factor, filtered)}

    def store(self, table: lance.LanceDataset) -> lance.LanceDataset:
        """The table with this setting, which may precede its index, and without those of indexes that are gone.

        Raises CommitConflictError if another run stored one since `table.version`.
        """
        return set_config(table, {**forgotten(table), KEY + self.index: json.dumps(dataclasses.asdict(self))})


def options(nprobes: int, refine_factor: int, filtered: bool) -> dict[str, Any]:
    """The same for any setting. With a filter, Lance goes on to more partitions until it finds enough rows."""
    probes = {"minimum_nprobes": nprobes} if filtered else {"nprobes": nprobes}
    return {**probes, "refine_factor": refine_factor} if refine_factor else probes


def drop_setting(table: lance.LanceDataset, index: str) -> lance.LanceDataset:
    """The table without the setting of an index: searches are exact from then on."""
    return drop_settings(table, [index])


def drop_settings(table: lance.LanceDataset, indexes: Sequence[str]) -> lance.LanceDataset:
    """The table without the settings of some indexes, and of those that are gone."""
    changes = {**forgotten(table), **{KEY + index: None for index in indexes}}
    return set_config(table, changes) if changes else table


def forgotten(table: lance.LanceDataset) -> dict[str, str | None]:
    """The update of the config that removes the settings of indexes that are gone."""
    present = {KEY + index.name for index in table.describe_indices()}
    return {key: None for key in table.config() if key.startswith(KEY) and key not in present}


def vector_indexes(table: lance.LanceDataset, column: str) -> list[str]:
    """The names of the vector indexes on a column."""
    return [
        index.name
        for index in table.describe_indices()
        if index.field_names == [column] and index.type_url.endswith("VectorIndexDetails")
    ]
