"""The jobs as users start them: as processes, and through `ray job submit`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lance
import pytest
import ray

from jobs.vista import run_command
from pipelines.sample_catalog import draw

ROOT = Path(__file__).resolve().parents[2]
LOG_LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) (pipelines[.a-z_]*|vista_core[.a-z_]*|jobs): .+"
)


def job(name: str, *options: object) -> subprocess.CompletedProcess[str]:
    """Run jobs/NAME.py in a process of its own, on the tests' Ray."""
    address = ray.get_runtime_context().gcs_address if ray.is_initialized() else ""
    return subprocess.run(
        [sys.executable, ROOT / "jobs" / f"{name}.py", *map(str, options)],
        env=os.environ | {"RAY_ADDRESS": address, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def shapes(ray_cluster, catalog, tmp_path_factory):
    """The sample catalog, embedded by the job; the finished process and the database."""
    db = tmp_path_factory.mktemp("db")
    return job("embed_corpus", "--source", catalog, "--db", db, "--table", "shapes"), db


def test_the_embedding_job_ends_with_a_summary_and_0(shapes):
    done, db = shapes
    assert done.returncode == 0, done.stderr
    assert "read 336: written 335, rewritten 0, unchanged 0, rejected 1" in done.stdout
    assert "image_truncated 1" in done.stdout
    assert f"published version {lance.dataset(f'{db}/shapes.lance', version='published').version}" in done.stdout
    assert "id: id, text: text, image: image" in done.stderr


def test_without_a_terminal_the_log_has_a_time_and_a_level_in_each_line(shapes):
    lines = shapes[0].stderr.splitlines()
    assert not [line for line in lines if not LOG_LINE.fullmatch(line)]
    assert re.search(
        r"INFO pipelines\.progress: 336 of 336 rows \(100%\), .*1 rejected$", shapes[0].stderr, re.MULTILINE
    )


def test_search_by_image_finds_the_image(shapes, tmp_path):
    _, db = shapes
    (tmp_path / "q.png").write_bytes(draw("star", "yellow", "blue"))
    found = job("search", "--db", db, "--table", "shapes", "--image", tmp_path / "q.png", "--k", 3, "--json")
    assert found.returncode == 0, found.stderr
    results = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(results) == 3
    assert results[0]["id"] == "star-yellow-on-blue"
    assert results[0]["score"] == pytest.approx(1, abs=1e-3)
    assert [result["score"] for result in results] == sorted((r["score"] for r in results), reverse=True)
    assert {"price", "shape", "text", "modality"} <= results[0].keys()


def test_search_with_a_filter_and_text_prints_for_people(shapes):
    _, db = shapes
    text = "a red circle on a black background"
    found = job("search", "--db", db, "--table", "shapes", "--text", text, "--where", "shape = 'ring'", "--k", 2)
    assert found.returncode == 0, found.stderr
    assert "vista-tiny" in found.stdout
    assert found.stdout.count("ring-") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--source": "/does/not/exist/*.parquet"}, "--source /does/not/exist/*.parquet"),
        ({"--text-column": "nope"}, "--text-column nope: no such column; there are id (string), text (string)"),
        ({"--device": "cuda"}, "no GPU"),
        ({"--num-actors": "64"}, "--num-actors"),
        ({"--max-reject-rate": "7"}, "--max-reject-rate"),
        ({"--table": "a/b"}, "--table"),
        ({"--weights": "/no/such.pth"}, "/no/such.pth"),
        ({"--config": "/no/such.toml"}, "/no/such.toml"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_usage_ends_with_2_and_one_line_that_names_the_option(
    ray_cluster, catalog, tmp_path, options, message, capsys
):
    given = {"--source": catalog, "--db": tmp_path, "--table": "t"} | options
    assert run_command("embed", [str(part) for pair in given.items() for part in pair]) == 2
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert " ERROR jobs: " in last
    assert message in last
    assert "Traceback" not in said
    assert not (tmp_path / "t.lance").exists()


def test_a_run_that_failed_a_gate_ends_with_3(ray_cluster, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    done = job("embed_corpus", "--source", tmp_path, "--db", tmp_path / "db", "--table", "t")
    assert done.returncode == 3
    assert re.search(r"ERROR jobs: .*image_undecodable 1", done.stderr)
    assert "Traceback" not in done.stderr


def test_search_in_a_table_that_does_not_exist_ends_with_2(tmp_path, capsys):
    options = ["--db", str(tmp_path), "--table", "t"]
    assert run_command("search", [*options, "--text", "x"]) == 2
    assert "there is no table t" in capsys.readouterr().err
    assert run_command("search", options) == 2
    assert "--text, --image, or both" in capsys.readouterr().err


def test_a_rollback_publishes_another_version_and_needs_no_ray(shapes):
    """The version before it was tagged has the same rows, so other tests find them in either."""
    _, db = shapes
    published = lance.dataset(f"{db}/shapes.lance", version="published").version
    done = job("rollback", "--db", db, "--table", "shapes", "--to", published - 1)
    assert done.returncode == 0, done.stderr
    assert f"published version {published - 1} of" in done.stdout
    back = job("rollback", "--db", db, "--table", "shapes")
    assert f"published version {published} of" in back.stdout
    assert lance.dataset(f"{db}/shapes.lance", version="published").version == published


def test_ray_job_submit(ray_cluster, s3, catalog):
    s3.put("submitted/catalog.parquet", catalog.read_bytes())
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    command = [Path(sys.executable).with_name("ray"), "job", "submit", "--address", ray_cluster, "--working-dir", "."]
    command += ["--runtime-env-json", json.dumps({"env_vars": variables}), "--", sys.executable]
    command += ["jobs/embed_corpus.py", "--source", s3.url("submitted/*.parquet")]
    command += ["--db", s3.url("submitted-db"), "--table", "t"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "written 335" in done.stdout
    assert lance.dataset(s3.url("submitted-db/t.lance"), version="published").count_rows() == 335
