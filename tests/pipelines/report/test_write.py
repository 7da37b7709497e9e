"""A page is written where it belongs, and what keeps it from being written costs nothing but the page."""

import logging
import threading
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from pipelines.report.destination import KEPT, NONE, Destination
from pipelines.report.gather import gather
from pipelines.report.page import Page, Section
from pipelines.report.write import made, write_report
from tests.tables import run_id

PAGE = Page("t", "", True, "fine", [], [], [])


def test_by_default_a_page_is_beside_the_table_and_its_database_lists_the_same_tables(store):
    table = pa.table({"id": ["a"], "vector": pa.FixedSizeListArray.from_arrays(np.zeros(4, np.float16), 4)})
    database = lancedb.connect(store.root)
    database.create_table("t", table)
    destination = Destination.of(None, store.uri("t_reports"), run_id(1))
    assert write_report(destination, lambda: PAGE) == store.uri(f"t_reports/{run_id(1)}.html")
    assert store.fs.cat_file(destination.uri).startswith(b"<!DOCTYPE html>")
    assert lancedb.connect(store.root).table_names() == ["t"]


def test_in_a_store_it_says_that_it_is_a_page(bucket):
    destination = Destination.of(None, bucket.uri("t_reports"), run_id(1))
    destination.write("<!DOCTYPE html>é")
    assert bucket.fs.info(destination.uri)["ContentType"] == "text/html; charset=utf-8"


def test_the_last_pages_are_kept_and_other_files_stay(store):
    names = [f"{run_id(number)}.html" for number in range(KEPT + 5)]
    others = ["latest.html", "notes.txt", f"{run_id(1)}.html.bak", f"{run_id(2)}.htm"]
    for name in [*names, *others]:
        store.put(f"t_reports/{name}", b"old")
    assert write_report(Destination.of(None, store.uri("t_reports"), run_id(10**6)), lambda: PAGE)
    left = {name.rpartition("/")[2] for name in store.fs.ls(store.uri("t_reports"), detail=False, refresh=True)}
    assert left == {*names[6:], f"{run_id(10**6)}.html", *others}


def test_a_file_that_the_user_names_is_replaced_and_nothing_else_is_removed(store):
    before = store.put(f"reports/{run_id(1)}.html", b"old")
    last = store.put("reports/last.html", b"of last night")
    assert write_report(Destination.of(last, "nowhere", run_id(2)), lambda: PAGE) == last
    assert store.fs.cat_file(last).startswith(b"<!DOCTYPE html>")
    assert store.fs.cat_file(before) == b"old"


def test_a_local_page_is_replaced_at_once(tmp_path):
    """Who has it open, or reads it at that moment, sees the old page or the new one."""
    destination = Destination(str(tmp_path / "a.html"))
    destination.write("old")
    with Path(destination.uri).open() as reader:
        destination.write("new")
        assert reader.read() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_none_is_wanted():
    assert Destination.of(NONE, "db/t_reports", run_id(1)) is None
    assert write_report(None, lambda: PAGE) is None


def test_a_page_counts_as_written_although_old_ones_can_t_be_removed(tmp_path, caplog):
    destination = Destination(f"{tmp_path}/a.html", f"{tmp_path}/nowhere")
    assert write_report(destination, lambda: PAGE) == destination.uri
    assert f"old reports could not be removed from {tmp_path}/nowhere: FileNotFoundError" in caplog.text


@pytest.mark.parametrize("what", ["the place is a file", "the page can't be made"])
def test_what_goes_wrong_is_a_warning(tmp_path, caplog, what):
    (tmp_path / "file").write_text("x")
    folder = tmp_path / "file" if what == "the place is a file" else tmp_path

    def make() -> Page:
        if what == "the page can't be made":
            raise ValueError("no such figure")
        return PAGE

    with caplog.at_level(logging.WARNING):
        assert write_report(Destination(f"{folder}/a.html"), make) is None
    [message] = caplog.messages
    assert message.startswith(f"the report could not be written to {folder}/a.html: ")


def test_a_section_that_fails_says_so_in_its_place(caplog):
    def fail() -> Section:
        raise OSError("the store is gone")

    section = made("Gates", fail)
    assert (section.title, section.body) == (
        "Gates",
        '<p class="faint">could not be made: OSError: the store is gone</p>',
    )
    assert "a section of the report is missing, Gates: OSError: the store is gone" in caplog.text


def test_calls_run_side_by_side_and_none_is_waited_for_too_long():
    met, never = threading.Barrier(2, timeout=60), threading.Event()
    try:
        found = gather({"a": met.wait, "b": met.wait, "late": never.wait, "bad": lambda: 1 // 0}, 1.0)
        assert {found["a"], found["b"]} == {0, 1}
        assert isinstance(found["late"], TimeoutError)
        assert isinstance(found["bad"], ZeroDivisionError)
    finally:
        never.set()
