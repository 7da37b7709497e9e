"""Weights and model folders in an object store are downloaded once, complete, and again when they changed."""

import json
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec import AbstractFileSystem

from pipelines.storage.model_files import absolute_model, local_file, local_files
from tests.model_folders import write_model
from vista_core import Encoder, EncoderSettings, Preprocessor, Record, UsageError, encoder_identity
from vista_core.hub import model_name, weights_path

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


@pytest.fixture
def remote(s3, tmp_path) -> str:
    """A model folder in a bucket, with a file that is no part of it."""
    write_model(tmp_path / "model")
    (tmp_path / "model" / "curve.svg").write_text("<svg/>")
    for path in (tmp_path / "model").iterdir():
        s3.put(f"models/{tmp_path.name}/{path.name}", path.read_bytes())
    return f"{s3.url('models')}/{tmp_path.name}"


def test_a_model_folder_in_a_bucket_makes_the_same_encoder_as_the_local_one(cache, remote, tmp_path):
    settings = EncoderSettings(remote, device="cpu")
    there = Encoder.load(local_files(settings, cache=cache))
    assert there.identity == encoder_identity(EncoderSettings(str(tmp_path / "model"), device="cpu"))
    np.testing.assert_array_equal(
        there.encode([Record("a red star")]), Encoder.load(SETTINGS).encode([Record("a red star")])
    )


def test_who_only_tokenizes_downloads_no_weights(cache, remote):
    settings = local_files(EncoderSettings(remote), weights=False, cache=cache)
    Preprocessor.load(settings)
    assert {path.name for path in Path(settings.model).iterdir()} == {"config.json", "tokenizer.json"}
    assert local_files(EncoderSettings(remote), cache=cache) == settings, "the weights come beside them"
    assert (Path(settings.model) / "model.safetensors").is_file()


def test_a_model_folder_is_downloaded_once_and_again_when_a_file_of_it_changed(cache, remote, s3):
    first = Path(local_files(EncoderSettings(remote), cache=cache).model)
    (first / "tokenizer.json").write_text("marked")
    assert local_files(EncoderSettings(remote), cache=cache).model == str(first), "no second download"
    config = json.loads((first / "config.json").read_text())
    s3.fs.pipe_file(f"{remote}/config.json", json.dumps(config | {"name": "products-v4"}).encode())
    second = local_files(EncoderSettings(remote), cache=cache)
    assert model_name(second) == "products-v4"
    assert model_name(EncoderSettings(str(first))) == "products-v3", "a process may be reading the first one"


class ChangingStore(AbstractFileSystem):
    """A store whose file is replaced while it is downloaded."""

    protocol = "changing"
    version = 0

    def info(self, path: str, **kwargs: object) -> dict:
        return {"name": path, "size": 3, "type": "file", "ETag": str(ChangingStore.version)}

    def get_file(self, rpath: str, lpath: str, **kwargs: object) -> None:
        ChangingStore.version += 1
        Path(lpath).write_bytes(b"new")


def test_a_file_that_changes_while_it_is_downloaded_is_not_kept(cache):
    fsspec.register_implementation("changing", ChangingStore, clobber=True)
    with pytest.raises(UsageError, match=r"--weights changing://m/w\.pth: .*w\.pth changed while it was downloaded"):
        local_file("changing://m/w.pth", cache)
    assert list(cache.iterdir()) == []


def test_a_place_without_a_model_folder_is_named(cache, s3):
    s3.put("elsewhere/readme.txt", b"")
    for uri in ("s3://corpus/elsewhere", "s3://corpus/no/such", "s3://no-such-bucket/m"):
        with pytest.raises(UsageError, match=f"--model {uri}: "):
            local_files(EncoderSettings(uri), cache=cache)


def test_a_model_is_named_as_every_worker_understands_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "v3").mkdir(parents=True)
    assert absolute_model("vista-tiny") == "vista-tiny"
    assert absolute_model("models/v3") == f"{tmp_path}/models/v3", "no repository of the hub, since it is here"
    assert absolute_model("S3://bucket/m/") == "s3://bucket/m"
    assert absolute_model(f"owner/name@{'0' * 40}") == f"owner/name@{'0' * 40}"
    with pytest.raises(UsageError, match="--model hf://owner/name: a model folder is a local folder, s3://"):
        absolute_model("hf://owner/name")
