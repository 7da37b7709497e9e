"""Several vector columns: another default column is served within seconds, and no request fails meanwhile."""

import dataclasses
import threading

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.serve.config import ServeConfig
from pipelines.tables.default_column import set_default_column
from pipelines.tables.vector_column import EncoderFiles, VectorColumn
from tests.pipelines.search.tables import retrained, with_column
from tests.pipelines.serve.client import Client, running, until
from tests.pipelines.serve.shapes import TABLE, move, publish
from vista_core import Encoder, EncoderSettings, Record

SECONDS = 30
ROWS = 40
TEXT = "a red circle"


@pytest.fixture(scope="module")
def column(tmp_path_factory) -> VectorColumn:
    """A column by other weights than the default one's."""
    weights = str(retrained(tmp_path_factory.mktemp("weights") / "other.safetensors"))
    identity = Encoder.load(EncoderSettings(device="cpu", weights=weights)).identity
    return VectorColumn("vector_b", identity, files=EncoderFiles(weights))


@pytest.fixture(scope="module")
def rows(shapes, column) -> pa.Table:
    """The sample catalog with both columns."""
    some = shapes.slice(0, ROWS)
    assert column.files is not None
    second = Encoder.load(EncoderSettings(device="cpu", weights=column.files.weights))
    records = [Record(each["text"], each["image"]) for each in some.select(["text", "image"]).to_pylist()]
    return with_column(some, column, second.encode(records))


def switch(db, name: str) -> int:
    """Publish the table with another default column; the version."""
    dataset = set_default_column(lance.dataset(f"{db}/{TABLE}.lance"), name)
    move(dataset, dataset.version)
    return dataset.version


def default_of(client: Client) -> tuple[str, int]:
    found = client.search(text=TEXT, k=1).json
    return found["column"], found["version"]


def test_another_default_column_is_served_and_no_request_fails(tmp_path, rows):
    """Whether it names no column, the old one, the new one, or an earlier version."""
    first = publish(tmp_path, rows).version
    ended, wrong, seen = threading.Event(), [], set()

    def ask(client: Client, **fields: object) -> None:
        while not ended.is_set():
            answer = client.search(text=TEXT, k=5, **fields)
            if answer.status != 200 or len(answer.json["results"]) != 5:
                wrong.append((fields, answer.body))
                return
            found = answer.json
            expected = fields.get("column") or {first: "vector"}.get(found["version"], "vector_b")
            if found["column"] != expected:
                wrong.append((fields, found))
            seen.add((fields.get("column"), found["version"]))

    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu")) as client:
        asked = [{}, {"column": "vector"}, {"column": "vector_b"}, {"version": first}, {"version": "published"}]
        threads = [threading.Thread(target=ask, args=(client,), kwargs=fields) for fields in asked]
        for thread in threads:
            thread.start()
        until(lambda: {(None, first), ("vector", first), ("vector_b", first)} <= seen or bool(wrong))
        second = switch(tmp_path, "vector_b")
        until(lambda: {(None, second), ("vector", second), ("vector_b", second)} <= seen or bool(wrong))
        ended.set()
        for thread in threads:
            thread.join(SECONDS)
        assert not wrong
        described = client.get("/api/table").json
        assert (described["column"], described["version"], described["model"]) == ("vector_b", second, "vista-tiny")
        sides = [client.search(text=TEXT, k=5, version=version).json for version in (first, second)]
        assert [side["column"] for side in sides] == ["vector", "vector_b"]
        assert sides[0]["results"][0]["score"] != sides[1]["results"][0]["score"]
        [identity] = client.ids(text=TEXT, k=1, where="modality = 'image'")
        assert client.get(f"/api/image?id={identity}&version={first}").status == 200
        move(lance.dataset(f"{tmp_path}/{TABLE}.lance"), first)  # a rollback
        until(lambda: default_of(client) == ("vector", first))


def test_a_server_of_one_column_keeps_it(tmp_path, rows):
    publish(tmp_path, rows)
    with running(ServeConfig(str(tmp_path), TABLE, column="vector", port=0, device="cpu")) as client:
        version = switch(tmp_path, "vector_b")
        until(lambda: default_of(client)[1] == version)
        assert default_of(client) == ("vector", version)
        assert client.get("/api/table").json["column"] == "vector"


def test_the_options_name_the_files_of_the_column_that_is_searched_first(tmp_path, rows):
    publish(tmp_path, rows)
    with running(ServeConfig(str(tmp_path), TABLE, model="vista-tiny", port=0, device="cpu")) as client:
        version = switch(tmp_path, "vector_b")
        until(lambda: default_of(client) == ("vector_b", version))
        move(lance.dataset(f"{tmp_path}/{TABLE}.lance"), version - 1)
        until(lambda: default_of(client) == ("vector", version - 1))


def test_a_column_that_is_dropped_is_gone_and_the_others_are_served(tmp_path, rows):
    publish(tmp_path, rows)
    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu")) as client:
        switch(tmp_path, "vector_b")
        until(lambda: default_of(client)[0] == "vector_b")
        assert client.search(text=TEXT, column="vector").status == 200
        dataset = lance.dataset(f"{tmp_path}/{TABLE}.lance")
        dataset.drop_columns(["vector", "vector_fingerprint"])
        move(dataset, dataset.version)
        until(lambda: default_of(client) == ("vector_b", dataset.version))
        gone = client.search(text=TEXT, column="vector")
        assert gone.status == 400
        assert "column vector: no such vector column" in gone.json["detail"]


def test_an_incomplete_column_is_refused_unless_the_server_allows_it(tmp_path, shapes, column):
    vectors = [np.ones(column.identity.dimension), *[None] * (ROWS - 1)]
    some = with_column(shapes.slice(0, ROWS), dataclasses.replace(column, filling=True), vectors)
    publish(tmp_path, some)
    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu")) as client:
        refused = client.search(text=TEXT, column="vector_b")
        assert refused.status == 400
        assert "`vector_b` is incomplete" in refused.json["detail"]
        assert "--allow-incomplete searches" in refused.json["detail"]
        assert default_of(client)[0] == "vector"
        columns = {each["name"]: each["incomplete"] for each in client.get("/api/table").json["columns"]}
        assert (columns["vector"], columns["vector_b"], columns["text"]) == (False, True, False)
    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu", allow_incomplete=True)) as client:
        for options in ({}, {"exact": "true"}):
            assert len(client.ids(text=TEXT, column="vector_b", k=10, **options)) == 1
