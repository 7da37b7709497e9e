"""Rolling a table back: a command of its own, which holds the lease, is recorded as a run, and says how to undo it."""

import json
import subprocess
import sys

import lance
import pytest

from pipelines.events import Events
from pipelines.options import parse
from pipelines.rollback import RollbackConfig, RolledBack, roll_back_table
from pipelines.tables.lease import LeaseHeldError, hold, take
from pipelines.tables.publish import publish
from pipelines.tables.runs import library_versions
from tests.pipelines.tables.conftest import contents, new_table, tags, write
from tests.tables import NO_RUNS
from vista_core import UsageError


@pytest.fixture
def versions(tmp_path) -> list[int]:
    """Three published versions of the table `t`, of one, two and three rows."""
    found = []
    for number in range(3):
        with hold(new_table(tmp_path), NO_RUNS) as (_, lease):
            table = write(tmp_path, {f"id{number}": "x"})
            publish(table, lease, Events())
        found.append(table.version)
    return found


def published_rows(db) -> int:
    return lance.dataset(f"{db}/t.lance", version="published").count_rows()


def runs(db) -> list[dict]:
    return sorted(lance.dataset(f"{db}/t_runs.lance").to_table().to_pylist(), key=lambda run: run["started"])


def test_it_publishes_the_version_before_and_once_more_the_later_one_again(tmp_path, versions):
    config = RollbackConfig(str(tmp_path), "t")
    latest = contents(lance.dataset(f"{tmp_path}/t.lance"))
    assert roll_back_table(config) == RolledBack(f"{tmp_path}/t.lance", versions[1], versions[2])
    assert published_rows(tmp_path) == 2
    assert roll_back_table(config) == RolledBack(f"{tmp_path}/t.lance", versions[2], versions[1])
    assert published_rows(tmp_path) == 3
    assert contents(lance.dataset(f"{tmp_path}/t.lance")) == latest, "no row changed"


def test_it_publishes_the_version_that_it_is_told_to_and_what_it_says_undoes_it(tmp_path, versions):
    done = roll_back_table(RollbackConfig(str(tmp_path), "t", to=versions[0]))
    assert published_rows(tmp_path) == 1
    assert str(done).splitlines() == [
        f"published version {versions[0]} of {tmp_path}/t.lance instead of version {versions[2]}",
        f"to undo this, run the same command with --to {versions[2]}",
        "the next run that embeds into the table publishes its latest version again: correct the source first",
    ]
    roll_back_table(RollbackConfig(str(tmp_path), "t", to=versions[2]))
    assert published_rows(tmp_path) == 3
    assert tags(lance.dataset(f"{tmp_path}/t.lance")) == {"published": versions[2], "previous": versions[0]}


def test_it_is_recorded_as_a_run(tmp_path, versions):
    roll_back_table(RollbackConfig(str(tmp_path), "t"))
    roll_back_table(RollbackConfig(str(tmp_path), "t", to=versions[0]))
    with pytest.raises(UsageError, match="version 999 does not exist"):
        roll_back_table(RollbackConfig(str(tmp_path), "t", to=999))
    found = runs(tmp_path)
    assert [run["status"] for run in found] == ["done", "done", "failed"]
    assert [json.loads(run["configuration"]) for run in found] == [
        {"rollback": True, "to": None},
        {"rollback": True, "to": versions[0]},
        {"rollback": True, "to": 999},
    ]
    assert [run["published_version"] for run in found] == [versions[1], versions[0], None]
    assert found[2]["error"].startswith("UsageError: ")
    assert all(json.loads(run["versions"]) == library_versions() for run in found)
    assert all(run["rows_per_second"] is None and run["read"] == 0 for run in found)
    assert published_rows(tmp_path) == 1


def test_it_is_refused_while_another_run_holds_the_table_unless_that_is_taken_over(tmp_path, versions):
    _, lease = take(lance.dataset(f"{tmp_path}/t.lance"), NO_RUNS)
    with pytest.raises(LeaseHeldError, match=f"is being written to by run {lease.run}"):
        roll_back_table(RollbackConfig(str(tmp_path), "t"))
    assert published_rows(tmp_path) == 3
    lease.check(lance.dataset(f"{tmp_path}/t.lance"))
    roll_back_table(RollbackConfig(str(tmp_path), "t", take_over=True))
    assert published_rows(tmp_path) == 2
    roll_back_table(RollbackConfig(str(tmp_path), "t"))  # the lease was released
    assert [run["status"] for run in runs(tmp_path)] == ["done", "done"], "a run that was refused never began"


def test_where_there_is_no_table_nothing_is_created(tmp_path):
    with pytest.raises(UsageError, match=f"there is no table t in {tmp_path}"):
        roll_back_table(RollbackConfig(str(tmp_path), "t"))
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_understood(tmp_path, versions, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert roll_back_table(RollbackConfig(tmp_path.name, "t")).uri == f"{tmp_path}/t.lance"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"table": "a/b"}, "--table"), ({"table": "t", "to": 0}, "--to must be 1 or more, not 0")],
)
def test_what_cannot_work_is_refused_before_anything_starts(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        RollbackConfig(str(tmp_path), **options)


def test_the_command_line_has_its_options(tmp_path):
    typed = ["--db", str(tmp_path), "--table", "t", "--to", "3", "--take-over"]
    assert parse(RollbackConfig, typed) == RollbackConfig(str(tmp_path), "t", 3, True)
    assert parse(RollbackConfig, typed[:4]) == RollbackConfig(str(tmp_path), "t")


def test_it_needs_neither_ray_nor_the_model():
    code = "import sys, pipelines.rollback; print({'ray', 'torch', 'duckdb'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
