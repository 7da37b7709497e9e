"""The same catalog in each supported form gives the same vectors, also after a killed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.catalogs import FORMS, catalog_id, write
from pipelines.embed.config import EmbedConfig
from pipelines.tables.dataset import open_dataset, published
from tests.pipelines.embed.on_warm_workers import embed

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("ray_cluster")


def vectors(db: str, name: str) -> dict[str, np.ndarray]:
    table = lance.dataset(f"{db}/{name}.lance", version="published").to_table(columns=["id", "vector"])
    found = dict(zip(table["id"].to_pylist(), np.array(table["vector"].to_pylist(), np.float32), strict=True))
    assert len(found) == len(table), "an id is in the table twice"
    return found


def reasons(db: str, name: str) -> dict[str, str]:
    rows = lance.dataset(f"{db}/{name}_rejects.lance").to_table().to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["reason"] for row in rows}


@pytest.fixture(scope="module")
def some(catalog) -> pa.Table:
    """Every fourth record of the sample catalog, and the damaged one."""
    table = pq.read_table(catalog)
    return table.take([10, *range(0, len(table), 4)])


@pytest.fixture(scope="module")
def expected(some, tmp_path_factory) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    folder = tmp_path_factory.mktemp("expected")
    pq.write_table(some, folder / "catalog.parquet")
    embed(EmbedConfig(str(folder), str(folder / "db"), "t"))
    return vectors(str(folder / "db"), "t"), reasons(str(folder / "db"), "t")


def ids(catalog: pa.Table, form: str) -> dict[str, str]:
    """Maps the catalog's ids to the ids in a form. A folder of images has no records without an image."""
    rows = enumerate(catalog.to_pylist())
    return {row["id"]: catalog_id(form, row["id"], at) for at, row in rows if form != "folder" or row["image"]}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_catalog_in_each_form_gives_the_same_vectors(s3, some, expected, form):
    source, db = write(some, form, s3.url(f"forms/{form}")), s3.url("forms-db")
    summary = embed(EmbedConfig(source, db, form))
    good, bad = expected
    present = ids(some, form)
    found = vectors(db, form)
    assert found.keys() == {present[key] for key in good if key in present}
    assert reasons(db, form) == {present[key]: reason for key, reason in bad.items()}
    assert min(np.dot(found[present[key]], good[key]) for key in good if key in present) > 0.999
    assert summary.counts.read == summary.counts.resolved == len(present)
    if form in ("parquet_uris", "csv", "webdataset"):
        again = embed(EmbedConfig(source, db, form))
        assert (again.counts.unchanged + again.counts.skipped, again.counts.written) == (len(found), 0)


@pytest.mark.chaos
@pytest.mark.parametrize("form", FORMS)
def test_a_killed_run_is_resumed_from_each_form(s3, some, form):
    parts = [
        some.set_column(0, "id", pc.binary_join_element_wise(some["id"], str(number), "-")) for number in range(20)
    ]
    many = pa.concat_tables(parts)
    source, db = write(many, form, s3.url(f"killed/{form}")), s3.url("killed-db")
    command = [sys.executable, str(ROOT / "jobs/embed_corpus.py"), "--source", source, "--db", db, "--table", form]
    import ray

    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen([*command, "--commit-seconds", "0"], env=environment, **quiet)
    while driver.poll() is None:
        dataset = open_dataset(f"{db}/{form}.lance")
        if dataset is not None and dataset.count_rows() > 0:
            os.kill(driver.pid, signal.SIGKILL)
            break
        time.sleep(0.01)  # between two polls; the kill itself waits for the first committed rows
    driver.wait()
    assert driver.returncode == -signal.SIGKILL
    dataset = open_dataset(f"{db}/{form}.lance")
    committed = dataset.count_rows()
    assert published(dataset) is None
    summary = embed(EmbedConfig(source, db, form))
    assert vectors(db, form).keys() | reasons(db, form).keys() == set(ids(many, form).values())
    assert not vectors(db, form).keys() & reasons(db, form).keys()
    assert summary.counts.unchanged >= committed > 0
    assert summary.counts.written > 0, "the kill came too late for this test"
