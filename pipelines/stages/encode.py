"""Encode decoded records on a pool of actors, one GPU each where there are GPUs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa

from pipelines.records import INPUT_IDS, PIXELS, VECTOR, alive
from vista_core import Encoder, EncoderIdentity, EncoderSettings, VistaError

WEIGHTS_CACHE = Path.home() / ".cache" / "vista" / "weights"


def local_file(uri: str | None) -> str | None:
    """A local copy of weights that are in an object store, fetched once a node; local paths as they are."""
    if uri is None or "://" not in uri:
        return uri
    return fsspec.open_local(f"filecache::{uri}", filecache={"cache_storage": str(WEIGHTS_CACHE), "check_files": True})


class EncodeActor:
    """Loads the model once; each call turns a batch of decoded records into one with vectors."""

    def __init__(self, settings: EncoderSettings, identity: EncoderIdentity, threads: int | None) -> None:
        """`threads` for the CPU's matrix products, None on a GPU. Raises VistaError if the weights differ here."""
        if threads is not None:
            import torch

            # Ray sets OMP_NUM_THREADS to what the actor reserves, which here is less than what it may use.
            os.environ["OMP_NUM_THREADS"] = str(threads)
            torch.set_num_threads(threads)
        self.encoder = Encoder.load(dataclasses.replace(settings, weights=local_file(settings.weights)))
        if differences := identity.differences(self.encoder.identity):
            raise VistaError(
                "this node's encoder is not the driver's (the same files must be on every node): "
                + "; ".join(differences)
            )

    def __call__(self, records: pa.Table) -> pa.Table:
        """Arrow in, Arrow out; rejected rows and tallies pass through without a vector."""
        dimension, size = self.encoder.dimension, self.encoder.preprocessor.image_size
        live = np.flatnonzero(alive(records))
        vectors = np.zeros((len(records), dimension), np.float16)
        if len(live):
            rows = records.select([INPUT_IDS, PIXELS]).take(live)
            input_ids = [np.asarray(ids.values) for ids in rows[INPUT_IDS]]
            pixels = [
                np.frombuffer(p.as_buffer(), np.uint8).reshape(size, size, 3) if p.is_valid else None
                for p in rows[PIXELS]
            ]
            vectors[live] = self.encoder.encode_tensors(input_ids, pixels)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
        return records.drop_columns([INPUT_IDS, PIXELS]).append_column(VECTOR, column)
