"""Encode decoded records on a pool of actors, one GPU each where there are GPUs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

import vista_core
from pipelines.batch_stats import WORK, with_measured
from pipelines.cluster.logs import captured_warnings, log_again
from pipelines.cluster.session import cores
from pipelines.records import INPUT_IDS, VECTOR, Slot, embeddable
from pipelines.stages.report import reports_warnings, timed
from pipelines.storage.model_files import local_files
from vista_core import EncoderIdentity, EncoderSettings, VistaError

FIRST = Slot()


class EncodeActor:
    """Loads the model once; each call turns a batch of decoded records into one with vectors. Calls may overlap."""

    def __init__(
        self, settings: EncoderSettings, identity: EncoderIdentity, actors_per_node: int, slot: Slot = FIRST
    ) -> None:
        """On a CPU the actors of a node share its cores. Raises VistaError if the weights here are others."""
        self.slot = slot
        if settings.device == "cpu":
            import torch

            # Ray sets OMP_NUM_THREADS to what the actor reserves, which is less than what it may use.
            threads = max(1, cores() // actors_per_node)
            os.environ["OMP_NUM_THREADS"] = str(threads)
            torch.set_num_threads(threads)
        with captured_warnings() as self.warnings:  # of loading; they follow the first batch
            self.encoder = vista_core.Encoder.load(local_files(settings))
        self.clock = BusyClock()
        if differences := self.encoder.identity.differences(identity, there="on the driver"):
            raise VistaError(f"the encoder on this node differs from the driver's: {'; '.join(differences)}")

    @timed("encode")
    @reports_warnings
    def __call__(self, records: pa.Table) -> pa.Table:
        """`records` with their vectors, float16 [D], and what was done for them; other rows pass through with zeros."""
        with self.clock.working():
            encoded, done = self.encoded(records)
        return with_measured(encoded, WORK, done | self.clock.untold(self.encoder.budget.batches))

    def encoded(self, records: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        """`records` with their vectors, and how many texts, images and tokens went through the model."""
        warnings, self.warnings = self.warnings, []
        log_again(warnings)
        dimension, size = self.encoder.dimension, self.encoder.preprocessor.image_size
        slot = self.slot
        rows = np.flatnonzero(embeddable(records, slot.number))
        vectors = np.zeros((len(records), dimension), np.float16)
        done = {"texts": 0, "images": 0, "tokens": 0}
        if len(rows):
            ids, cells = records[slot.named(INPUT_IDS)], list(records[slot.pixels])
            # views: `take` would copy 150 KB for each image
            pixels = [
                np.frombuffer(cells[row].as_buffer(), np.uint8).reshape(size, size, 3) if cells[row].is_valid else None
                for row in rows
            ]
            texts = [np.asarray(each.values) for each in ids.take(rows)]
            vectors[rows] = self.encoder.encode_tensors(texts, pixels)
            images = sum(each is not None for each in pixels)
            patches = images * self.encoder.model.config.vision.tokens
            done = {"texts": len(rows) - images, "images": images, "tokens": sum(map(len, texts)) + patches}
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
        used = [slot.named(INPUT_IDS), *([] if slot.keeps_pixels else [slot.pixels])]
        return records.drop_columns(used).append_column(slot.named(VECTOR), column), done


class BusyClock:
    """How long an encoder had something to encode, and how long it had not. Its calls may overlap."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls, self.since = 0, time.perf_counter()
        self.seconds = {"busy": 0.0, "idle": 0.0}
        self.batches = 0  # that were told of

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a call encodes."""
        self.note(1)
        try:
            yield
        finally:
            self.note(-1)

    def note(self, more: int) -> None:
        """Count the time until now, and from now on `more` calls."""
        with self.lock:
            now = time.perf_counter()
            self.seconds["busy" if self.calls else "idle"] += now - self.since
            self.calls, self.since = self.calls + more, now

    def untold(self, batches: int) -> dict[str, float]:
        """What no call has told of yet: the seconds, and how many of all `batches` of the model."""
        with self.lock:
            told = self.seconds | {"batches": batches - self.batches}
            self.seconds, self.batches = {"busy": 0.0, "idle": 0.0}, batches
        return told
