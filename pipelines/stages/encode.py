"""Encode decoded records on a pool of actors, one GPU each where there are GPUs."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa

import vista_core
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
        if differences := self.encoder.identity.differences(identity, there="on the driver"):
            raise VistaError(f"the encoder on this node differs from the driver's: {'; '.join(differences)}")

    @timed("encode")
    @reports_warnings
    def __call__(self, records: pa.Table) -> pa.Table:
        """`records` with their vectors, float16 [D]; other rows pass through with zeros."""
        warnings, self.warnings = self.warnings, []
        log_again(warnings)
        dimension, size = self.encoder.dimension, self.encoder.preprocessor.image_size
        slot = self.slot
        rows = np.flatnonzero(embeddable(records, slot.number))
        vectors = np.zeros((len(records), dimension), np.float16)
        if len(rows):
            ids, images = (
                records[slot.named(INPUT_IDS)],
                list(records[slot.pixels]),
            )  # views: `take` would copy 150 KB for each image
            pixels = [
                np.frombuffer(images[row].as_buffer(), np.uint8).reshape(size, size, 3)
                if images[row].is_valid
                else None
                for row in rows
            ]
            vectors[rows] = self.encoder.encode_tensors([np.asarray(each.values) for each in ids.take(rows)], pixels)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
        used = [slot.named(INPUT_IDS), *([] if slot.keeps_pixels else [slot.pixels])]
        return records.drop_columns(used).append_column(slot.named(VECTOR), column)
