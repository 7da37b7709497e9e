"""Fixtures that many tests share: an S3 server, a Ray instance, and the sample catalog."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pyarrow as pa
import pytest

from pipelines.sample_catalog import write_catalog
from tests.s3 import S3, environment, serve

REPOSITORY = Path(__file__).resolve().parents[1]

if not Path("/dev/nvidiactl").exists():  # without a GPU, Triton interprets kernels on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")  # it is read when Triton is imported, which timm does, too

hypothesis.settings.register_profile("vista", deadline=None)  # a busy machine would exceed any deadline
hypothesis.settings.load_profile("vista")


@pytest.fixture(scope="module", autouse=True)
def return_memory() -> Iterator[None]:
    """After each file, give back what allocators keep of the gigabytes that a few tests use."""
    yield
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)  # of glibc; musl has none


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server. The AWS_* variables point to it until the session ends."""
    with serve(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in environment(server.endpoint).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def ray_cluster(s3: S3, request: pytest.FixtureRequest) -> Iterator[str]:
    """One Ray instance for all tests; its workers find the S3 server. Yields the address for submitting jobs."""
    jobs = any({"test_jobs.py", "chaos"} & {*item.path.relative_to(REPOSITORY).parts} for item in request.session.items)
    from tests.own_ray import own_ray

    with own_ray(int(os.environ.get("VISTA_CPUS", "2")), dashboard=jobs) as url:  # two drivers at once need four CPUs
        yield url


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample catalog's Parquet file. `query.png` is in the same folder."""
    return write_catalog(tmp_path_factory.mktemp("catalog"))
