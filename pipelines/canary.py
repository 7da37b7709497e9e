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
from pipelines.records import FINGERPRINT, ID, INPUT_IDS, OBJECT, PIXELS, VECTOR, alive, read_schema
from pipelines.sink.gates import Candidate, Verdict
from pipelines.sink.table import TableVersion
from pipelines.sources import Source
from pipelines.sources.objects import SourceChangedError, SourceError
from pipelines.stages.decode import decode
from pipelines.stages.encode import local_file
from pipelines.stages.fetch import fetch, identify
from pipelines.stages.places import FetchRules
from pipelines.stages.select import with_content
from vista_core import Encoder, EncoderSettings

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
    tables = []
    for name in pc.unique(rows[OBJECT]).to_pylist():
        wanted = rows.filter(pc.equal(rows[OBJECT], name)).select([ID, FINGERPRINT])
        uri = name.removeprefix(job.name(""))
        units = job.source.only({uri}).units()
        tables.append(read.remote(units, wanted, job.source.without_listing(), job.rules, job.settings))
    found = []
    for table in tables:
        try:
            found.append(ray.get(table))
        except (SourceError, SourceChangedError):  # gone, or another since: the next run will see to that
            continue
    return ray.get(encode.remote(found, job.settings)) if found else {}


def read_again(
    units: list[dict], wanted: pa.Table, source: Source, rules: FetchRules, settings: EncoderSettings
) -> pa.Table:
    """The records of an object that have the ids and fingerprints of `wanted`, decoded."""
    missing = set(zip(wanted[ID].to_pylist(), wanted[FINGERPRINT].to_pylist(), strict=True))
    found = [with_content(read_schema(source.extra).empty_table(), {}, [], source.has_ids)]
    for unit in units:
        for records, rejects in source.read(unit):
            if not missing:
                break
            if source.has_ids:  # before the images of all others are asked for
                here = pc.is_in(records[ID], value_set=wanted[ID].combine_chunks())
                kept = np.flatnonzero(here.to_numpy()).tolist()
                rejects = {at: rejects[row] for at, row in enumerate(kept) if row in rejects}
                records = records.filter(here)
            records = with_content(*identify(records, rejects, rules), source.has_ids)
            keys = list(zip(records[ID].to_pylist(), records[FINGERPRINT].to_pylist(), strict=True))
            found.append(records.filter(pa.array([key in missing for key in keys], pa.bool_())))
            missing -= set(keys)
    fetched = fetch(pa.concat_tables(found), rules)
    return decode(fetched, settings, store_images=False)


def encode_plainly(tables: list[pa.Table], settings: EncoderSettings) -> dict[str, np.ndarray]:
    """The vector of each record, by id: one at a time, in float32, on the CPU."""
    plain = dataclasses.replace(settings, dtype="float32", device="cpu", weights=local_file(settings.weights))
    encoder = Encoder.load(plain)
    size = encoder.preprocessor.image_size
    vectors = {}
    for table in tables:
        for row in table.filter(pa.array(alive(table), pa.bool_())).select([ID, INPUT_IDS, PIXELS]).to_pylist():
            pixels = np.frombuffer(row[PIXELS], np.uint8).reshape(size, size, 3) if row[PIXELS] is not None else None
            [vectors[row[ID]]] = encoder.encode_tensors([np.asarray(row[INPUT_IDS])], [pixels])
    return vectors


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of the angle between two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
