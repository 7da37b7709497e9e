"""Encode decoded records on a pool of actors, one GPU each where there are GPUs."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from botocore.exceptions import BotoCoreError

import vista_core
from pipelines.ray_session import cores
from pipelines.records import INPUT_IDS, PIXELS, VECTOR, alive
from pipelines.sources.objects import credentials_hint, filesystem, object_version
from vista_core import EncoderIdentity, EncoderSettings, UsageError, VistaError

WEIGHTS_CACHE = Path.home() / ".cache" / "vista" / "weights"


def local_file(uri: str | None) -> str | None:
    """A local copy of weights that are in an object store, fetched once a node; local paths as they are.

    A copy keeps its suffix, by which weights are read, and appears whole: the actors of a node fetch side by side.
    """
    if uri is None or "://" not in uri:
        return uri
    try:
        fs, path = filesystem(uri)
        version = object_version(fs.info(path))
        digest = hashlib.sha256(f"{uri} {version}".encode()).hexdigest()
        copy = WEIGHTS_CACHE / f"{digest}{PurePosixPath(path).suffix}"
        if not copy.exists():
            WEIGHTS_CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=WEIGHTS_CACHE) as folder:
                fs.get_file(path, f"{folder}/weights")
                Path(folder, "weights").replace(copy)
    except (OSError, BotoCoreError, ValueError, ImportError) as error:
        raise UsageError(f"--weights {uri}: {type(error).__name__}: {error}. {credentials_hint(uri)}") from error
    return str(copy)


class EncodeActor:
    """Loads the model once; each call turns a batch of decoded records into one with vectors."""

    def __init__(self, settings: EncoderSettings, identity: EncoderIdentity, actors_per_node: int) -> None:
        """On a CPU the actors of a node share its cores. Raises VistaError if the weights differ here."""
        if settings.device == "cpu":
            import torch

            # Ray sets OMP_NUM_THREADS to what the actor reserves, which here is less than what it may use.
            threads = max(1, cores() // actors_per_node)
            os.environ["OMP_NUM_THREADS"] = str(threads)
            torch.set_num_threads(threads)
        self.encoder = vista_core.Encoder.load(dataclasses.replace(settings, weights=local_file(settings.weights)))
        if differences := self.encoder.identity.differences(identity, there="on the driver"):
            raise VistaError(f"this node's encoder is another than the driver's: {'; '.join(differences)}")

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
