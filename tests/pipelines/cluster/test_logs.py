"""Warnings that are logged on a worker reach the driver's log, also if the function fails."""

import functools
import logging
import threading

import pytest
import ray

from pipelines.cluster.logs import captured_warnings, log_again, reporting, warnings_of
from pipelines.cluster.session import on_a_worker
from vista_core import UsageError

LOG = logging.getLogger("pipelines.somewhere")


def warn(subject: str, fail: bool = False) -> str:
    LOG.info("nobody needs to know of %s", subject)
    LOG.warning("%s: is %d%% full", subject, 99)
    logging.getLogger("vista_core.model").error("two\nlines")
    logging.getLogger("fsspec").warning("of another library")
    if fail:
        raise UsageError(f"{subject} failed")
    return subject.upper()


WARNINGS = ["WARNING pipelines.somewhere: disk: is 99% full", "ERROR vista_core.model: two\nlines"]
LOGGED_AGAIN = [
    ("pipelines.somewhere", logging.WARNING, "disk: is 99% full"),
    ("vista_core.model", logging.ERROR, "two\nlines"),
]


def test_warnings_are_captured_and_lesser_messages_are_not():
    with captured_warnings() as warnings:
        warn("disk")
    assert warnings == WARNINGS
    warn("disk")
    assert warnings == WARNINGS, "nothing is captured after the block"


def test_nothing_is_captured_after_a_block_that_failed():
    with pytest.raises(UsageError), captured_warnings() as warnings:
        warn("disk", fail=True)
    warn("disk")
    assert warnings == WARNINGS


def test_the_traceback_of_a_warning_is_captured():
    with captured_warnings() as warnings:
        try:
            raise ZeroDivisionError("of all things")
        except ZeroDivisionError:
            LOG.warning("it failed", exc_info=True)
    assert warnings[0].startswith("WARNING pipelines.somewhere: it failed\nTraceback")
    assert warnings[0].endswith("ZeroDivisionError: of all things")


def test_a_reporting_function_returns_its_warnings_beside_its_result():
    assert reporting(warn)("disk") == ("DISK", WARNINGS)
    assert reporting(functools.partial(warn, fail=False))("disk") == ("DISK", WARNINGS)
    assert reporting(len)("four") == (4, [])


def test_an_error_carries_the_warnings_that_came_before_it():
    with pytest.raises(UsageError, match="disk failed") as raised:
        reporting(warn)("disk", fail=True)
    assert warnings_of(raised.value) == WARNINGS
    assert warnings_of(ValueError()) == []


def test_captured_warnings_are_logged_again_with_their_logger_and_level(caplog):
    log_again(WARNINGS)
    assert caplog.record_tuples == LOGGED_AGAIN


def test_a_percent_sign_is_no_placeholder(caplog):
    log_again(["WARNING pipelines.somewhere: 5% of %s: %d"])
    assert caplog.messages == ["5% of %s: %d"]


def test_a_worker_logs_on_the_driver(ray_cluster, caplog):
    assert on_a_worker(warn, "disk") == "DISK"
    assert caplog.record_tuples == LOGGED_AGAIN


def test_a_worker_that_fails_logs_on_the_driver_and_raises_its_error(ray_cluster, caplog):
    with pytest.raises(UsageError, match="disk failed"):
        on_a_worker(warn, "disk", True)
    assert caplog.record_tuples == LOGGED_AGAIN


def test_the_warnings_of_a_stage_come_with_its_blocks(ray_cluster):
    def stage(batch: dict) -> dict:
        _, warnings = reporting(warn)("disk")
        return {"warnings": warnings}

    found = ray.data.range(3, override_num_blocks=3).map_batches(stage, batch_size=1).take_all()
    assert sorted(row["warnings"] for row in found) == sorted(3 * WARNINGS)


def test_warnings_of_another_thread_are_not_captured():
    """Calls of an encode actor overlap, each in a thread of its own."""
    with captured_warnings() as warnings:
        other = threading.Thread(target=LOG.warning, args=("theirs",))
        other.start()
        other.join()
        LOG.warning("ours")
    assert warnings == ["WARNING pipelines.somewhere: ours"]
