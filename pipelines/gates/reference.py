"""The reference path: records read from the source once more, and encoded alone, in float32, on a CPU.

It takes nothing on trust from the run: the canary compares the table's vectors with its results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import vista_core
from pipelines.fetching.locations import FetchRules
from pipelines.records import FINGERPRINT, ID, IMAGE_URI, INPUT_IDS, OBJECT, Slot, embeddable, with_slots
from pipelines.sources.source import Source
from pipelines.sources.units import Unit
from pipelines.stages.decode import decode, slots_of
from pipelines.stages.fetch import fetch, identify
from pipelines.stages.isolation import read_or_reject
from pipelines.stages.read import record_schema
from pipelines.stages.select import with_content
from pipelines.storage.errors import SourceChangedError, SourceError
from pipelines.storage.model_files import local_files
from vista_core import EncoderSettings

FIRST = Slot()


@dataclass(frozen=True)
class ReferencePath:
    """How records of a source are read and encoded again. `mark` precedes the names of files in the table."""

    source: Source
    files: Container[str]  # names in the table of the files that the source lists
    mark: str
    rules: FetchRules
    settings: EncoderSettings  # of the encoder of the first column
    others: tuple[EncoderSettings, ...] = ()  # of those of the other columns

    @property
    def encoders(self) -> tuple[EncoderSettings, ...]:
        """The settings by which records are encoded again, by slot."""
        return exact((self.settings, *self.others))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of the encoders."""
        return slots_of(self.encoders)

    def reads(self, rows: pa.Table) -> list[tuple]:
        """For each file of `rows` (id, file, FINGERPRINT) the arguments of `read_again`."""
        reader = Reader(self.source.without_listing(), self.rules, self.encoders)
        calls = []
        for file in pc.unique(rows[OBJECT]).to_pylist():
            wanted = rows.filter(pc.equal(rows[OBJECT], file)).select([ID, FINGERPRINT])
            units = self.source.only({file.removeprefix(self.mark)}).units()
            calls.append((reader, units, wanted))
        return calls


def exact(encoders: Sequence[EncoderSettings]) -> tuple[EncoderSettings, ...]:
    """The settings by which the reference path prepares images."""
    return tuple(dataclasses.replace(each, resize="exact") for each in encoders)


@dataclass(frozen=True)
class Reader:
    """What a worker needs to read records again."""

    source: Source
    rules: FetchRules
    encoders: tuple[EncoderSettings, ...]


def read_again(reader: Reader, units: list[Unit], wanted: pa.Table) -> pa.Table | None:
    """The records of a file that `matching` finds, decoded; None if the file is gone or changed."""
    try:
        return decoded(pa.concat_tables(matching(reader, units, wanted)), reader.encoders, reader.rules)
    except (SourceError, SourceChangedError):  # the next run will read what is there now
        return None


def decoded(records: pa.Table, encoders: Sequence[EncoderSettings], rules: FetchRules | None) -> pa.Table:
    """Selected records as the reference path takes them; `rules` is None if no image has to be fetched."""
    first, *others = encoders
    records = with_slots(records, len(encoders))
    return decode(records if rules is None else fetch(records, rules), first, store_images=False, others=others)


def matching(reader: Reader, units: list[Unit], wanted: pa.Table) -> list[pa.Table]:
    """The records that are wanted, as far as they are still there unchanged.

    In place of one that is not, the first record with its id whose image is external: another version of an image may
    be the same image, which only its content tells.
    """
    source = reader.source
    missing = dict(zip(wanted[ID].to_pylist(), wanted[FINGERPRINT].to_pylist(), strict=True))
    found, others = [record_schema(source).empty_table()], dict[str, pa.Table]()
    for unit in units:
        for records, rejects in read_or_reject(source, unit):
            if not missing:
                break
            if source.has_ids:  # before the external images of all other records are asked for
                here = pc.is_in(records[ID], value_set=wanted[ID].combine_chunks())
                kept = np.flatnonzero(here.to_numpy()).tolist()
                rejects = {at: rejects[row] for at, row in enumerate(kept) if row in rejects}
                records = records.filter(here)
            records = with_content(*identify(records, rejects, reader.rules), source.has_ids)
            external = pc.is_valid(records[IMAGE_URI]).to_pylist()
            keys = zip(records[ID].to_pylist(), records[FINGERPRINT].to_pylist(), strict=True)
            for row, (key, digest) in enumerate(keys):
                if missing.get(key) == digest:
                    found.append(records.slice(row, 1))
                    del missing[key]
                elif key in missing and external[row]:
                    others.setdefault(key, records.slice(row, 1))
    return found + [other for key, other in others.items() if key in missing]


def encode_alone(tables: list[pa.Table], settings: EncoderSettings, slot: Slot = FIRST) -> dict[str, np.ndarray]:
    """The vector of each record, float32 [D], by id: encoded one at a time, in float32, on the CPU."""
    ids, images = slot.named(INPUT_IDS), slot.pixels
    plain = dataclasses.replace(local_files(settings), dtype="float32", device="cpu")
    encoder = vista_core.Encoder.load(plain)
    size = encoder.preprocessor.image_size
    vectors = {}
    for table in tables:
        rows = table.filter(pa.array(embeddable(table, slot.number), pa.bool_()))
        for row in rows.select([ID, ids, images]).to_pylist():
            pixels = np.frombuffer(row[images], np.uint8).reshape(size, size, 3) if row[images] is not None else None
            [vectors[row[ID]]] = encoder.encode_tensors([np.asarray(row[ids])], [pixels])
    return vectors
