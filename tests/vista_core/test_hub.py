import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.model_folders import write_model
from tests.vista_core.conftest import BASE, M3
from tests.vista_core.test_tokenizer import UNCASED, text_folder
from vista_core import EncoderSettings
from vista_core.hub import BUILT_IN, is_on_hub, weights_path
from vista_core.hub import text_folder as resolve_text_folder

LOAD = (
    "import sys, vista_core as v; v.Encoder.load(v.EncoderSettings(sys.argv[1], from_pretrained=sys.argv[2] or None))"
)


def load_offline(model: str, folder: str, tmp_path: Path, **environment: str) -> str:
    """Load an encoder in a process without a hub or a cache; returns the last line of its error."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, model, folder],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - start < 30
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_network_the_error_names_the_text_model_and_its_option(tmp_path: Path, environment: dict[str, str]):
    message = load_offline(M3, "", tmp_path, **environment)
    assert "DownloadError: config.json of BAAI/bge-m3" in message
    assert "https://huggingface.co/BAAI/bge-m3/resolve/5617a9f61b028005a4858fdac845db406aefb181/config.json" in message
    assert "--from-pretrained FOLDER" in message


def test_without_a_network_the_error_names_the_weights_and_their_option(tmp_path: Path):
    folder = text_folder(tmp_path, BASE, (UNCASED / "tokenizer.json").read_text())
    message = load_offline(BASE, str(folder), tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "DownloadError: Visualized_base_en_v1.5.pth of BAAI/bge-visualized" in message
    assert "--weights PATH" in message


def test_files_that_are_given_or_built_in_are_not_downloaded(tmp_path: Path):
    assert weights_path(EncoderSettings(BASE, weights="a.pth")) == Path("a.pth")
    assert resolve_text_folder(EncoderSettings(BASE, from_pretrained=str(tmp_path))) == tmp_path
    assert weights_path(EncoderSettings()) == BUILT_IN / "vista-tiny" / "model.safetensors"
    assert resolve_text_folder(EncoderSettings()) == BUILT_IN / "vista-tiny"


def test_the_built_in_model_is_small():
    assert sum(path.stat().st_size for path in BUILT_IN.rglob("*") if path.is_file()) < 5_000_000


@dataclass
class Hub:
    """A server with the requests of the hub for files, of one repository: `shop/products`."""

    folder: Path
    commits: dict[str, str]  # by branch
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    served = Hub(Path(write_model(tmp_path / "served")), {"main": "a" * 40})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match = re.fullmatch(r"/shop/products/resolve/([^/]+)/([\w.]+)", self.path)
            path = served.folder / match[2] if match else None
            if match is None or path is None or not path.is_file():
                self.send_error(404)
                return
            served.requests.append(f"{self.command} {match[1]} {match[2]}")
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", served.commits.get(match[1], match[1]))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()


IDENTIFY = (
    "import sys, vista_core as v; from vista_core.hub import pinned; print(pinned(sys.argv[1])); "
    "print(v.encoder_identity(v.EncoderSettings(sys.argv[1], device='cpu')).model)"
)


def identify(model: str, tmp_path: Path, **environment: str) -> list[str]:
    """What a process makes of `--model`: the commit that it is stored by, and the model's name."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), **environment}
    done = subprocess.run([sys.executable, "-c", IDENTIFY, model], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_repository_of_the_hub_is_stored_by_its_commit(hub: Hub, tmp_path: Path):
    first, second = f"shop/products@{'a' * 40}", f"shop/products@{'b' * 40}"
    online = {"HF_ENDPOINT": hub.endpoint}
    assert identify("shop/products", tmp_path, **online) == [first, "products-v3"]
    fetched = [each.removeprefix("GET ") for each in hub.requests if each.startswith("GET")]
    assert sorted(fetched) == [f"{'a' * 40} model.safetensors", f"{'a' * 40} tokenizer.json", "main config.json"]

    hub.requests.clear()
    assert identify(first, tmp_path, **online) == [first, "products-v3"]
    assert hub.requests == [], "it is in the cache"

    hub.commits["main"] = "b" * 40
    write_model(hub.folder, "products-v4")
    assert identify("shop/products", tmp_path, **online) == [second, "products-v4"]
    assert identify(first, tmp_path, **online) == [first, "products-v3"]
    offline = {"HF_HUB_OFFLINE": "1"}
    for unreachable in (offline, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert identify("shop/products", tmp_path, **unreachable) == [second, "products-v4"], "as it last was"


def test_a_repository_that_cannot_be_had_says_so_and_that_no_such_folder_is_here(tmp_path: Path):
    message = load_offline("shop/products", "", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "DownloadError: --model shop/products: there is no such folder here. As a repository of the hub: " in message
    assert "config.json of shop/products is not on this machine and could not be downloaded" in message
    assert "--model FOLDER" in message


@pytest.mark.parametrize("model", ["./shop/products", "/shop/products", "a/b/c", "s3://shop/products", "~/products"])
def test_paths_and_uris_are_no_repositories(model: str):
    assert not is_on_hub(model)
    assert is_on_hub("shop/products@v1.0")
