"""Upkeep of a measured index: if it finds too little, it is built anew; if that fails, searches are exact."""

from __future__ import annotations

import dataclasses
import logging
from typing import get_args

import lance

from pipelines.cluster.calls import Workers
from pipelines.gates.evidence import Evidence
from pipelines.gates.index_recall import has_recall
from pipelines.index.choose import choose
from pipelines.index.config import Kind
from pipelines.index.pieces import Pieces
from pipelines.index.vector import RecallError, Target, build_vector_index, vectors_of
from pipelines.ingest.commit import Committer
from pipelines.tables.search_setting import SearchSetting, drop_setting
from pipelines.tables.upkeep import UpkeepError, postponing
from pipelines.tables.vector_column import VectorColumn
from vista_core import UsageError

log = logging.getLogger(__name__)


def keep_recall(evidence: Evidence, committer: Committer, pieces: Pieces, workers: Workers) -> Evidence:
    """The evidence, or that of a later version in which the gate `index recall` passes. No night is lost to an index.

    Raises UpkeepError, which says so, if the setting of a column's index had to be dropped; `committer` has the version
    without it.
    """
    failed: list[UpkeepError] = []
    for column in evidence.columns:
        try:
            evidence = keep_recall_of(column, evidence, committer, pieces, workers)
        except UpkeepError as error:
            failed.append(error)
            evidence = dataclasses.replace(evidence, table=committer.table)
    if failed:
        raise UpkeepError("; ".join(map(str, failed))) from failed[0]
    return evidence


def keep_recall_of(
    column: VectorColumn, evidence: Evidence, committer: Committer, pieces: Pieces, workers: Workers
) -> Evidence:
    """The same for one column."""
    setting = SearchSetting.of(evidence.table, column.name)
    if setting is None:
        return evidence
    try:
        with postponing("the recall of the index could not be measured"):
            verdict = has_recall(evidence, column)
            if verdict.passed:
                return evidence
        which = f" (`{column.name}`)" if evidence.others else ""
        log.info("%s%s: %s, so it is built anew", evidence.table.uri, which, verdict.message)
        with postponing("the index finds too little, and could not be built anew"):
            uri, lease, events = evidence.table.uri, committer.lease, committer.events
            build_anew(Target(uri, column.name, setting.recall, lease, pieces, workers, events), setting)
    except (UpkeepError, RecallError, UsageError) as error:
        committer.reopen()
        committer.maintain(lambda table: drop_setting(table, setting.index))
        raise UpkeepError(f"{error}. Until `vista index` builds another one, searches are exact") from error
    committer.reopen()
    return dataclasses.replace(evidence, table=committer.table)


def build_anew(target: Target, setting: SearchSetting) -> None:
    """Build an index of the same kind, which has to reach the same recall."""
    table = lance.dataset(target.uri)
    [kind] = [index.index_type for index in table.describe_indices() if index.name == setting.index]
    choice = choose(vectors_of(table, target.column), kind if kind in get_args(Kind) else "auto")
    build_vector_index(target, choice)
