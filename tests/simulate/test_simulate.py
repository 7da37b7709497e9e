"""A few seeds of the simulation; the checker, which must see what is wrong; and that a seed replays."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.simulate.checker import Checker
from tests.simulate.corpus import Corpus, Record
from tests.simulate.mutants import MUTANTS, ROOT

SEEDS = 3  # `make simulate` takes 200
REPLAYED = 2


def simulate(*options: object) -> subprocess.CompletedProcess:
    """In a process of its own: forks of one that has used Lance could not use it."""
    command = [sys.executable, "-m", "tests.simulate", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def simulated() -> subprocess.CompletedProcess:
    return simulate("--seeds", SEEDS, "--history")


def digests(output: str) -> dict[int, str]:
    return {int(seed): digest for seed, digest in re.findall(r"^seed (\d+), history (\w+):", output, re.MULTILINE)}


def test_no_promise_is_broken(simulated):
    assert simulated.returncode == 0, simulated.stdout + simulated.stderr
    assert "BROKEN" not in simulated.stdout
    [(runs, killed)] = re.findall(r"(\d+) runs, (\d+) killed; failed: none", simulated.stdout)
    assert int(runs) > 2 * SEEDS
    assert int(killed) >= 1
    assert re.search(r"published is version \d+, by run", simulated.stdout)


def test_a_seed_has_the_same_history_each_time(simulated):
    again = simulate("--first", REPLAYED, "--seeds", 1, "--history")
    assert digests(again.stdout) == {REPLAYED: digests(simulated.stdout)[REPLAYED]}
    assert len(set(digests(simulated.stdout).values())) == SEEDS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_still_be_made(mutant):
    assert (ROOT / "pipelines" / mutant.file).read_text().count(mutant.old) == 1


NIGHT = Corpus(1, {"a.parquet": (Record("one", "a lamp", 1.0), Record("two", None, 2.0))})
ROW = ("one", "a lamp", 1.0, "/catalog/a.parquet")


def checked(*rows: tuple, faults: tuple[str, ...] = ()) -> list[str]:
    """What the checker says of a version with these rows."""
    found: list[str] = []
    checker = Checker(found, deletes=True, nights=[NIGHT])
    checker.committed(1, None, step=1)
    checker.seen(1, rows, faults)
    checker.whole("it", checker.versions[1].rows or {}, NIGHT)
    return found


def test_the_checker_accepts_the_catalog():
    assert checked(ROW) == []
    assert checked(ROW, ("guest-1", "made by hand", None, None)) == []
    assert Counter(NIGHT.rejects) == {("two", "empty_record"): 1}


@pytest.mark.parametrize(
    "rows, said",
    [
        ([], "lacks one"),
        ([("one", "a lamp", 9.0, "/catalog/a.parquet")], "as on no night"),
        ([("one", "a lamp", 1.0, "/catalog/b.parquet")], "as on no night"),
        ([ROW, ("two", "a chair", 2.0, "/catalog/a.parquet")], "still has two"),
    ],
)
def test_the_checker_sees_what_is_wrong(rows, said):
    assert said in " ".join(checked(*rows))


def test_the_checker_passes_on_what_readers_find():
    assert "of its text" in " ".join(checked(ROW, faults=("the vector of one is not that of its text",)))
