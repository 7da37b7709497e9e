"""The encoder vista-tiny, and a published table of its vectors."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.sample_catalog import draw
from pipelines.tables.dataset import PUBLISHED
from tests.pipelines.search.tables import TEXTS, of_vista, vectors_array
from vista_core import Encoder, EncoderSettings, Record


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder.load(EncoderSettings(device="cpu"))


@pytest.fixture(scope="session")
def picture() -> bytes:
    return draw("star", "yellow", "blue")


@pytest.fixture(scope="session")
def shapes(encoder, picture):
    """Rows of a table: texts, and an image, by id."""
    records = [*(Record(text) for text in TEXTS.values()), Record(None, picture)]
    vectors = dict(zip([*TEXTS, "picture"], encoder.encode(records).astype(np.float16), strict=True))

    def rows(ids: list[str], **changes: pa.Array) -> pa.Table:
        columns = {
            "vector": vectors_array(np.stack([vectors[key] for key in ids])),
            "id": pa.array(ids),
            "text": pa.array([TEXTS.get(key) for key in ids]),
            "price": pa.array(range(len(ids))),
            "score": pa.array(["a column of this name"] * len(ids)),
            "image": pa.array([None if key in TEXTS else picture for key in ids], pa.large_binary()),
            "modality": pa.array(["text" if key in TEXTS else "image" for key in ids]),
            "vector_fingerprint": pa.array([bytes(16)] * len(ids), pa.binary(16)),
            "_object": pa.array(["a.parquet"] * len(ids)),
            "_run": pa.array(["run"] * len(ids)),
        }
        return of_vista(columns | changes, encoder)

    return rows


@pytest.fixture(scope="session")
def write(shapes):
    """Writes a table as the embedding job does: three records and an image are published, one more is not."""

    def write(db: Path, change=lambda table: table, publish: bool = True) -> None:
        dataset = lance.write_dataset(change(shapes(["ring", "star", "disc", "picture"])), f"{db}/shapes.lance")
        dataset.create_scalar_index("text", "INVERTED", with_position=False)
        if publish:
            dataset.tags.create(PUBLISHED, dataset.version)
        lance.write_dataset(change(shapes(["unpublished"])), dataset.uri, mode="append")

    return write


@pytest.fixture(scope="session")
def db(tmp_path_factory, write) -> str:
    folder = tmp_path_factory.mktemp("db")
    write(folder)
    return str(folder)
