"""Gate: searches in the candidate version find what is judged relevant, as well as in the published one.

Judged documents that only one of the two versions has don't count: that products come and go is no fault of the
vectors. A version is worse if it loses more than is allowed, and if that is no accident of the queries: if 0 is outside
the 95 % interval of the difference. `vista switch` judges one column against another in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from pipelines.events import Verdict
from pipelines.fetching.locations import FetchRules
from pipelines.gates.evidence import Evidence, OnWorkers
from pipelines.quality.exact import Vectors, search_exactly
from pipelines.quality.gate_task import GateTask
from pipelines.quality.intervals import difference
from pipelines.quality.judgements import Judgements
from pipelines.quality.metrics import DEPTH, NDCG, scores_of
from pipelines.records import FLOW_FIELDS, ID, VECTOR, embeddable, with_rejects
from pipelines.sources.source import Source
from pipelines.sources.units import Unit
from pipelines.stages.decode import decode
from pipelines.stages.encode import EncodeActor
from pipelines.stages.fetch import fetch
from pipelines.storage.model_files import local_files
from pipelines.tables.dataset import TableVersion
from pipelines.tables.default_column import default_column
from pipelines.tables.origin import encoder_files, vista_column
from pipelines.tables.vector_column import VectorColumn
from vista_core import EncoderIdentity, EncoderSettings, UsageError, VistaError
from vista_core.hub import resolve_config

NAME = "retrieval quality"


def retrieval(evidence: Evidence) -> Verdict:
    """The nDCG@10 of the default column is not worse than that of the published version by more than is allowed."""
    task = evidence.task
    if task is None:
        return Verdict(NAME, True, "no --gate-task")
    if evidence.published is None:
        return Verdict(NAME, True, "no version is published that this one could be worse than")
    try:
        return compared(task, System.of(evidence.published), System.of(evidence.table), evidence.on_workers)
    except VistaError as error:
        return Verdict(NAME, False, f"could not be judged: {error}")


def compared(task: GateTask, before: System, after: System, on_workers: OnWorkers) -> Verdict:
    """The verdict on what is published after what was published before."""
    both = before.documents(task.judgements) & after.documents(task.judgements)
    grades = {
        query: {key: grade for key, grade in found.items() if key in both}
        for query, found in task.judgements.grades.items()
    }
    grades = {query: found for query, found in grades.items() if max(found.values(), default=0) > 0}
    scores, queries = [], set(grades)
    encoded = after.encode(task, on_workers)  # this version says where the encoder's files are now
    vectors = [encoded if before.encoder == after.encoder else before.encode(task, on_workers), encoded]
    for each in vectors:
        queries &= each.keys()
    if not queries:
        return Verdict(NAME, False, f"no query of {task.folder.uri} can be judged: no relevant row is in both versions")
    order = sorted(queries)
    for system, by_query in zip((before, after), vectors, strict=True):
        asked = np.stack([by_query[query] for query in order])
        found = search_exactly(
            system.vectors, asked, DEPTH, lambda function, calls: enumerate(on_workers(function, calls))
        )
        scores.append(scores_of(grades, dict(zip(order, found.ids, strict=True)))[NDCG])
    change = difference(scores[0], scores[1])
    said = (
        f"{NDCG} {scores[1].mean():.4f}, published {scores[0].mean():.4f}; difference {change.interval} "
        f"over {len(order):,} queries"
    )
    if change.interval.mean < -task.drop and change.is_significant:
        return Verdict(NAME, False, f"{said}: worse by more than {task.drop:g}")
    return Verdict(NAME, True, said)


@dataclass(frozen=True)
class System:
    """A version of the table, searched by one of its columns."""

    table: lance.LanceDataset
    column: VectorColumn

    @classmethod
    def of(cls, table: lance.LanceDataset, column: str | None = None) -> System:
        """A version, and its default column if none is named. Raises UsageError if that doesn't name its encoder."""
        return cls(table, vista_column(table, column or default_column(table)))

    @property
    def vectors(self) -> Vectors:
        """What is searched."""
        return Vectors(TableVersion(self.table.uri, int(self.table.version)), self.column.name, ID)

    @property
    def encoder(self) -> EncoderIdentity:
        """What the queries are encoded by."""
        return self.column.identity

    def documents(self, judgements: Judgements) -> set[str]:
        """The judged documents that this version has."""
        judged, found = {key for grades in judgements.grades.values() for key in grades}, set[str]()
        for batch in self.table.scanner([ID], batch_size=65_536, batch_readahead=1).to_batches():
            found.update(key for key in batch.column(0).to_pylist() if key in judged)
        return found

    def encode(self, task: GateTask, on_workers: OnWorkers) -> dict[str, np.ndarray]:
        """The vectors of the queries by id, encoded on workers as the column was; a rejected query has none."""
        files, source, model = encoder_files(self.table, self.column), task.source(), self.encoder.model
        settings = self.column.settings(
            EncoderSettings(files.model(model), files.weights, files.from_pretrained, device="cpu")
        )
        try:
            resolve_config(local_files(settings, weights=False))
        except VistaError as error:
            raise UsageError(files.why_lost(f"`{self.column.name}`", model, error)) from error
        calls = [(source.without_listing(), unit, task.rules, (settings, self.encoder)) for unit in source.units()]
        found: dict[str, np.ndarray] = {}
        for part in on_workers(encode_unit, calls):
            found |= part
        return found


def encode_unit(
    source: Source, unit: Unit, rules: FetchRules, encoder: tuple[EncoderSettings, EncoderIdentity]
) -> dict[str, np.ndarray]:
    """The vectors of the records of a unit by id, float32 [D]. Runs on a worker."""
    settings, found = encoder[0], dict[str, np.ndarray]()
    for records in fetched(source, unit, rules):
        encoded = encoder_of(*encoder)(decode(records, settings, store_images=False))
        values = encoded[VECTOR].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        good = embeddable(encoded)
        vectors = values.reshape(len(encoded), -1)
        found |= {str(key): vectors[row] for row, key in enumerate(encoded[ID].to_pylist()) if good[row]}
    return found


def fetched(source: Source, unit: Unit, rules: FetchRules) -> Iterator[pa.Table]:
    """The records of a unit with their images."""
    for records, rejects in source.read(unit):
        for field in FLOW_FIELDS:
            records = records.append_column(field, pa.nulls(len(records), field.type))
        yield fetch(with_rejects(records, rejects), rules)


@functools.lru_cache(maxsize=1)
def encoder_of(settings: EncoderSettings, identity: EncoderIdentity) -> Any:
    """The encoder, loaded once in each worker."""
    return EncodeActor(settings, identity, 1)
