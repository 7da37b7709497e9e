"""The canary: some of the rows that are to be published, read and encoded again on the plainest path there is.

It takes nothing on trust that the run did: the record is read from the source anew, and encoded alone, in float32. So
it sees a vector that is another record's as well as one that the fast path got wrong.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipelines.job import Job
from pipelines.records import FINGERPRINT, ID, OBJECT, VECTOR
from pipelines.sink.gates import Candidate, Verdict
from pipelines.sink.table import TableVersion
from pipelines.sources.objects import SourceChangedError, SourceError
from pipelines.stages.again import encode_plainly, read_again

ROWS = 16
COSINE = 0.999


def canary(job: Job, candidate: Candidate) -> Verdict:
    """Whether the cosine of some rows to what the plain path gives is 0.999 at least."""
    rows = some_rows(job, candidate)
    if not len(rows):
        return Verdict("canary", True, "no row of this source's objects differs from the published version")
    plain = plain_vectors(job, rows)
    cosines = {
        row[ID]: cosine(np.array(row[VECTOR], np.float32), plain[row[ID]])
        for row in rows.to_pylist()
        if row[ID] in plain
    }
    message = f"{len(cosines)} of {len(rows)} rows encoded again in float32"
    if not cosines:
        return Verdict("canary", False, f"{message}: none of their records is in the source any more as it was")
    worst = min(cosines, key=lambda key: cosines[key])
    message = f"{message}, smallest cosine {cosines[worst]:.5f}"
    if cosines[worst] >= COSINE:
        return Verdict("canary", True, message)
    return Verdict("canary", False, f"{message} ({worst!r}), less than {COSINE}: the encoder gave another vector")


def some_rows(job: Job, candidate: Candidate) -> pa.Table:
    """At random, of the rows that the published version doesn't have: id, object, fingerprint and vector."""
    random = np.random.default_rng()
    chosen: list[tuple[float, str]] = []
    scanner = candidate.table.scanner(columns=[ID, OBJECT], filter=candidate.new_rows, fragments=candidate.fresh)
    for batch in scanner.to_batches() if candidate.fresh else ():
        here = [name in job.objects for name in batch.column(OBJECT).to_pylist()]
        ids = batch.column(ID).filter(pa.array(here, pa.bool_()))
        places = random.random(len(ids))
        lowest = np.argsort(places)[:ROWS]
        chosen = sorted(chosen + list(zip(places[lowest].tolist(), ids.take(lowest).to_pylist(), strict=True)))[:ROWS]
    version = TableVersion(candidate.table.uri, candidate.table.version)
    return version.find([key for _, key in chosen], [OBJECT, FINGERPRINT, VECTOR])


def plain_vectors(job: Job, rows: pa.Table) -> dict[str, np.ndarray]:
    """By id what the plain path gives for `rows`, as far as their records can be read as they were."""
    read: Any = ray.remote(num_cpus=1)(read_again)
    encode: Any = ray.remote(num_cpus=1)(encode_plainly)
    settings = dataclasses.replace(job.settings, resize="exact")
    tables = []
    for name in pc.unique(rows[OBJECT]).to_pylist():
        wanted = rows.filter(pc.equal(rows[OBJECT], name)).select([ID, FINGERPRINT])
        uri = name.removeprefix(job.name(""))
        units = job.source.only({uri}).units()
        tables.append(read.remote(units, wanted, job.source.without_listing(), job.rules, settings))
    found = []
    for table in tables:
        try:
            found.append(ray.get(table))
        except (SourceError, SourceChangedError):  # gone, or another since: the next run will see to that
            continue
    return ray.get(encode.remote(found, settings)) if found else {}


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of the angle between two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
