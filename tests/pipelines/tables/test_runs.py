"""A run's row says how it stands while it runs, how it ended, and what the events of the run said."""

import json
import logging
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.events import (
    Arrived,
    BundleCommitted,
    Counted,
    Counts,
    Events,
    FragmentsWritten,
    Judged,
    Published,
    Reading,
    ReadingEnded,
    TableCommitted,
    Verdict,
)
from pipelines.tables.runs import (
    ADDED,
    LIBRARIES,
    LIMITS,
    RUN_SCHEMA,
    Forecast,
    HeartbeatLimits,
    HeartbeatLostError,
    RunRecord,
    Runs,
    library_versions,
)
from tests.tables import run_id

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
COUNTS = Counts(9, 3, 2, 1, missing=4, deleted=5, skipped=6, reasons=Counter(bad_vector=2, missing_id=1))
FIGURES = {
    "read": 9,
    "written": 3,
    "rewritten": 2,
    "unchanged": 1,
    "rejected": 3,
    "skipped": 6,
    "missing": 4,
    "deleted": 5,
}
VERDICTS = [Verdict("vectors", True, "all of norm 1"), Verdict("canary", False, "0.7 is below 0.999")]
STORED_VERDICTS = [
    {"gate": "vectors", "passed": True, "message": "all of norm 1"},
    {"gate": "canary", "passed": False, "message": "0.7 is below 0.999"},
]


@pytest.fixture
def uri(tmp_path) -> str:
    return str(tmp_path / "t_runs.lance")


OFTEN = HeartbeatLimits(every_seconds=0.05)


def record_at(uri: str, number: int = 1, limits: HeartbeatLimits = LIMITS) -> RunRecord:
    return RunRecord(uri, run_id(number), STARTED, {"options": {"limit": None}}, limits)


def row_of(record: RunRecord) -> dict:
    [row] = lance.dataset(record.uri).to_table(filter=f"run = '{record.run}'").to_pylist()
    return row


def soon(condition) -> bool:
    """Whether something comes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_nothing_is_written_before_the_run_begins(uri):
    record = record_at(uri)
    record(Counted(COUNTS))
    assert not Path(uri).exists()


def test_the_row_of_a_run_says_that_it_is_under_way_and_then_that_it_is_done(uri):
    record = record_at(uri)
    with record.running():
        row = row_of(record)
        assert (row["status"], row["started"], row["finished"]) == ("running", STARTED, None)
        assert datetime.now(UTC) - row["heartbeat"] < timedelta(minutes=1)
        assert (json.loads(row["configuration"]), json.loads(row["versions"])) == (
            {"options": {"limit": None}},
            library_versions(),
        )
        events = Events((record,))
        for event in (Reading(9, True), BundleCommitted(COUNTS), *map(Judged, VERDICTS), Published(7)):
            events.report(event)
        record.succeed(7, 12.5)
    row = row_of(record)
    assert {name: row[name] for name in FIGURES} == FIGURES
    assert (row["status"], row["published_version"], row["rows_per_second"]) == ("done", 7, 12.5)
    assert json.loads(row["gates"]) == STORED_VERDICTS
    assert datetime.now(UTC) - row["finished"] < timedelta(minutes=1)
    assert (row["error"], row["started"]) == (None, STARTED)
    assert lance.dataset(uri).count_rows() == 1


def test_the_columns_are_those_of_older_tables(uri):
    record = record_at(uri)
    with record.running():
        record.succeed(1, None)
    assert lance.dataset(uri).schema.names == RUN_SCHEMA.names
    assert RUN_SCHEMA.names == [
        "run",
        "status",
        "started",
        "heartbeat",
        "finished",
        "read",
        "written",
        "rewritten",
        "unchanged",
        "rejected",
        "skipped",
        "missing",
        "deleted",
        "published_version",
        "rows_per_second",
        "gates",
        "configuration",
        "versions",
        "error",
        "forecast_seconds",
        "forecast_after",
    ]
    row = row_of(record)
    assert {name: row[name] for name in FIGURES} == dict.fromkeys(FIGURES, 0)
    assert (row["gates"], row["rows_per_second"]) == ("[]", None)


def test_a_table_of_an_earlier_version_gets_the_columns_of_the_forecast_and_that_version_goes_on_writing(uri):
    older = pa.schema([field for field in RUN_SCHEMA if field.name not in ADDED])
    lance.write_dataset(pa.Table.from_pylist([{"run": run_id(1), "status": "done"}], older), uri)
    Runs(uri).check()
    record = record_at(uri, 2)
    with record.running():
        assert (row_of(record)["forecast_seconds"], row_of(record)["forecast_after"]) == (None, None)
        record.forecast = Forecast(300.0, 75.5)
        record.succeed(1, None)
    assert (row_of(record)["forecast_seconds"], row_of(record)["forecast_after"]) == (300.0, 75.5)
    by_the_earlier_version = pa.Table.from_pylist([{"run": run_id(3), "status": "running"}], older)
    lance.dataset(uri).merge_insert("run").when_matched_update_all().when_not_matched_insert_all().execute(
        by_the_earlier_version
    )
    rows = {row["run"]: row for row in lance.dataset(uri).to_table().to_pylist()}
    assert rows[run_id(1)]["forecast_seconds"] is None
    assert rows[record.run]["forecast_seconds"] == 300.0
    assert rows[run_id(3)]["status"] == "running"


@pytest.mark.parametrize("event", [BundleCommitted, ReadingEnded, Counted, lambda counts: Arrived(5, counts)])
def test_the_latest_counts_are_kept_whichever_event_brings_them(uri, event):
    record = record_at(uri)
    with record.running():
        record(BundleCommitted(Counts(read=1)))
        record(event(COUNTS))
        record(TableCommitted())
        record(FragmentsWritten())
        record.succeed(1, None)
    assert {name: row_of(record)[name] for name in FIGURES} == FIGURES


def test_a_heartbeat_brings_the_figures_so_far(uri):
    record = record_at(uri, limits=OFTEN)
    with record.running():
        first = row_of(record)["heartbeat"]
        record(Counted(COUNTS))
        record(Judged(VERDICTS[0]))
        assert soon(lambda: row_of(record)["gates"] == json.dumps(STORED_VERDICTS[:1]))
        row = row_of(record)
        assert {name: row[name] for name in FIGURES} == FIGURES
        assert (row["status"], row["finished"]) == ("running", None)
        assert row["heartbeat"] > first
        assert Runs(uri).last_heard(record.run) >= row["heartbeat"]
        record.succeed(1, None)
    last = row_of(record)
    time.sleep(0.2)
    assert row_of(record) == last, "no heartbeat comes after the end"
    assert last["status"] == "done"


def test_a_heartbeat_that_cannot_be_written_is_made_up_for_by_the_next(uri, caplog):
    record = record_at(uri, limits=OFTEN)
    with caplog.at_level(logging.WARNING, "pipelines.tables.runs"), record.running():
        Path(uri).rename(f"{uri}.away")
        assert soon(lambda: "the heartbeat could not be written" in caplog.text)
        Path(f"{uri}.away").rename(uri)
        record(Counted(COUNTS))
        assert soon(lambda: row_of(record)["read"] == 9)
        record.succeed(1, None)
    assert row_of(record)["status"] == "done"


class RaisedInATaskError(Exception):
    """Has the original error in `cause`, as Ray's errors have."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a long traceback")
        self.cause = cause


@pytest.mark.parametrize("error", [ValueError("why"), RaisedInATaskError(ValueError("why"))])
def test_a_run_that_fails_says_by_what_and_how_far_it_came(uri, error):
    record = record_at(uri)
    with pytest.raises(type(error)), record.running():
        record(Counted(COUNTS))
        record(Judged(VERDICTS[1]))
        raise error
    row = row_of(record)
    name = type(getattr(error, "cause", error)).__name__
    assert (row["status"], row["error"]) == ("failed", f"{name}: why")
    assert {name: row[name] for name in FIGURES} == FIGURES
    assert json.loads(row["gates"]) == STORED_VERDICTS[1:]
    assert (row["published_version"], row["finished"] is None) == (None, False)


def test_a_run_that_a_signal_ended_is_stopped_and_says_what_it_published(uri):
    record = record_at(uri)
    with pytest.raises(KeyboardInterrupt), record.running():
        record(Counted(COUNTS))
        record(Published(7))
        raise KeyboardInterrupt("stopped by SIGINT: 3 rows committed")
    row = row_of(record)
    assert (row["status"], row["error"], row["published_version"]) == (
        "stopped",
        "stopped by SIGINT: 3 rows committed",
        7,
    )
    assert {name: row[name] for name in FIGURES} == FIGURES


def test_a_signal_after_the_end_changes_nothing(uri):
    record = record_at(uri)
    with pytest.raises(KeyboardInterrupt), record.running():
        record.succeed(7, None)
        raise KeyboardInterrupt
    assert row_of(record)["status"] == "done"


def test_a_long_error_is_cut_off(uri):
    record = record_at(uri)
    with pytest.raises(ValueError, match="x"), record.running():
        raise ValueError("x" * 10_000)
    assert row_of(record)["error"] == "ValueError: " + "x" * (2000 - len("ValueError: "))


def test_no_credentials_are_written(uri):
    record = RunRecord(uri, run_id(1), STARTED, {"options": {"allow_prefix": ["https://a.com/?s=s3cr3t"]}})
    with pytest.raises(ValueError, match="x"), record.running():
        raise ValueError("x: https://me:s3cr3t@a.com/y?z=s3cr3t")
    row = row_of(record)
    assert row["error"] == "ValueError: x: https://***@a.com/y?z=***"
    assert json.loads(row["configuration"]) == {"options": {"allow_prefix": ["https://a.com/?s=***"]}}


def test_a_failure_that_cannot_be_written_does_not_replace_its_error(uri, caplog):
    record = record_at(uri)
    with (
        caplog.at_level(logging.WARNING, "pipelines.tables.runs"),
        pytest.raises(ZeroDivisionError),
        record.running(),
    ):
        Path(uri).rename(f"{uri}.away")
        raise ZeroDivisionError
    assert "the failure of the run could not be written" in caplog.text


def test_runs_that_were_killed_are_marked_as_dead_by_the_next_one_and_no_other_run_is(uri):
    killed, failed, mine, later = (record_at(uri, number) for number in range(4))
    with pytest.raises(ZeroDivisionError), failed.running():
        raise ZeroDivisionError
    with killed.running(), later.running(), mine.running():
        mine.mark_abandoned()
        found = [row_of(record)["status"] for record in (killed, failed, mine, later)]
        assert found == ["dead", "failed", "running", "running"]
        version = lance.dataset(uri).version
        mine.mark_abandoned()
        assert lance.dataset(uri).version == version, "there is nothing left to mark"


def test_the_ids_and_heartbeats_of_other_runs_can_be_read(uri):
    runs = Runs(uri)
    assert runs.last_heard(run_id(1)) is None
    assert runs.ids() == []
    with record_at(uri).running() as record, record_at(uri, 2).running():
        assert runs.last_heard(run_id(3)) is None
        assert runs.last_heard(run_id(1)) == row_of(record)["heartbeat"]
        assert sorted(runs.ids()) == [run_id(1), run_id(2)]


def test_a_run_that_cannot_send_heartbeats_for_too_long_stops_at_its_next_event(uri):
    """That is before others take it for dead; in the flow there is an event with each batch that arrives."""
    limits = HeartbeatLimits(every_seconds=0.05, dead_after_seconds=0.15)
    with (
        pytest.raises(
            HeartbeatLostError, match=rf"{run_id(1)} stops: for \d+ s it could not write to {uri} .*ValueError: "
        ),
        record_at(uri, limits=limits).running() as record,
    ):
        Path(uri).rename(f"{uri}.away")
        while True:
            record(Arrived(5, COUNTS))


def test_a_run_that_was_suspended_sends_a_heartbeat_and_goes_on(uri):
    record = record_at(uri, limits=HeartbeatLimits(every_seconds=60, dead_after_seconds=60))
    with record.running():
        first = row_of(record)["heartbeat"]
        record(Arrived(5, COUNTS))
        assert row_of(record)["heartbeat"] > first
        record.succeed(1, None)


def test_an_error_that_ends_the_heartbeats_is_logged_and_stops_the_run(uri, caplog):
    with record_at(uri, limits=OFTEN).running() as record:
        record(Judged(Verdict("canary", True, object())))  # can't be written
        assert soon(lambda: "there are no more heartbeats, so the run is going to stop" in caplog.text)
        with pytest.raises(HeartbeatLostError, match="TypeError: Object of type object is not JSON serializable"):
            record(Arrived(5, COUNTS))
        record(Published(1))
        record.verdicts = ()


def test_the_versions_are_those_of_the_libraries_that_matter():
    versions = library_versions()
    assert tuple(versions) == LIBRARIES
    assert versions["pylance"] == lance.__version__
