"""The watchdog ends a process that makes no progress, and no other."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HANGS = "re.match('(a+)+$', 'a' * 60 + 'b')"  # for ever, and holds the interpreter's lock


def ended(program: str) -> subprocess.CompletedProcess:
    imports = "import re, time\nfrom pipelines.cluster.watchdog import WATCHDOG, watched\n"
    return subprocess.run([sys.executable, "-c", imports + program], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "program",
    [
        f"with WATCHDOG.deadline(1): {HANGS}",
        f"next(watched(({HANGS} for _ in 'a'), 1))",
        f"with WATCHDOG.deadline(1): WATCHDOG.progress(); {HANGS}",
    ],
)
def test_a_process_that_hangs_is_ended_and_its_stack_shown(program):
    process = ended(program)
    assert process.returncode == 1
    assert process.stderr.startswith("Timeout (")
    assert "re/__init__.py" in process.stderr


@pytest.mark.parametrize(
    "program",
    [
        "with WATCHDOG.deadline(0.2): pass\ntime.sleep(0.5)",
        "for _ in watched('ab', 0.2): time.sleep(0.5)",  # the consumer takes its time
        "with WATCHDOG.deadline(2):\n  for _ in range(6): time.sleep(0.6); WATCHDOG.progress()",
        "WATCHDOG.progress(); time.sleep(0.1)",  # where there is no deadline
    ],
)
def test_a_process_that_makes_progress_or_has_no_deadline_lives_on(program):
    process = ended(program)
    assert (process.returncode, process.stderr) == (0, "")
