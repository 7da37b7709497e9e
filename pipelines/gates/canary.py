"""Gate: the canary. Some fresh rows are read from the source and encoded again, on the plainest path there is.

They are encoded for each of the columns that the run fills.

It sees a vector that belongs to another record as well as one that the fast path got wrong.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.cluster.tasks import on_workers
from pipelines.events import Verdict
from pipelines.gates.evidence import Evidence, of_every_column
from pipelines.gates.reference import decoded, encode_alone, exact, read_again
from pipelines.records import FINGERPRINT, ID, OBJECT, RUN
from pipelines.stages.decode import slots_of
from pipelines.stages.pool import Pool
from pipelines.tables.dataset import SCAN, TableVersion
from pipelines.tables.vector_column import VectorColumn

ROWS = 16
COSINE = 0.999
CURE = (
    "the same content: their server's versions (etags) say nothing, so each run embeds such images anew. Fill a new "
    "--table with --image-identity content, or uri if an image never changes under its URI"
)

log = logging.getLogger(__name__)


class Again(NamedTuple):
    """A record that was read and encoded again."""

    vector: np.ndarray  # float32 [D]
    is_unchanged: bool  # its fingerprint is that of the row


def canary(evidence: Evidence) -> Verdict:
    """The cosine of 16 random fresh rows to the vectors of the reference path is at least 0.999."""
    rows = sample(evidence)
    if not len(rows):
        written = evidence.counts.written
        nothing = "no row of this source's files differs from the published version"
        return Verdict("canary", not written, f"{nothing}, but the run wrote {written:,}" if written else nothing)
    again = encoded_again(evidence, rows)
    return of_every_column(evidence, lambda column: compared(rows, column, again[column.name]))


def compared(rows: pa.Table, column: VectorColumn, again: dict[str, Again]) -> Verdict:
    """The verdict on the vectors of one column."""
    vectors = zip(rows[ID].to_pylist(), rows[column.name].to_pylist(), strict=True)
    cosines = {
        key: cosine(np.array(vector, np.float32), again[key].vector)
        for key, vector in vectors
        if key in again and vector is not None
    }
    # A row whose record has another version now, and another vector, says nothing: its image was replaced.
    cosines = {key: found for key, found in cosines.items() if again[key].is_unchanged or found >= COSINE}
    message = f"{len(cosines)} of {len(rows)} rows encoded again in float32"
    if not cosines:
        return Verdict("canary", False, f"{message}: none of their records is unchanged in the source")
    worst = min(cosines, key=lambda key: cosines[key])
    message = f"{message}, smallest cosine {cosines[worst]:.5f}"
    if cosines[worst] < COSINE:
        return Verdict("canary", False, f"{message} ({worst!r}), less than {COSINE}: the encoder gave another vector")
    if volatile := [key for key in cosines if not again[key].is_unchanged]:
        message = f"{message}. {len(volatile)} of them have another version than minutes ago, and {CURE}"
        log.warning("images such as that of %r have another version than minutes ago, and %s", volatile[0], CURE)
    return Verdict("canary", True, message)


def sample(evidence: Evidence) -> pa.Table:
    """Random rows that the published version doesn't have: id, file, fingerprint and vectors."""
    random, reference, column = np.random.default_rng(), evidence.reference, evidence.column
    assert reference is not None, "the canary needs a reference path"
    chosen: list[tuple[float, str]] = []
    latest_first = evidence.fresh[::-1]  # after a compaction old rows precede the new ones
    scanner = evidence.table.scanner([ID, OBJECT, column.fingerprint, RUN], fragments=latest_first, **SCAN)
    for batch in scanner.to_batches() if evidence.fresh else ():
        rows = pa.Table.from_batches([batch])
        listed = np.array([file in reference.files for file in rows[OBJECT].to_pylist()], bool)
        places = random.random(len(rows))
        # Only rows that may be chosen are looked up: few, as soon as new ones were found.
        candidates = listed & (places < (chosen[-1][0] if len(chosen) == ROWS else 1)) & rows[ID].is_valid().to_numpy()
        rows, places = rows.filter(pa.array(candidates)), places[candidates]
        found = zip(places.tolist(), rows[ID].to_pylist(), evidence.unpublished(rows), strict=True)
        chosen = sorted(chosen + [(place, key) for place, key, is_new in found if is_new])[:ROWS]
    version = TableVersion(evidence.table.uri, evidence.table.version)
    return version.find(
        [key for _, key in chosen], [OBJECT, column.fingerprint, *(each.name for each in evidence.columns)]
    )


def encoded_again(evidence: Evidence, rows: pa.Table) -> dict[str, dict[str, Again]]:
    """By column and id what the reference path gives for `rows`, as far as their records can be read again."""
    reference = evidence.reference
    assert reference is not None, "the canary needs a reference path"
    fingerprint = evidence.column.fingerprint
    wanted = rows.select([ID, OBJECT, fingerprint]).rename_columns([ID, OBJECT, FINGERPRINT])
    tables = [each for each in evidence.on_workers(read_again, reference.reads(wanted)) if each is not None]
    before, now = digests(wanted), digests(pa.concat_tables(tables)) if tables else {}
    again: dict[str, dict[str, Again]] = {column.name: {} for column in evidence.columns}
    for column, settings, slot in zip(evidence.columns, reference.encoders, reference.slots, strict=True):
        [vectors] = evidence.on_workers(encode_alone, [(tables, settings, slot)]) if tables else [{}]
        again[column.name] = {key: Again(vector, now[key] == before[key]) for key, vector in vectors.items()}
    return again


def canary_seconds(records: pa.Table, pool: Pool) -> float:
    """How long a canary takes that encodes the first of these selected records again. Its gate reads them, too."""
    began, encoders = time.monotonic(), exact([each.settings for each in pool.encodings])
    [table] = on_workers(decoded, [(records.slice(0, ROWS), encoders, pool.fetching)])
    for settings, slot in zip(encoders, slots_of(encoders), strict=True):
        on_workers(encode_alone, [([table], settings, slot)])
    return time.monotonic() - began


def digests(rows: pa.Table) -> dict[str, bytes]:
    """The fingerprints of records, by id."""
    return dict(zip(rows[ID].to_pylist(), rows[FINGERPRINT].to_pylist(), strict=True))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of the angle between two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
