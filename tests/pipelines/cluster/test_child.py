"""A child process gives the results of a function, and says how it died if it did."""

import ctypes
import functools
import os
import signal
import sys

import pyarrow as pa
import pytest

from pipelines.cluster.child import Child, ChildDiedError, ProcessLimits, one_result
from vista_core import VistaError

LIMITS = ProcessLimits(seconds=60, memory=200 << 20)
IMPATIENT = ProcessLimits(seconds=3, memory=200 << 20)


def does(what):
    yield os.getpid()
    if what == "aborts":
        os.write(2, b"free(): invalid pointer\n")
        os.abort()
    if what == "crashes":
        ctypes.string_at(0)
    if what == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exits":
        sys.exit(4)
    if what == "exits at once":
        os._exit(0)
    if what == "hangs":
        signal.pause()
    if what == "takes memory":
        bytearray(1 << 30)
    if what == "fails":
        raise ValueError("no such thing")
    yield "done"


@pytest.fixture(scope="module")
def child():
    child = Child(does, LIMITS)
    yield child
    child.close()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("aborts", "the process died of SIGABRT: free(): invalid pointer"),
        ("crashes", "the process died of SIGSEGV"),
        ("is killed", "the process died of SIGKILL"),
        ("exits", "the process ended with exit code 3: SystemExit: 4"),
        ("exits at once", "the process ended with exit code 0"),
        ("takes memory", "the process ended with exit code 3: out of memory: more than 200 MiB"),
    ],
)
def test_a_death_is_described_after_the_results_before_it(child, what, message):
    results = child.call(what)
    first = next(results)
    with pytest.raises(ChildDiedError) as died:
        next(results)
    assert (str(died.value), died.value.timed_out) == (message, False)
    again, done = child.call("nothing")
    assert done == "done"
    assert again != first, "another process"


def test_a_child_that_hangs_dies():
    results = Child(does, IMPATIENT).call("hangs")
    next(results)
    with pytest.raises(ChildDiedError, match="the process gave no result for 3 seconds") as died:
        next(results)
    assert died.value.timed_out


def test_an_error_is_raised_here_and_the_child_lives_on(child):
    first, _ = child.call("nothing")
    results = child.call("fails")
    assert next(results) == first
    with pytest.raises(ValueError, match="no such thing"):
        next(results)
    assert list(child.call("nothing")) == [first, "done"]


def test_results_that_nobody_wants_do_not_become_those_of_the_next_call(child):
    results = child.call("nothing")
    next(results)
    results.close()
    assert list(child.call("nothing"))[1:] == ["done"]


def test_a_slice_of_a_table_is_sent_without_the_rest_of_it():
    table = pa.table({"image": [bytes([n]) * (1 << 20) for n in range(8)]})
    child = Child(one_result_of_identity, ProcessLimits(seconds=60, memory=100 << 20))
    [back] = child.call(table.slice(3, 1))
    child.close()
    assert back.equals(table.slice(3, 1))
    assert back.nbytes < 2 << 20


def one_result_of_identity(table):
    return one_result(lambda same: same, table)


class Unloadable:
    def __reduce__(self):
        return int, ("no number",)


def test_a_child_that_does_not_start_is_no_fault_of_a_record():
    child = Child(functools.partial(does, Unloadable()), LIMITS)
    with pytest.raises(VistaError, match=r"did not start: the process ended with exit code 1: ValueError: .*no number"):
        list(child.call())
