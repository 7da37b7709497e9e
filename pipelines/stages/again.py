"""Some records once more, on the plainest path there is: what the canary compares vectors with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import vista_core
from pipelines.records import FINGERPRINT, ID, INPUT_IDS, PIXELS, alive, read_schema
from pipelines.sources import Source
from pipelines.stages.decode import decode
from pipelines.stages.encode import local_file
from pipelines.stages.fetch import fetch, identify
from pipelines.stages.places import FetchRules
from pipelines.stages.select import with_content
from vista_core import EncoderSettings


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
    encoder = vista_core.Encoder.load(plain)
    size = encoder.preprocessor.image_size
    vectors = {}
    for table in tables:
        for row in table.filter(pa.array(alive(table), pa.bool_())).select([ID, INPUT_IDS, PIXELS]).to_pylist():
            pixels = np.frombuffer(row[PIXELS], np.uint8).reshape(size, size, 3) if row[PIXELS] is not None else None
            [vectors[row[ID]]] = encoder.encode_tensors([np.asarray(row[INPUT_IDS])], [pixels])
    return vectors
