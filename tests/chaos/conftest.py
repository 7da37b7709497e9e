"""Fixtures of the chaos tests: Ray's address, a small catalog, and the result of an undisturbed run over it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.chaos.catalog import Catalog, Expected, assert_same, catalog, expected
from tests.chaos.running import command, environment, run
from tests.s3 import S3


@dataclass(frozen=True)
class Undisturbed:
    """A stored catalog, the table that an undisturbed run makes of it, and how long the run takes."""

    catalog: Catalog
    source: str
    db: str
    table: str
    expected: Expected
    seconds: float


@pytest.fixture(scope="session")
def ray_address(ray_cluster: str) -> str:
    """RAY_ADDRESS for jobs that use the tests' shared Ray."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def undisturbed(s3: S3, ray_address: str) -> Undisturbed:
    """An undisturbed run over a small catalog. Each disturbed run must end with the same result."""
    some = catalog(files=2, rows=240)
    source, db, wanted = some.store(s3, "chaos/undisturbed"), s3.url("chaos-db"), expected(some)
    began = time.monotonic()
    ended = run(command(source, db, "undisturbed"), environment(ray_address))
    seconds = time.monotonic() - began
    assert ended.code == 0, ended.output
    assert_same(db, "undisturbed", wanted)
    return Undisturbed(some, source, db, "undisturbed", wanted, seconds)
