"""What became of the last runs, as metrics of the server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import lance
import pyarrow as pa
import pytest

from pipelines.serve.metrics import Metrics
from pipelines.serve.nights import Nights
from pipelines.tables.runs import COUNTS, RUN_SCHEMA


def run(number: int, status: str, hours_ago: float, configuration: dict, gates: dict | None = None) -> dict:
    began = datetime.now(UTC) - timedelta(hours=hours_ago)
    verdicts = [{"gate": name, "passed": passed, "message": ""} for name, passed in (gates or {}).items()]
    row = {"run": f"{number:04}", "status": status, "started": began, "finished": began + timedelta(minutes=5)}
    counts = dict.fromkeys(COUNTS, 10 * number)
    return row | counts | {"configuration": json.dumps(configuration), "gates": json.dumps(verdicts)}


def embedded(source: str, name: str | None = None) -> dict:
    return {"options": {"source": source, "source_name": name}}


@pytest.fixture
def look(tmp_path):
    """The metrics, once runs are as given."""
    metrics = Metrics()
    nights = Nights(str(tmp_path / "t_runs.lance"), metrics)

    def look(*rows: dict):
        lance.write_dataset(pa.Table.from_pylist(list(rows), RUN_SCHEMA), nights.uri, mode="overwrite")
        nights.look()
        return metrics.registry.get_sample_value

    return look


def test_the_last_run_is_seen(look):
    value = look(
        run(1, "done", 30, embedded("a")), run(2, "failed", 6, embedded("a"), {"canary": False, "vectors": True})
    )
    assert value("vista_last_run_info", {"run": "0002", "status": "failed"}) == 1
    assert value("vista_last_run_rows", {"outcome": "read"}) == 20
    assert value("vista_last_run_gate_passed", {"gate": "canary"}) == 0
    assert value("vista_last_run_gate_passed", {"gate": "vectors"}) == 1
    assert value("vista_source_lag_seconds", {"source": "a"}) == pytest.approx(30 * 3600, abs=60)
    value = look(run(3, "done", 1, embedded("a"), {"vectors": True}))
    assert value("vista_last_run_gate_passed", {"gate": "canary"}) is None


def test_only_a_run_of_the_source_itself_makes_it_fresh(look):
    others = [run(3, "done", 1, {"backfill": {}}), run(4, "done", 1, {"index": {}}), run(5, "done", 1, {"rollback": 1})]
    value = look(run(1, "done", 40, embedded("a", "shop")), run(2, "done", 2, embedded("b")), *others)
    assert value("vista_source_lag_seconds", {"source": "shop"}) == pytest.approx(40 * 3600, abs=60)
    assert value("vista_source_lag_seconds", {"source": "b"}) == pytest.approx(2 * 3600, abs=60)
    assert value("vista_last_run_info", {"run": "0002", "status": "done"}) == 1
    value = look(run(6, "done", 1, embedded("b")))
    assert value("vista_source_lag_seconds", {"source": "shop"}) is None


def test_a_table_without_runs_has_no_lag(tmp_path):
    metrics = Metrics()
    Nights(str(tmp_path / "none.lance"), metrics).look()
    assert metrics.registry.get_sample_value("vista_source_lag_seconds", {"source": "a"}) is None


def test_runs_that_cannot_be_read_are_a_warning(tmp_path, caplog):
    lance.write_dataset(pa.table({"run": ["1"]}), str(tmp_path / "t_runs.lance"))
    nights = Nights(str(tmp_path / "t_runs.lance"), Metrics())
    nights.close()  # so that it looks once
    nights.follow()
    assert "can't be read, so metrics of runs are old" in caplog.text
