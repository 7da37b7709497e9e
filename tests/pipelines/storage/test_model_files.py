"""Weights in an object store are downloaded once, complete, and again when they changed."""

import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec import AbstractFileSystem

from pipelines.storage.model_files import local_file
from vista_core import Encoder, EncoderSettings, Record, UsageError
from vista_core.hub import weights_path

SETTINGS = EncoderSettings(device="cpu")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def downloaded(uri: str, cache: Path) -> Path:
    path = local_file(uri, cache)
    assert path is not None
    return Path(path)


def test_local_weights_are_used_where_they_are(cache):
    assert local_file(None, cache) is None
    assert local_file("/models/w.pth", cache) == "/models/w.pth"
    assert not cache.exists()


def test_weights_in_a_bucket_make_the_same_encoder_as_the_local_file(cache, s3):
    weights = weights_path(SETTINGS)
    uri = s3.put("models/tiny.safetensors", Path(weights).read_bytes())
    remote = Encoder.load(EncoderSettings(device="cpu", weights=local_file(uri, cache)))
    local = Encoder.load(SETTINGS)
    assert remote.identity == local.identity
    records = [Record("a red star"), Record("many words " * 30)]
    np.testing.assert_array_equal(remote.encode(records), local.encode(records))


def test_weights_are_downloaded_once_and_again_when_they_changed(cache, s3):
    uri = s3.put("models/w.pth", b"one")
    first = downloaded(uri, cache)
    assert (first.suffix, first.read_bytes()) == (".pth", b"one")
    first.write_bytes(b"marked")
    assert downloaded(uri, cache).read_bytes() == b"marked", "no second download"
    s3.put("models/w.pth", b"another")
    assert downloaded(uri, cache).read_bytes() == b"another"
    assert first.read_bytes() == b"marked", "a process may have mapped the first one"


class SlowStore(AbstractFileSystem):
    """A store of one file, whose download stops in the middle until it may go on."""

    protocol = "slow"
    content = bytes(1 << 20)
    writing = threading.Event()
    finish = threading.Event()

    def info(self, path: str, **kwargs: object) -> dict:
        return {"name": path, "size": len(self.content), "type": "file"}

    def get_file(self, rpath: str, lpath: str, **kwargs: object) -> None:
        Path(lpath).write_bytes(b"half")
        self.writing.set()
        assert self.finish.wait(30)
        Path(lpath).write_bytes(self.content)


def test_a_copy_appears_complete(cache):
    """Encoders of one node download side by side: none may see the half of what another is writing."""
    fsspec.register_implementation("slow", SlowStore, clobber=True)
    uri = "slow://models/big.pth"
    first = threading.Thread(target=local_file, args=(uri, cache))
    first.start()
    assert SlowStore.writing.wait(30)
    assert not [path for path in cache.iterdir() if path.is_file()]
    SlowStore.finish.set()
    first.join()
    assert downloaded(uri, cache).read_bytes() == SlowStore.content
    assert [path.is_file() for path in cache.iterdir()] == [True]


@pytest.mark.parametrize("uri", ["s3://corpus/no/such.pth", "s3://no-such-bucket/w.pth", "ftq://x/w.pth"])
def test_weights_that_cannot_be_downloaded_are_named(cache, s3, uri):
    with pytest.raises(UsageError, match=f"--weights {uri}"):
        local_file(uri, cache)
