"""What the chaos tests share: where Ray is, a small catalog, and what an undisturbed run makes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.chaos.catalog import Catalog, Expected, assert_same, catalog, expected
from tests.chaos.running import command, environment, run
from tests.s3 import S3


@dataclass(frozen=True)
class Undisturbed:
    """A catalog that is stored, what a run makes of it, and how long it takes."""

    catalog: Catalog
    source: str
    db: str
    table: str
    expected: Expected
    seconds: float


@pytest.fixture(scope="session")
def ray_address(ray_cluster: str) -> str:
    """What RAY_ADDRESS is to be for jobs on the Ray that all tests share."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def undisturbed(s3: S3, ray_address: str) -> Undisturbed:
    """What becomes of a small catalog when nothing happens, which is what each disturbed run must come to."""
    some = catalog(files=2, rows=240)
    source, db, wanted = some.store(s3, "chaos/undisturbed"), s3.url("chaos-db"), expected(some)
    began = time.monotonic()
    ended = run(command(source, db, "undisturbed"), environment(ray_address))
    seconds = time.monotonic() - began
    assert ended.code == 0, ended.output
    assert_same(db, "undisturbed", wanted)
    return Undisturbed(some, source, db, "undisturbed", wanted, seconds)
