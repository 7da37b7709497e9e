"""What is published is served within seconds, and an answer is of one version."""

import shutil
import threading

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.tables.dataset import table_uri
from pipelines.tables.vector_column import VectorColumn
from tests.pipelines.serve.client import Client, running, until
from tests.pipelines.serve.shapes import TABLE, VERSION, move, publish

SECONDS = 30


def night(shapes: pa.Table, number: int) -> pa.Table:
    """The table of a night, in which each row says which night it is."""
    return shapes.slice(0, 40).append_column("night", pa.array([number] * 40))


@pytest.fixture
def changing(tmp_path, shapes):
    """A server of a table of its own, and the folder of its database."""
    publish(tmp_path, night(shapes, 1))
    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu")) as client:
        yield client, tmp_path


def served(client: Client) -> int:
    return client.search(text="x", k=1).json["version"]


def test_a_published_version_is_served_and_one_that_is_only_written_is_not(changing, shapes):
    client, db = changing
    dataset = lance.write_dataset(night(shapes, 2), table_uri(str(db), TABLE), mode="overwrite")
    assert served(client) == 1
    move(dataset, 2)
    until(lambda: served(client) == 2)
    assert client.get("/api/table").json["version"] == 2
    assert "vista_published_version 2.0" in client.get("/metrics").body.decode()
    move(dataset, 1)  # a rollback
    until(lambda: served(client) == 1)


def test_no_answer_fails_or_mixes_versions_while_nights_publish(changing, shapes):
    client, db = changing
    ended, wrong, seen = threading.Event(), [], set()

    def ask() -> None:
        while not ended.is_set():
            answer = client.search(text="a red circle", k=10)
            if answer.status != 200:
                wrong.append(answer.body)
                return
            nights = {row["night"] for row in answer.json["results"]}
            seen.update(nights)
            if nights != {answer.json["version"]}:
                wrong.append((answer.json["version"], nights))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: 1 in seen or bool(wrong))
    for number in (2, 3, 4):
        publish(db, night(shapes, number))
        until(lambda number=number: number in seen or bool(wrong))
    ended.set()
    for thread in threads:
        thread.join(SECONDS)
    assert not wrong
    assert seen == {1, 2, 3, 4}


def test_an_earlier_version_can_be_asked_for_after_another_is_published(changing, shapes):
    client, db = changing
    publish(db, night(shapes, 2))
    until(lambda: served(client) == 2)
    for version in (1, 2):
        answer = client.search(text="x", version=version).json
        assert answer["version"] == version
        assert {row["night"] for row in answer["results"]} == {version}
    lance.dataset(table_uri(str(db), TABLE)).tags.create("first", 1)
    assert client.search(text="x", version="first").json["version"] == 1


def test_only_a_few_versions_are_kept_open(tmp_path, shapes):
    from pipelines.serve.metrics import Metrics
    from pipelines.serve.versions import Versions

    for number in range(1, 6):
        publish(tmp_path, night(shapes, number))
    versions = Versions(ServeConfig(str(tmp_path), TABLE, device="cpu"), ServeLimits(pinned=2), Metrics())
    for number in (1, 2, 3):
        searcher = versions.open("vector", number)
        assert searcher.encoder is versions.current.encoder, "a model is loaded once"
    assert [number for _, number in versions.pinned] == [2, 3]
    assert versions.open("vector", 5) is versions.current
    versions.close()


def test_a_server_that_opens_too_many_versions_says_so(db):
    limits = ServeLimits(openings=0, poll_seconds=0.05)
    with running(ServeConfig(db, TABLE, port=0, device="cpu"), limits) as client:
        assert client.search(text="x", version="published").status == 503
        assert client.search(text="x").status == client.search(text="x", version=VERSION).status == 200


def test_two_columns_each_with_the_encoder_that_filled_it(tmp_path, shapes, encoder):
    vectors = np.array(shapes["vector"].to_pylist(), np.float16)[::-1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dimension)
    field = VectorColumn("other", encoder.identity).field
    publish(tmp_path, shapes.append_column(field, values))
    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu")) as client:
        mine, other = client.search(text="x", column="vector").json, client.search(text="x", column="other").json
        assert (mine["column"], other["column"]) == ("vector", "other")
        assert mine["results"] != other["results"]
        assert {"vector", "other"} == {
            each["name"] for each in client.get("/api/table").json["columns"] if each["vector"]
        }
        publish(tmp_path, shapes.append_column(field, values))
        until(lambda: client.search(text="x", column="other").json["version"] == 2)
        publish(tmp_path, shapes)  # without the column, which must not hold up the others
        until(lambda: served(client) == 3)
        gone = client.search(text="x", column="other")
        assert (gone.status, "other" in gone.json["detail"]) == (400, True)


def test_a_table_that_cannot_be_read_any_more_is_still_served(changing):
    """Its tags are gone; what was opened is answered from, as far as it is read already, and the failure is counted."""
    client, db = changing
    served(client)
    shutil.move(db / "shapes.lance" / "_refs", db / "refs")
    (db / "shapes.lance" / "_refs").write_text("no folder")
    until(lambda: 'vista_refreshes_total{result="failed"}' in client.get("/metrics").body.decode())
    assert served(client) == 1
    assert client.get("/healthz").status == 200
    (db / "shapes.lance" / "_refs").unlink()
    shutil.move(db / "refs", db / "shapes.lance" / "_refs")
    dataset = lance.dataset(table_uri(str(db), TABLE))
    dataset.delete("price > 10")
    move(dataset, 2)
    until(lambda: served(client) == 2)
