"""The sample catalog as a table, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from pipelines.serve.config import ServeConfig
from tests.pipelines.serve.client import Client, running
from tests.pipelines.serve.shapes import TABLE, VERSION, publish, rows
from vista_core import Encoder, EncoderSettings

ROWS = 120  # circles, squares, and some triangles


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder.load(EncoderSettings(device="cpu"))


@pytest.fixture(scope="session")
def shapes(encoder) -> pa.Table:
    return rows(encoder, ROWS)


@pytest.fixture(scope="session")
def db(tmp_path_factory, shapes) -> str:
    """A database that no test changes."""
    folder = tmp_path_factory.mktemp("db")
    assert publish(folder, shapes, words=True).version == VERSION
    return str(folder)


@pytest.fixture(scope="session")
def client(db) -> Iterator[Client]:
    with running(ServeConfig(db, TABLE, port=0, device="cpu")) as made:
        yield made
