"""Places to read from: a folder of this machine and one of the S3 server."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import fsspec
import pytest


@dataclass(frozen=True)
class Store:
    """A folder that nobody else writes to, reached by another client than the one that is tested."""

    root: str
    fs: fsspec.AbstractFileSystem

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def put(self, path: str, content: bytes) -> str:
        self.fs.pipe_file(self.uri(path), content)
        return self.uri(path)

    def remove(self, path: str) -> None:
        self.fs.rm_file(self.uri(path))


def new_store(kind: str, request: pytest.FixtureRequest) -> Store:
    if kind == "local":
        folder = request.getfixturevalue("tmp_path") / "store"
        return Store(str(folder), fsspec.filesystem("file", auto_mkdir=True, skip_instance_cache=True))
    root = request.getfixturevalue("s3").url(uuid.uuid4().hex)
    return Store(root, fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """Once a local folder, once a folder of the bucket."""
    return new_store(request.param, request)


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Store:
    """For what doesn't depend on where the files are."""
    return new_store("local", request)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Store:
    """For what only an object store does."""
    return new_store("s3", request)
