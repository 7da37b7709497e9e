"""Switching the default column: for all readers at once, only to what they can search, and undone by a rollback."""

import dataclasses
import json

import lance
import pytest

from pipelines.rollback import RollbackConfig, roll_back_table
from pipelines.switch import SwitchConfig, switch_column
from pipelines.tables.default_column import default_column, searched_column
from pipelines.tables.lease import LeaseHeldError, holder_of, take
from pipelines.tables.origin import Origin
from pipelines.tables.vector_column import VectorColumn, completed
from tests.pipelines.columns import SECOND, filled, foreign_table, publish_latest, published_at, published_table
from tests.pipelines.tables.conftest import ORIGIN, contents, tags, write
from tests.tables import NO_RUNS
from vista_core import UsageError


def switch(db, column: str, **options):
    return switch_column(SwitchConfig(str(db), "t", column, **options))


def runs(db) -> list[dict]:
    return sorted(lance.dataset(f"{db}/t_runs.lance").to_table().to_pylist(), key=lambda run: run["started"])


def test_readers_see_the_new_column_as_the_default_and_back(tmp_path):
    before = published_table(tmp_path)
    table, published = filled(before), published_at(before.uri).version
    done = switch(tmp_path, "vector_b")
    readers = published_at(table.uri)
    assert (default_column(readers), readers.version) == ("vector_b", done.version)
    assert tags(table) == {"published": done.version, "previous": published}
    assert contents(readers) == contents(before)
    assert {"vector", "vector_b"} <= set(readers.schema.names)
    assert str(done).splitlines() == [
        f"`vector_b` is the default column of {table.uri} instead of `vector` in the published version, {done.version}",
        "to undo this, run the same command with --column vector",
    ]
    back = switch(tmp_path, "vector")
    assert default_column(published_at(table.uri)) == default_column(lance.dataset(table.uri)) == "vector"
    assert tags(table) == {"published": back.version, "previous": done.version}
    assert Origin.of(published_at(table.uri)) == ORIGIN


def test_a_rollback_undoes_it_and_the_same_switch_does_it_again(tmp_path):
    table = filled(published_table(tmp_path))
    done = switch(tmp_path, "vector_b")
    roll_back_table(RollbackConfig(str(tmp_path), "t"))
    assert default_column(published_at(table.uri)) == "vector"
    again = switch(tmp_path, "vector_b")
    assert (default_column(published_at(table.uri)), again.before) == ("vector_b", "vector")
    assert again.version > done.version


def test_after_a_rollback_the_latest_version_can_be_switched_back_so_that_the_next_night_keeps_it(tmp_path):
    table = filled(published_table(tmp_path))
    switch(tmp_path, "vector_b")
    now = roll_back_table(RollbackConfig(str(tmp_path), "t")).version
    assert default_column(lance.dataset(table.uri)) == "vector_b"
    write(tmp_path, {"unpublished": "x"})
    assert switch(tmp_path, "vector").version == now
    assert default_column(lance.dataset(table.uri)) == "vector"
    assert published_at(table.uri).version == now, "what waits for its gates is not published"


def test_it_is_recorded_as_a_run_and_lets_go_of_the_table(tmp_path):
    table = filled(published_table(tmp_path))
    done = switch(tmp_path, "vector_b")
    [run] = runs(tmp_path)
    assert (run["status"], run["published_version"]) == ("done", done.version)
    assert json.loads(run["configuration"]) == {"switch": True, "column": "vector_b"}
    holder = holder_of(lance.dataset(table.uri))
    assert (holder.run, holder.ended, holder.published) == (run["run"], True, done.version)


def test_the_default_column_is_left_as_it_is(tmp_path):
    table = filled(published_table(tmp_path))
    version = lance.dataset(table.uri).version
    assert "`vector` is the default column of" in str(switch(tmp_path, "vector"))
    assert "nothing was changed" in str(switch(tmp_path, "vector"))
    assert lance.dataset(table.uri).version == version
    assert not (tmp_path / "t_runs.lance").exists()


def test_a_column_that_readers_could_not_search_is_refused(tmp_path):
    table = filled(published_table(tmp_path), dataclasses.replace(SECOND, filling=True))
    latest = lance.dataset(table.uri)
    latest.add_columns({"foreign": "vector"})
    version = lance.dataset(table.uri).version
    for column, message in {
        "nope": r"--column nope: .* no such vector column. Vector columns: vector, vector_b, foreign. `vista backfill`",
        "text": "--column text: .* no such vector column",
        "vector_b": "column `vector_b` is incomplete.*`vista backfill` finishes it. Then run this command again",
    }.items():
        with pytest.raises(UsageError, match=message):
            switch(tmp_path, column)
    lance.dataset(table.uri).replace_field_metadata("foreign", {"theirs": "1"})
    with pytest.raises(UsageError, match=r"--column foreign: .* does not name the encoder.*--model MODEL"):
        switch(tmp_path, "foreign")
    assert lance.dataset(table.uri).version == version + 1, "nothing was written"
    completed(table, "vector_b")
    assert switch(tmp_path, "vector_b").is_published


@pytest.mark.parametrize(
    "change",
    [
        lambda table: write(table.uri.rpartition("/")[0], {"new": "x"}),
        lambda table: write(table.uri.rpartition("/")[0], {"id0": "changed"}),
        lambda table: table.delete("id = 'id7'"),
        lambda table: table.add_columns({"price": "1"}),
        lambda table: table.drop_columns(["text"]),
        lambda table: table.update({"text": "'other'"}, where="id = 'id3'"),
    ],
    ids=["new row", "replaced row", "deleted row", "new column", "dropped column", "updated value"],
)
@pytest.mark.parametrize("first", ["the rows", "the column"])
def test_rows_that_no_gate_has_judged_are_not_published(tmp_path, change, first):
    table = published_table(tmp_path)
    if first == "the rows":
        change(lance.dataset(table.uri))
        filled(table)
    else:
        change(filled(table))
    before = tags(table)
    with pytest.raises(UsageError, match=r"has other rows than version \d+, which is published.*`vista embed` publish"):
        switch(tmp_path, "vector_b")
    assert tags(table) == before
    assert default_column(lance.dataset(table.uri)) == "vector", "the next night publishes no switch, either"
    publish_latest(table.uri)  # as a run does
    assert switch(tmp_path, "vector_b").is_published


def test_a_column_that_is_being_replaced_is_not_published(tmp_path):
    table = filled(published_table(tmp_path))
    column = VectorColumn.of(table.schema).replaced_since("run-9")
    table.update_field_metadata(column.field_update)
    with pytest.raises(UsageError, match=r"--reembed began to replace the column `vector`"):
        switch(tmp_path, "vector_b")


def test_a_foreign_table_that_nobody_published_gets_the_config_only(tmp_path):
    table = filled(foreign_table(tmp_path))
    done = switch(tmp_path, "vector_b")
    latest = lance.dataset(table.uri)
    assert (done.is_published, default_column(latest), tags(table)) == (False, "vector_b", {})
    assert "in the latest version" in str(done)
    assert latest.schema == table.schema
    assert searched_column(table) == "vector"
    with pytest.raises(UsageError, match="does not name the encoder"):
        switch(tmp_path, "vector")


def test_a_switch_of_a_published_foreign_table_is_undone_by_a_rollback(tmp_path):
    table = foreign_table(tmp_path)
    table.tags.create("published", table.version)
    filled(table)
    assert switch(tmp_path, "vector_b").is_published
    roll_back_table(RollbackConfig(str(tmp_path), "t"))
    assert searched_column(published_at(table.uri)) == "vector"


@pytest.mark.parametrize("moves", [None, 0, 1], ids=["before it publishes", "before the first tag", "between the tags"])
def test_whatever_ended_it_the_same_command_finishes_it(tmp_path, monkeypatch, moves):
    from pipelines.tables import publish as publishing

    table = filled(published_table(tmp_path))
    readers = published_at(table.uri).version
    done, move = [], publishing.move

    def dies(*arguments):
        if moves is None or len(done) == moves:
            raise RuntimeError("killed")
        done.append(arguments)
        move(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.switch.publish" if moves is None else "pipelines.tables.publish.move", dies)
        with pytest.raises(RuntimeError, match="killed"):
            switch(tmp_path, "vector_b")
    assert (published_at(table.uri).version, default_column(published_at(table.uri))) == (readers, "vector")
    done = switch(tmp_path, "vector_b")
    assert done.before == "vector"
    assert default_column(published_at(table.uri)) == "vector_b"
    assert tags(table)["previous"] == readers
    assert [run["status"] for run in runs(tmp_path)] == ["failed", "done"]


def test_rows_that_arrive_meanwhile_are_not_published(tmp_path, monkeypatch):
    from pipelines import switch as command

    table = filled(published_table(tmp_path))
    readers, set_default = published_at(table.uri).version, command.set_default_column

    def late(latest, name):
        write(tmp_path, {"late": "x"})
        return set_default(latest, name)

    monkeypatch.setattr(command, "set_default_column", late)
    with pytest.raises(UsageError, match="has other rows"):
        switch(tmp_path, "vector_b")
    assert published_at(table.uri).version == readers


def test_it_is_refused_while_another_run_holds_the_table_unless_that_is_taken_over(tmp_path):
    table = filled(published_table(tmp_path))
    take(lance.dataset(table.uri), NO_RUNS)
    with pytest.raises(LeaseHeldError):
        switch(tmp_path, "vector_b")
    assert default_column(lance.dataset(table.uri)) == "vector"
    assert switch(tmp_path, "vector_b", take_over=True).is_published


def test_where_there_is_no_table_or_the_runs_are_another_table_nothing_is_created(tmp_path):
    with pytest.raises(UsageError, match=f"there is no table t in {tmp_path}"):
        switch(tmp_path, "vector_b")
    assert list(tmp_path.iterdir()) == []
    table = filled(foreign_table(tmp_path))
    lance.write_dataset(table.to_table(["sku"]), f"{tmp_path}/t_runs.lance")
    with pytest.raises(UsageError, match="is another table"):
        switch(tmp_path, "vector_b")
