"""Gate: searches through the index of the vectors still find what they were promised to find."""

from __future__ import annotations

from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence, of_every_column
from pipelines.tables.search_setting import SearchSetting
from pipelines.tables.vector_column import VectorColumn

NAME = "index recall"
CERTAIN = 2.0  # standard errors by which a recall has to be too small: other rows are sampled each time


def index_recall(evidence: Evidence) -> Verdict:
    """The recall@10 of the stored setting, in the candidate version, is what was asked for when the index was built."""
    return of_every_column(evidence, lambda column: has_recall(evidence, column))


def has_recall(evidence: Evidence, column: VectorColumn) -> Verdict:
    """The verdict on the index of one column."""
    setting = SearchSetting.of(evidence.table, column.name)
    if setting is None:
        return Verdict(NAME, True, "no index with a measured setting, so searches are exact")
    measured, error = evidence.recall(column.name, setting)
    found = f"recall@10 {measured.recall:.3f} at nprobes {setting.nprobes}, refine factor {setting.refine_factor}"
    if measured.recall + CERTAIN * error >= setting.recall:
        return Verdict(NAME, True, f"{found}; asked: {setting.recall:g}")
    return Verdict(NAME, False, f"{found}, less than {setting.recall:g}. `vista index` builds the index anew")
