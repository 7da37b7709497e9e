"""Alerts and dashboard speak of metrics that exist, and each alert has its runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.run_metrics import RunMetrics
from pipelines.serve.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "deploy/grafana/vista.json").read_text())
TARGETS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
OF_RAY = {"ray_node_gpus_utilization", "ray_node_cpu_utilization"}


def exported() -> set[str]:
    """The names of all metrics, as Prometheus sees them."""
    run = RunMetrics("products")
    names = {f"ray_{metric.info['name']}" for metric in (*run.counters.values(), run.waiting, run.commits, run.gates)}
    for family in Metrics().registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        names.add(f"{family.name}{suffix}")
    return names | OF_RAY


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *TARGETS])
def test_every_metric_that_is_asked_for_is_exported(expression):
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\b(?:ray_|vista_)\w+", expression)}
    assert asked <= exported()
    assert asked or "up{" in expression or "process_resident_memory_bytes" in expression


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_summary_and_a_runbook_that_is_there(rule):
    assert rule["annotations"]["summary"]
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert rule["alert"] in headings


def test_every_metric_is_documented():
    documents = (ROOT / "docs/operations.md").read_text() + (ROOT / "docs/serve.md").read_text()
    missing = {name for name in exported() - OF_RAY if name.startswith(("ray_", "vista_")) and name not in documents}
    assert missing <= {"vista_thumbnails_total", "vista_thumbnail_cache_bytes"}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not installed"
)
def test_prometheus_accepts_rules_and_configuration():
    for command in (["check", "rules", str(ALERTS)], ["check", "config", str(ALERTS.with_name("prometheus.yml"))]):
        found = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr


def series(name: str, values: str) -> dict[str, str]:
    """A metric as `promtool test rules` takes it."""
    return {"series": name, "values": values}


SERVE = 'job="vista-serve", instance="a"'
# What Prometheus has seen, a value a minute; when to look, in minutes; the alerts that fire then.
SEEN = [
    ([series(f"vista_source_lag_seconds{{{SERVE}}}", "93000+60x60")], 60, {"VistaNightMissing"}),
    ([series(f"vista_source_lag_seconds{{{SERVE}}}", "80000+60x60")], 60, set()),
    ([series(f'vista_last_run_info{{{SERVE}, run="1", status="failed"}}', "1x9")], 5, {"VistaNightFailed"}),
    ([series(f'vista_last_run_info{{{SERVE}, run="1", status="done"}}', "1x9")], 5, set()),
    ([series(f'vista_last_run_gate_passed{{{SERVE}, gate="canary"}}', "0x9")], 5, {"VistaGateFailed"}),
    (
        [
            series(f'vista_last_run_rows{{{SERVE}, outcome="rejected"}}', "100x9"),
            series(f'vista_last_run_rows{{{SERVE}, outcome="read"}}', "4000x9"),
        ],
        5,
        {"VistaManyRejects"},
    ),
    (
        [
            series(f'vista_last_run_rows{{{SERVE}, outcome="rejected"}}', "100x9"),
            series(f'vista_last_run_rows{{{SERVE}, outcome="read"}}', "100x9"),
        ],
        5,
        set(),
    ),
    ([series('ray_vista_rows_total{table="t", outcome="written"}', "50x90")], 80, {"VistaRunStuck"}),
    ([series('ray_vista_rows_total{table="t", outcome="written"}', "50+10x90")], 80, set()),
    (
        [
            series('ray_vista_commit_seconds_bucket{table="t", le="30"}', "0+0x40"),
            series('ray_vista_commit_seconds_bucket{table="t", le="100"}', "0+5x40"),
            series('ray_vista_commit_seconds_bucket{table="t", le="+Inf"}', "0+5x40"),
        ],
        40,
        {"VistaSlowCommits"},
    ),
    ([series(f"up{{{SERVE}}}", "0x9")], 5, {"VistaServeDown"}),
    (
        [
            series(f'vista_requests_total{{{SERVE}, status="500", route="/"}}', "0+5x30"),
            series(f'vista_requests_total{{{SERVE}, status="200", route="/"}}', "0+100x30"),
        ],
        20,
        {"VistaServeErrors"},
    ),
    (
        [
            series(f'vista_search_seconds_bucket{{{SERVE}, le="1.0"}}', "0+5x30"),
            series(f'vista_search_seconds_bucket{{{SERVE}, le="2.0"}}', "0+10x30"),
            series(f'vista_search_seconds_bucket{{{SERVE}, le="+Inf"}}', "0+10x30"),
        ],
        25,
        {"VistaServeSlow"},
    ),
    ([series(f"vista_overloads_total{{{SERVE}}}", "0+2x30")], 20, {"VistaServeOverloaded"}),
    ([series(f'vista_refreshes_total{{{SERVE}, result="failed"}}', "0+1x30")], 20, {"VistaServeStale"}),
]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not installed"
)
@pytest.mark.parametrize(("seen", "minute", "firing"), SEEN)
def test_alerts_fire_when_they_should_and_only_then(tmp_path, seen, minute, firing):
    tests = [{"expr": f'count(ALERTS{{alertstate="firing", alertname="{rule["alert"]}"}}) or vector(0)',
              "eval_time": f"{minute}m",
              "exp_samples": [{"labels": "{}", "value": int(rule["alert"] in firing)}]} for rule in RULES]  # fmt: skip
    file = tmp_path / "test.yml"
    content = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": seen, "promql_expr_test": tests}],
    }
    file.write_text(yaml.safe_dump(content))
    found = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_was_seen_to_fire():
    assert set().union(*(firing for _, _, firing in SEEN)) == {rule["alert"] for rule in RULES}


def test_panels_of_the_dashboard_do_not_overlap_and_say_what_they_show():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["title"]
