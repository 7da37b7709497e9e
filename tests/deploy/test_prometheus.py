"""A real Prometheus scrapes a run and a server, with the rules and the dashboard of deploy/."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pipelines.embed.config import EmbedConfig
from pipelines.serve.config import ServeConfig
from tests.deploy.test_monitoring import ALERTS, RULES, TARGETS
from tests.pipelines.embed.on_warm_workers import embed
from tests.pipelines.serve.client import running
from tests.s3 import free_ports

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's package prometheus is not installed"
)
WAIT_SECONDS = 90


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **query: str) -> dict:
        with urllib.request.urlopen(f"{self.url}/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict]:
        """The series of an expression: labels and value."""
        return self.get("query", query=expression)["result"]

    def values(self, expression: str, label: str) -> dict[str, float]:
        return {each["metric"].get(label, ""): float(each["value"][1]) for each in self.query(expression)}

    def wait_for(self, expression: str, label: str, expected: dict[str, float]) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while (found := self.values(expression, label)) != expected:
            assert time.monotonic() < end, f"{expression}: {found}"
            time.sleep(0.2)


@contextmanager
def scraping(folder: Path, jobs: dict[str, int]):
    """A Prometheus that scrapes ports of this machine every second."""
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    [port] = free_ports(1)
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        server, end = Prometheus(port), time.monotonic() + WAIT_SECONDS
        while True:
            try:
                server.get("status/buildinfo")
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()


def test_a_run_and_what_became_of_it_are_seen(ray_cluster, catalog, tmp_path):
    import ray

    exported = ray.nodes()[0]["MetricsExportPort"]
    config = EmbedConfig(str(catalog), str(tmp_path / "db"), "scraped")
    embed(config)
    with (
        running(ServeConfig(config.db, config.table, port=0, device="cpu")) as client,
        scraping(tmp_path, {"ray": exported, "vista-serve": int(client.url.rpartition(":")[2])}) as prometheus,
    ):
        first = embed(EmbedConfig(str(catalog), str(tmp_path / "db"), "again"))
        written, rejected = first.counts.written, first.counts.rejected
        assert written > 100
        prometheus.wait_for(
            'sum by (outcome) (ray_vista_rows_total{table="again"})',
            "outcome",
            {"written": written} | ({"rejected": rejected} if rejected else {}),
        )
        reasons = {reason: float(number) for reason, number in first.counts.reasons.items()}
        assert prometheus.values('sum by (reason) (ray_vista_rejects_total{table="again"})', "reason") == reasons
        seconds = prometheus.values('sum by (stage) (ray_vista_stage_seconds_total{table="again"})', "stage")
        assert {"decode", "encode"} <= seconds.keys() and min(seconds.values()) > 0
        encoded = prometheus.values('sum by (kind) (ray_vista_encoded_total{table="again"})', "kind")
        assert encoded["texts"] + encoded["images"] == written
        assert encoded["tokens"] > encoded["texts"] + encoded["images"] > encoded["batches"] >= 1
        busy = prometheus.values('sum by (state) (ray_vista_encoder_seconds_total{table="again"})', "state")
        assert set(busy) == {"busy", "idle"} and 0 < busy["busy"] < 600
        assert prometheus.values('ray_vista_commit_seconds_count{table="again"}', "table")["again"] >= 1
        gates = prometheus.values('ray_vista_gate_passed{table="again"}', "gate")
        assert gates and set(gates.values()) == {1}
        prometheus.wait_for("vista_last_run_info", "status", {"done": 1})
        assert prometheus.values("vista_last_run_rows", "outcome")["written"] == written
        assert set(prometheus.values("vista_last_run_gate_passed", "gate")) >= {"canary", "conservation"}
        [lag] = prometheus.values("vista_source_lag_seconds", "job").values()
        assert 0 < lag < 600
        for expression in TARGETS:
            prometheus.query(expression)  # raises for one that it can't evaluate
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == {rule["alert"] for rule in RULES}
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
