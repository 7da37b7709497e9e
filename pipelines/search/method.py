"""How the nearest rows of a table are found: by an index with its measured setting, or exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import lance

from pipelines.tables.search_setting import SearchSetting, vector_indexes

COSINE: Final = "cosine"
# For an index that nobody measured: 99 % of the neighbours among 100,000 rows in 256 partitions.
NPROBES: Final = 64
REFINE_FACTOR: Final = 10


@dataclass(frozen=True)
class Method:
    """A distance, and how the index that orders by it is searched. Without an index every vector is compared."""

    metric: str
    setting: SearchSetting | None = None  # None: no index is used
    is_measured: bool = True  # False if nobody knows the recall of `setting`

    @classmethod
    def of(cls, dataset: lance.LanceDataset, column: str, is_ours: bool) -> Method:
        """The method for a vector column: its stored setting. Without one, a column whose vectors are vista's is
        searched exactly; another one by the index that it has."""
        if (setting := SearchSetting.of(dataset, column)) is not None:
            return cls(setting.metric.lower(), setting)
        names = vector_indexes(dataset, column)
        if not names:
            return cls(COSINE)
        metric = metric_of(dataset, names[0])
        if is_ours:
            return cls(metric)
        return cls(metric, SearchSetting(names[0], NPROBES, REFINE_FACTOR, 0, 0, metric), is_measured=False)

    def options(self, exact: bool, filtered: bool) -> dict[str, Any]:
        """Lance's options for a search for nearest rows."""
        if exact or self.setting is None:
            return {"metric": self.metric, "use_index": False}
        return self.setting.nearest(filtered)

    def score(self, distance: Any) -> Any:
        """The cosine of Lance's distance. Of other distances, what would be the cosine for vectors of length 1."""
        return 1 - distance / (2 if self.metric == "l2" else 1)  # Lance's L2 is squared


def metric_of(dataset: lance.LanceDataset, index: str) -> str:
    """The distance that an index orders by. One that an older Lance made tells it only in its statistics."""
    [found] = [each for each in dataset.describe_indices() if each.name == index]
    metric = (found.details or {}).get("metric_type")
    if metric is None:
        metric = dataset.stats.index_stats(index)["indices"][0].get("metric_type", COSINE)
    return str(metric).lower()
