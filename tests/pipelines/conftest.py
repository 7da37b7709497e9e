"""Stores to read from: a local folder, a folder on the S3 server, and stores that fail when told to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec
import pytest
import s3fs

from tests.pipelines.faulty_stores import FaultyFileSystem, Proxy, registered
from tests.s3 import S3


@dataclass(frozen=True)
class Store:
    """A folder to which only this test writes, with a client other than the one that is tested."""

    root: str
    fs: fsspec.AbstractFileSystem

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def put(self, path: str, content: bytes) -> str:
        self.fs.pipe_file(self.uri(path), content)
        return self.uri(path)

    def remove(self, path: str) -> None:
        self.fs.rm_file(self.uri(path))


@dataclass(frozen=True)
class FaultyBucket(Store):
    """A bucket behind a proxy. This object's client writes past the proxy."""

    proxy: Proxy


@dataclass(frozen=True)
class FaultyStore(Store):
    """A folder of a file system whose reads fail if told to."""

    def fail(self, error: Exception) -> None:
        FaultyFileSystem.error = error

    @property
    def reads(self) -> list[int]:
        """How many bytes each read returned."""
        return FaultyFileSystem.reads


def new_store(kind: str, request: pytest.FixtureRequest) -> Store:
    if kind == "local":
        folder = request.getfixturevalue("tmp_path") / "store"
        return Store(str(folder), fsspec.filesystem("file", auto_mkdir=True, skip_instance_cache=True))
    root = request.getfixturevalue("s3").url(uuid.uuid4().hex)
    return Store(root, fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """Runs the test with a local folder and with a folder of the bucket."""
    return new_store(request.param, request)


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Store:
    """A local folder, for what doesn't depend on the store."""
    return new_store("local", request)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Store:
    """A folder of the bucket, for what only an object store does."""
    return new_store("s3", request)


@pytest.fixture
def separate_clients() -> Iterator[None]:
    """S3 clients that see the environment of this test, and later ones that don't."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def faulty_bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, separate_clients: None) -> Iterator[FaultyBucket]:
    """A bucket whose requests are recorded, and fail if `proxy.fail` says so."""
    client = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    proxy = Proxy(s3)
    client.mkdir(proxy.bucket)  # connects, before the environment leads to the proxy
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with proxy.serve():
        yield FaultyBucket(f"s3://{proxy.bucket}", client, proxy)


@pytest.fixture
def faulty() -> Iterator[FaultyStore]:
    """A store whose reads fail after `fail(error)`."""
    with registered() as kind:
        yield FaultyStore("faulty:///folder", kind(skip_instance_cache=True))
