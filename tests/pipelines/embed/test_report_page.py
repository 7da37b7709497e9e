"""What `embed` puts on the page of a run, and when it writes it. Without Ray: the run has just committed something."""

import logging
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch_stats import SECONDS, with_measured
from pipelines.cluster.resources import Cluster, share_out
from pipelines.embed.catalog import fetch_rules, open_catalog
from pipelines.embed.columns import KeptColumn
from pipelines.embed.config import EmbedConfig
from pipelines.embed.job import Job
from pipelines.embed.report import PHASES, RunReport
from pipelines.embed.summary import Summary
from pipelines.events import Arrived, Counts, Judged, Published, Publishing, ReadingEnded, Verdict
from pipelines.gates.judge import GateError
from pipelines.progress import Timing
from pipelines.report.recorder import Recorder
from pipelines.report.write import reporting
from tests.pipelines.report.pages import HOSTILE, check
from tests.tables import COLUMN, block, commit, new_committer, rejected, run_id, stats
from vista_core import VistaError

RUN = run_id(1)


def report_of_a_run(folder: Path, text: str = "text", **options) -> RunReport:
    """The report of a run that committed three rows and a reject, and is about to end."""
    pq.write_table(pa.table({"id": ["a"], "text": ["x"]}), folder / "a.parquet")
    config = EmbedConfig(str(folder / "a.parquet"), str(folder), "t", **options)
    catalog, resources = open_catalog(config, None), share_out(Cluster(2, 0, 1), "cpu", None)
    settings = config.encoder.settings(config.device)
    kept = (KeptColumn(COLUMN, settings),)
    job = Job(config, catalog, fetch_rules(config, catalog), kept, resources, {}, {}, ())
    report = RunReport(time.monotonic())
    report.recorder(Arrived(4, Counts()))
    committer = new_committer(folder, RUN, listener=report.recorder)
    rows = block({f"{text} {n}": f"{text} {n}" for n in range(3)})
    rows = with_measured(rows, SECONDS, {"decode": 200.0, "encode": 600.0})
    commit(committer, rows, rejected([f"bad {text}"]), stats(read=4))
    report.recorder(ReadingEnded(committer.counts))
    report.recorder(Judged(Verdict("canary", True, f"16 of 16 rows, {text}")))
    report.watch(job, committer)
    return report


def succeed(report: RunReport) -> Summary:
    """End the run as it does when a new version is published."""
    job, committer = report.run
    version = committer.table.version
    report.recorder(Publishing(version))
    report.recorder(Published(version))
    report.summary = Summary(job, committer.counts, version, 9.0, Timing())
    return report.written()


def text_of(path: str) -> str:
    return " ".join(" ".join(check(Path(path).read_text(encoding="utf-8")).text).split())


def test_the_page_of_a_run_that_published(tmp_path):
    summary = succeed(report_of_a_run(tmp_path))
    assert summary.report == f"{tmp_path}/t_reports/{RUN}.html"
    assert str(summary).splitlines()[-1] == f"report: {summary.report}"
    text = text_of(summary.report)
    for words in (
        f"Published version {summary.version}",
        "records of the source 4",
        "3 embedded and written",
        "1 rejected",
        "image_undecodable The bytes are not an image",
        "✓ passed canary 16 of 16 rows",
        "among all 3 rows of the table",
        "3 min 20 s, 25%",
        "10 min 0 s, 75%",
        f"Run {RUN} of vista embed",
    ):
        assert words in text, words


def test_a_page_with_hostile_text_in_every_column_of_the_table(tmp_path):
    summary = succeed(report_of_a_run(tmp_path, HOSTILE.replace("\ud800", "")))
    assert text_of(summary.report).count("<script>alert(1)</script>") > 6


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (GateError("not published: canary: 0.4"), "Not published: a gate failed not published: canary: 0.4"),
        (VistaError("the lease is lost"), "Failed: VistaError the lease is lost"),
        (ZeroDivisionError("key=secret"), "Failed: ZeroDivisionError key=***"),
    ],
)
def test_the_page_of_a_run_that_failed_and_the_error_is_raised(tmp_path, caplog, error, verdict):
    report = report_of_a_run(tmp_path)
    with caplog.at_level(logging.INFO, "pipelines"), pytest.raises(type(error)) as raised, reporting(report):
        raise error
    assert raised.value is error
    assert caplog.messages == [f"report: {tmp_path}/t_reports/{RUN}.html"]
    text = text_of(f"{tmp_path}/t_reports/{RUN}.html")
    assert f"{verdict} Readers keep the version that was published before." in text
    assert "3 embedded and written" in text


def test_a_run_that_never_had_the_table_or_is_stopped_has_no_page(tmp_path):
    with pytest.raises(VistaError), reporting(RunReport(time.monotonic())):
        raise VistaError("another run has the table")
    with pytest.raises(KeyboardInterrupt), reporting(report_of_a_run(tmp_path)):
        raise KeyboardInterrupt
    assert not (tmp_path / "t_reports").exists()


def test_a_signal_while_the_page_is_written_hides_neither_an_error_nor_what_was_done(tmp_path, caplog):
    def stop() -> float:
        raise KeyboardInterrupt

    report = report_of_a_run(tmp_path)
    report.recorder.clock = stop
    with pytest.raises(VistaError, match="the power is out"), reporting(report):
        raise VistaError("the power is out")
    assert "the report of the run was not written" in caplog.text
    report.summary = Summary(*report.run[:1], Counts(), 7, 9.0, Timing())
    with pytest.raises(KeyboardInterrupt, match="version 7 is published, only the report is missing"):
        report.written()


def test_tables_that_can_t_be_read_cost_their_sections(tmp_path, caplog):
    report = report_of_a_run(tmp_path)
    for path in (tmp_path / "t_rejects.lance/_versions").iterdir():
        path.write_bytes(b"damage")
    text = text_of(succeed(report).report)
    assert "Rejected records could not be made: " in text
    assert "among all 3 rows of the table" in text
    assert "a section of the report is missing, Rejected records" in caplog.text


def test_none_is_none(tmp_path):
    assert succeed(report_of_a_run(tmp_path, report="none")).report is None
    assert not (tmp_path / "t_reports").exists()


def test_phases_follow_each_other_and_those_that_took_no_time_are_left_out():
    recorder = Recorder(0.0)
    recorder.phases = {"reading": 3.0, "first rows": 10.0, "closing": 60.0, "gates": 60.01, "publishing": 90.0}
    found = [(each.name, each.start, each.end) for each in recorder.parts(PHASES, 91.0)]
    assert found == [
        ("start-up", 0.0, 10.0),
        ("reading and embedding", 10.0, 60.0),
        ("gates", 60.01, 90.0),
        ("publishing", 90.0, 91.0),
    ]
