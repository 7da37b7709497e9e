"""A task is found in every layout in use, and downloaded from the hub at the revision that is named."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.output import Written
from pipelines.evaluate.task import Task
from pipelines.evaluate.tasks import BASE, M3, TASKS
from pipelines.quality.task_folder import TaskFolder
from tests.pipelines.evaluate.tasks import write_task
from tests.pipelines.evaluate.warm import evaluate
from vista_core import UsageError

REVISION = "0123456789abcdef0123456789abcdef01234567"
OPEN = "import sys; from pipelines.evaluate.task import Task; print(Task.open(sys.argv[1]).folders[0].uri)"


def test_parts_are_found_as_files_and_as_folders_of_splits(tmp_path):
    task = write_task(tmp_path / "task")
    (task / "qrels").mkdir()
    (task / "qrels.parquet").rename(task / "qrels" / "test-00000-of-00001.parquet")
    (task / "qrels" / "train-00000-of-00001.parquet").touch()
    (task / "corpus").mkdir()
    (task / "corpus.parquet").rename(task / "corpus" / "test-00000-of-00002.parquet")
    (task / "corpus" / "test-00001-of-00002.parquet").touch()
    (task / "queries.parquet").rename(task / "query.parquet")
    found = TaskFolder.open(str(task), "--task")
    assert found.qrels == f"{task}/qrels/test-00000-of-00001.parquet"
    assert found.corpus == f"{task}/corpus"
    assert found.queries == f"{task}/query.parquet"
    assert (found.top_ranked, found.meta) == (None, None)


def test_a_file_is_no_task(tmp_path):
    (tmp_path / "task.parquet").touch()
    with pytest.raises(UsageError, match=r"no queries in it|there is no such folder"):
        Task.open(str(tmp_path / "task.parquet"))


def test_a_task_on_s3(s3, tmp_path):
    task = write_task(tmp_path / "task")
    for path in task.iterdir():
        s3.put(f"tasks/shapes/{path.name}", path.read_bytes())
    found = Task.open(s3.url("tasks/shapes/"))
    assert found.name == "shapes"
    assert found.judgements().pairs == 28


def test_all_of_it_can_be_on_s3(ray_cluster, s3, tmp_path):
    for path in write_task(tmp_path / "task").iterdir():
        s3.put(f"eval/shapes/{path.name}", path.read_bytes())
    config = EvaluateConfig(db=s3.url("eval/db"), output=s3.url("eval/out/"), task=s3.url("eval/shapes"))
    [found] = evaluate(config).evaluations
    read = Written.read(s3.url("eval/out"))
    assert read.metrics["recall@5"] == found.metrics()["recall@5"]
    assert len(read.queries) == 11


def test_every_named_task_is_pinned_and_says_what_differs():
    for name, task in TASKS.items():
        assert task.datasets and task.differs, name
        for uri in task.datasets:
            _, _, revision = uri.rpartition("@")
            assert len(revision) == 40 and int(revision, 16)
    assert TASKS["cirr"].figures(BASE)["published by MTEB"]["recall@5"] == 0.218
    assert TASKS["webqa"].figures(M3) == {"published in the paper": {"recall@5": 0.6225}}
    assert TASKS["cirr"].figures("vista-tiny") == {}


@pytest.fixture
def hub(tmp_path):
    """A server that speaks as the hub does, with one data set."""
    files = {path.name: path.read_bytes() for path in write_task(tmp_path / "on-the-hub").iterdir()}
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            asked.append(self.path)
            if self.path.startswith(f"/api/datasets/owner/shapes/revision/{REVISION}"):
                listed = {"id": "owner/shapes", "sha": REVISION, "siblings": [{"rfilename": name} for name in files]}
                self.answer(json.dumps(listed).encode(), "application/json")
            elif self.path.startswith(f"/api/datasets/owner/shapes/tree/{REVISION}"):
                tree = [
                    {"type": "file", "path": name, "size": len(content), "oid": name} for name, content in files.items()
                ]
                self.answer(json.dumps(tree).encode(), "application/json")
            elif self.path.startswith(f"/datasets/owner/shapes/resolve/{REVISION}/"):
                self.answer(files[self.path.rpartition("/")[2]], "application/octet-stream")
            else:
                self.send_error(404)

        def answer(self, content, kind):
            self.send_response(200)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", len(content)),
                ("ETag", f'"{len(content)}"'),
            ):
                self.send_header(name, str(value))
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files, asked
    server.shutdown()
    thread.join()
    server.server_close()


def opened(name, folder, **variables):
    environment = os.environ | {"HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"} | variables
    environment.pop("HF_HUB_OFFLINE", None) if "HF_HUB_OFFLINE" not in variables else None
    command = [sys.executable, "-c", OPEN, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_data_set_of_the_hub_is_downloaded_once(hub, tmp_path):
    endpoint, files, asked = hub
    name = f"hf://datasets/owner/shapes@{REVISION}"
    done = opened(name, tmp_path / "cache", HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    before = len([path for path in asked if "/resolve/" in path])
    again = opened(name, tmp_path / "cache", HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert again.stdout == done.stdout
    assert len([path for path in asked if "/resolve/" in path]) == before


def test_without_a_network_a_named_task_says_what_to_bring(tmp_path):
    done = opened("cirr", tmp_path, HF_HUB_OFFLINE="1")
    assert "mbeir_cirr_task7" in done.stderr and "copy the data set, and name its folder" in done.stderr
