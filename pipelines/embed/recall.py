"""Upkeep of a measured index: if it finds too little, it is built anew; if that fails, searches are exact."""

from __future__ import annotations

import dataclasses
import logging
from typing import get_args

import lance

from pipelines.cluster.calls import Workers
from pipelines.cluster.tasks import as_completed
from pipelines.gates.evidence import Evidence
from pipelines.gates.index_recall import index_recall
from pipelines.index.choose import choose
from pipelines.index.config import Kind
from pipelines.index.pieces import Pieces
from pipelines.index.vector import RecallError, Target, build_vector_index, vectors_of
from pipelines.ingest.commit import Committer
from pipelines.tables.search_setting import SearchSetting, drop_setting
from pipelines.tables.upkeep import UpkeepError, postponing
from vista_core import UsageError

log = logging.getLogger(__name__)


def keep_recall(evidence: Evidence, committer: Committer, pieces: Pieces, workers: Workers = as_completed) -> Evidence:
    """The evidence, or that of a later version in which the gate `index recall` passes. No night is lost to an index.

    Raises UpkeepError, which says so, if the setting had to be dropped; `committer` has the version without it.
    """
    setting = SearchSetting.of(evidence.table, evidence.column.name)
    if setting is None:
        return evidence
    try:
        with postponing("the recall of the index could not be measured"):
            verdict = index_recall(evidence)
            if verdict.passed:
                return evidence
        log.info("%s: %s, so it is built anew", evidence.table.uri, verdict.message)
        with postponing("the index finds too little, and could not be built anew"):
            build_anew(evidence, setting, committer, pieces, workers)
    except (UpkeepError, RecallError, UsageError) as error:
        committer.reopen()
        committer.maintain(lambda table: drop_setting(table, setting.index))
        raise UpkeepError(f"{error}. Until `vista index` builds another one, searches are exact") from error
    committer.reopen()
    return dataclasses.replace(evidence, table=committer.table)


def build_anew(
    evidence: Evidence, setting: SearchSetting, committer: Committer, pieces: Pieces, workers: Workers
) -> None:
    """Build an index of the same kind, which has to reach the same recall."""
    column = evidence.column.name
    table = lance.dataset(evidence.table.uri)
    [kind] = [index.index_type for index in table.describe_indices() if index.name == setting.index]
    vectors = vectors_of(table, column)
    choice = choose(vectors, kind if kind in get_args(Kind) else "auto")
    target = Target(table.uri, column, setting.recall, committer.lease, pieces, workers, committer.events)
    build_vector_index(target, choice)
