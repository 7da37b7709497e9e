"""Read rows of a table and select those whose vectors are missing, or were made of other content."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.backfill.content import Rows, TableRows
from pipelines.backfill.parked import Parked
from pipelines.batch_stats import SECONDS, BatchStats, FileCounts, with_measured
from pipelines.cluster.child import ProcessLimits
from pipelines.cluster.logs import captured_warnings
from pipelines.fetching.locations import FetchRules
from pipelines.fingerprint import fingerprint
from pipelines.reasons import EMPTY_RECORD, REASONS, Reject
from pipelines.records import (
    FINGERPRINT,
    FLOW_FIELDS,
    HAS_VECTOR,
    IMAGE,
    TEXT,
    read_schema,
    replace_column,
    slot_name,
    with_rejects,
)
from pipelines.sources.scope import Batches
from pipelines.stages.fetch import External, identify
from pipelines.stages.isolation import READING, read_or_reject
from pipelines.stages.read import IDENTIFIED_ROWS
from pipelines.stages.report import StageClock
from pipelines.tables.vector_column import VectorColumn

REJECTED = "rejected: "  # what stands for a record that can't be read, in its fingerprint


@dataclass(frozen=True)
class Targets:
    """The columns that are filled, and the vectors of theirs that wait to be committed."""

    columns: tuple[VectorColumn, ...]
    parked: Parked

    @property
    def fingerprints(self) -> list[str]:
        """The columns with the fingerprints of their vectors."""
        return [each.fingerprint for each in self.columns]

    def schema(self) -> pa.Schema:
        """That of the records that `read_and_select` yields."""
        slots = [pa.field(slot_name(HAS_VECTOR, number), pa.bool_()) for number in range(1, len(self.columns))]
        return pa.schema([*read_schema(pa.schema([])), *FLOW_FIELDS, *slots])


def task_of(unit: Rows) -> dict[str, bytes]:
    """A row of the dataset that the flow starts from."""
    return {"task": pickle.dumps(unit)}


def read_and_select(
    batch: dict[str, Any], rows: TableRows, rules: FetchRules, targets: Targets, limits: ProcessLimits = READING
) -> Iterator[pa.Table]:
    """The units of `batch`, streamed: rows that need a vector, rejected ones, and batch statistics."""
    for pickled in batch["task"]:
        unit: Rows = pickle.loads(pickled)
        clock, schema = StageClock(), targets.schema()
        with captured_warnings() as warnings:
            for records, rejects in clock.each("read", read_or_reject(rows, unit, limits)):  # type: ignore[arg-type]
                for part, bad in in_parts(records, rejects, rows.external_images):
                    with clock.on("fetch"):
                        identified = identify(part, bad, rules)
                    with clock.on("select"):
                        selected, unchanged = select(*identified, rows, targets)
                    counts = FileCounts(str(unit.fragment), read=len(part), unchanged=unchanged)
                    if len(selected):
                        yield selected.select(schema.names)
                    yield BatchStats(files=[counts]).row(schema)
        stats = BatchStats(ended=(str(unit.fragment),), warnings=warnings).row(schema)
        yield with_measured(stats, SECONDS, clock.seconds)


def in_parts(records: pa.Table, rejects: dict[int, Reject], external: bool) -> Batches:
    """Records in parts of which all images may be in memory at once."""
    rows = IDENTIFIED_ROWS if external else max(1, len(records))
    for start in range(0, len(records), rows):
        bad = {row - start: reject for row, reject in rejects.items() if start <= row < start + rows}
        yield records.slice(start, rows), bad


def select(
    records: pa.Table,
    rejects: dict[int, Reject],
    external: Sequence[External | None],
    rows: TableRows,
    targets: Targets,
) -> tuple[pa.Table, int]:
    """The records that need a vector or a decision, and how many have both already.

    A row in which there is nothing to embed has its fingerprint, too, and no vector. A rejected row has neither: it is
    decided again whenever its fragment is read.
    """
    fingerprints = content_fingerprints(records, rejects, external)
    empty = {
        row: EMPTY_RECORD.reject("neither text nor image")
        for row in np.flatnonzero(without_content(records, external)).tolist()
        if row not in rejects
    }
    missing = pa.nulls(len(records), fingerprints.type)  # of a column that a forecast is made for
    stored = [records[name] if name in rows.fingerprints else missing for name in targets.fingerprints]
    for field in FLOW_FIELDS:
        values = fingerprints if field.name == FINGERPRINT else pa.nulls(len(records), field.type)
        records = records.append_column(field, values)
    same = [np.array(pc.fill_null(pc.equal(each, fingerprints), False), bool) for each in stored]
    lasting = np.array([row in rejects and REASONS[rejects[row].reason].retryable for row in range(len(records))], bool)
    handed_on = ~np.logical_and.reduce(same) | lasting
    records = with_rejects(records, empty | rejects)
    for number, has_vector in enumerate(same):
        has_vector |= targets.parked.has(number, fingerprints, ~has_vector)
        records = replace_column(records, slot_name(HAS_VECTOR, number), pa.array(has_vector, pa.bool_()))
    return records.filter(pa.array(handed_on)), int(np.count_nonzero(~handed_on))


def content_fingerprints(
    records: pa.Table, rejects: dict[int, Reject], external: Sequence[External | None]
) -> pa.Array:
    """The fingerprint of each record's content, as `embed` computes it from a source with the same text and image.

    For an image that was fetched by its URI and stored, `embed` has the URI and version instead of the bytes. What the
    table says of these is not taken, since another client may have changed the row's text and left that.
    A record that can't be read has a fingerprint of its own, so that it is looked at again once it can.
    """
    images = [image.as_buffer() for chunk in records[IMAGE].chunks for image in chunk]
    found = []
    for row, (text, image, other) in enumerate(zip(records[TEXT].to_pylist(), images, external, strict=True)):
        identity = f"{REJECTED}{rejects[row].reason}" if row in rejects else other.identity if other else None
        found.append(fingerprint(text, image, identity))
    return pa.array(found, records_fingerprint_type())


def records_fingerprint_type() -> pa.DataType:
    """The type of a fingerprint."""
    [field] = [field for field in FLOW_FIELDS if field.name == FINGERPRINT]
    return field.type


def without_content(records: pa.Table, external: Sequence[External | None]) -> np.ndarray:
    """bool [N]: the records in which there is nothing to embed."""
    no_text = pc.fill_null(pc.equal(pc.utf8_length(records[TEXT]), 0), True).to_numpy().astype(bool)
    no_image = records[IMAGE].is_null().to_numpy().astype(bool)
    return no_text & no_image & np.array([each is None for each in external], bool)
