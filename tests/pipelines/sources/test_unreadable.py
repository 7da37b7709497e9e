"""What can't be read of a folder costs only itself, in each format: links, pipes, folders that can't be listed."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.limits import DEFAULTS, Limits
from tests.pipelines.storage.test_walk import make_too_deep
from vista_core import UsageError


def parquet(text: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [text]}), file)
    return file.getvalue()


def arrow(text: str) -> bytes:
    file, table = io.BytesIO(), pa.table({"text": [text]})
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def tar(text: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    return file.getvalue()


FORMATS: dict[str, Callable[[str], bytes]] = {
    "parquet": parquet,
    "arrow": arrow,
    "tar": tar,
    "jsonl": lambda text: f'{{"text": "{text}"}}\n'.encode(),
    "csv": lambda text: f"text\n{text}\n".encode(),
    "jpg": str.encode,
}


def read(source) -> tuple[list, dict[str, tuple[str, str]]]:
    """Texts or images that are read; by the name of its file, reason and message of each reject."""
    found, rejected = [], {}
    worker = pickle.loads(pickle.dumps(source.without_listing()))
    for unit in source.units():
        for table, rejects in worker.read(pickle.loads(pickle.dumps(unit))):
            for number, row in enumerate(table.to_pylist()):
                if number in rejects:
                    rejected[Path(row["_object"]).name] = (rejects[number].reason, rejects[number].message)
                else:
                    found.append(row["text"] or row["image"].decode())
    return found, rejected


def opened(folder: Path, *link_targets: str):
    return open_source(str(folder), Columns(), limits=Limits(link_targets=link_targets))


@pytest.fixture(params=FORMATS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path, kind) -> Path:
    """A source with one good file, beside a secret one."""
    for name, text in (("source/good", "good"), ("elsewhere/secret", "secret")):
        file = tmp_path / f"{name}.{kind}"
        file.parent.mkdir()
        file.write_bytes(FORMATS[kind](text))
    return tmp_path / "source"


def test_each_file_that_cannot_be_read_is_one_reject(folder, kind):
    (folder / f"broken.{kind}").symlink_to("/nonexistent/blobs/abc")
    (folder / f"loop.{kind}").symlink_to(f"loop.{kind}")
    (folder / f"out.{kind}").symlink_to(f"../elsewhere/secret.{kind}")
    os.mkfifo(folder / f"pipe.{kind}")
    make_too_deep(folder)
    source = opened(folder)
    found, rejected = read(source)
    assert found == ["good"]
    [deep] = [name for name in rejected if name.startswith("ddd")]
    assert rejected.keys() == {deep, *(f"{name}.{kind}" for name in ("broken", "loop", "out", "pipe"))}
    assert {reason for reason, _ in rejected.values()} == {"object_unreadable"}
    assert f"give --allow-prefix {folder.parent}/elsewhere/" in rejected[f"out.{kind}"][1]
    assert any("ddd" in line and "NOT READ: " in line for line in source.describe())
    assert len(source.files()) == 6, "each is a file, so that the next run tries again"
    chosen = source.only({str(folder / f"good.{kind}")})
    assert (read(chosen), len(chosen.files())) == ((["good"], {}), 1)


def test_a_link_is_read_where_the_user_allows_it(folder, kind):
    (folder / f"out.{kind}").symlink_to(f"../elsewhere/secret.{kind}")
    (folder / "linked").symlink_to("../elsewhere")
    said = " ".join(opened(folder).describe())
    assert f"NOT READ: {folder}/linked: it is a link to {folder.parent}/elsewhere, outside of the source" in said
    found, rejected = read(opened(folder, str(folder.parent / "elsewhere")))
    assert (sorted(found), rejected) == (["good", "secret", "secret"], {})


def test_a_file_that_becomes_a_link_after_it_was_listed_is_not_followed(folder, kind):
    good, secret = folder / f"good.{kind}", folder.parent / "elsewhere" / f"secret.{kind}"
    secret.write_bytes(good.read_bytes())
    os.utime(secret, ns=(good.stat().st_atime_ns, good.stat().st_mtime_ns))
    source = opened(folder)
    units = source.units()
    good.unlink()
    good.symlink_to(secret)
    [(table, rejects)] = [batch for unit in units for batch in source.without_listing().read(unit)]
    assert "outside of the source" in rejects[0].message
    assert (table["text"].to_pylist(), table["image"].to_pylist()) == ([None], [None])


def test_a_source_of_links_that_lead_out_says_what_to_do(folder, kind):
    if kind == "jpg":
        pytest.skip("each image is a record, which is rejected")
    (folder / f"good.{kind}").unlink()
    (folder / f"out.{kind}").symlink_to(f"../elsewhere/secret.{kind}")
    with pytest.raises(UsageError, match=r"out\..*outside of the source; .* give --allow-prefix /"):
        opened(folder)


def test_the_text_of_an_image_is_not_read_from_elsewhere(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "secret").write_text("secret")
    for name in ("a", "b"):
        (tmp_path / f"source/{name}.jpg").write_bytes(b"image")
    (tmp_path / "source/a.txt").symlink_to("../secret")
    found, rejected = read(opened(tmp_path / "source"))
    assert found == ["image"]
    assert rejected["a.jpg"][0] == "object_unreadable"
    assert f"a.txt: it is a link to {tmp_path}/secret, outside of the source" in rejected["a.jpg"][1]


@pytest.mark.parametrize("linked", ["data", "file"])
def test_a_lance_table_does_not_reach_out_of_its_folder(tmp_path, linked):
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"text": ["x"]}), uri)
    moved = Path(uri, "data") if linked == "data" else next(Path(uri, "data").iterdir())
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"it is a link to .*, outside of the source"):
        open_source(uri, Columns())
    allowed = Limits(link_targets=(str(tmp_path / "elsewhere"),))
    assert read(open_source(uri, Columns(), limits=allowed))[0] == ["x"]


def test_the_default_allows_no_links_out():
    assert DEFAULTS.link_targets == ()
