"""The command: its options, and what it prints."""

import dataclasses
import json
import re
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa
import pytest

from jobs import run_job
from pipelines.options import parse
from pipelines.search.config import SearchConfig
from pipelines.search.results import Results
from pipelines.search.run import search
from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.origin import Origin, marked
from tests.pipelines.search.tables import TEXTS
from vista_core import EncoderSettings, UsageError
from vista_core.hub import weights_path


def found(db: str, **options: object) -> list[dict]:
    return search(SearchConfig(db, "shapes", device="cpu", **options)).found.to_pylist()


def test_the_row_with_the_same_text_comes_first(db):
    rows = found(db, text=TEXTS["ring"])
    assert rows[0]["id"] == "ring"
    assert rows[0]["score"] == pytest.approx(1, abs=1e-3)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert len(rows) == 4


def test_the_row_with_the_same_image_comes_first(db, picture, tmp_path):
    (tmp_path / "query.png").write_bytes(picture)
    [row] = found(db, image=str(tmp_path / "query.png"), k=1)
    assert row["id"] == "picture"
    assert row["score"] == pytest.approx(1, abs=1e-3)


def test_rows_that_are_not_published_are_not_found(db):
    assert "unpublished" not in [row["id"] for row in found(db, text=TEXTS["unpublished"])]
    assert "unpublished" in [row["id"] for row in found(db, text=TEXTS["unpublished"], version="3")]


def test_words_are_searched_without_loading_a_model(db, capsys):
    options = ["--db", db, "--table", "shapes", "--mode", "text", "--text", "red", "--weights", "/no/such/file"]
    assert run_job(SearchConfig, search, options) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(r"1 results\n score  id\n +\d\.\d+  ring  \[text\] .*\n", printed)


@pytest.mark.parametrize("where", ["no_such_column = 1", "price >"])
def test_a_filter_that_cannot_be_used_is_named(db, where):
    with pytest.raises(UsageError, match=re.escape(f"--where {where!r}")):
        found(db, text="x", where=where)


def test_a_query_that_cannot_be_encoded_is_named(db, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no image")
    for image in (tmp_path / "no.png", tmp_path / "missing.png"):
        with pytest.raises(UsageError, match=f"--image {image}"):
            found(db, image=str(image))
    with pytest.raises(UsageError, match="--text: "):
        found(db, text="")


def test_the_options_say_where_the_encoders_files_are_now(tmp_path, write):
    origin = Origin("vista-tiny", weights="/no/longer/there.safetensors")
    write(tmp_path, lambda table: table.cast(marked(table.schema, origin)))
    with pytest.raises(UsageError, match=r"/no/longer/there\.safetensors"):
        found(str(tmp_path), text="x")
    weights = str(weights_path(EncoderSettings()))
    assert found(str(tmp_path), text=TEXTS["ring"], weights=weights)[0]["id"] == "ring"


def test_weights_at_a_uri_with_credentials_are_refused(db):
    with pytest.raises(UsageError, match="has credentials in it"):
        search(SearchConfig(db, "shapes", text="x", weights="s3://KEY:SECRET@bucket/model.pth"))


ROW = {"id": "a", "score": 0.5, "text": "two\nlines", "modality": "text"}


def printed(*rows: dict, as_json: bool = False) -> str:
    return str(Results(pa.Table.from_pylist(rows), as_json, "tiny"))


def test_results_for_people_are_a_table():
    assert printed(ROW) == "tiny, 1 results\n score  id\n 0.500  a  [text] two lines"
    long = printed(ROW | {"text": "word " * 50}).splitlines()[2]
    assert long.endswith("…")
    assert len(long) < 100
    assert "None" not in printed(ROW | {"text": None})
    assert printed(ROW | {"truncated": True}).endswith("[text, truncated] two lines")
    assert printed(ROW | {"truncated": None}).endswith("[text] two lines")
    bare = {"id": "a", "score": 0.5}  # another client appended the row, or dropped the columns
    for row in (bare, bare | {"text": None, "modality": None}):
        assert printed(row).endswith("\n 0.500  a  ")
    assert str(Results(pa.table({"id": pa.array([], pa.string())}), False)) == "0 results\n score  id"


def test_results_for_programs_are_json_lines():
    rows = [ROW, ROW | {"text": "grün"}]
    lines = printed(*rows, as_json=True).splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert "grün" in lines[1]


def test_json_has_only_what_json_can_have():
    values = {"id": "a", "ratio": float("nan"), "sizes": [1.0, float("inf")], "code": b"\x00\xff", "at": {"x": b"a"}}
    [line] = printed(values, as_json=True).splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "id": "a",
        "ratio": None,
        "sizes": [1.0, None],
        "code": "AP8=",
        "at": {"x": "YQ=="},
    }


def test_data_reaches_no_terminal_as_control_characters_and_programs_intact(tmp_path, write, capsys):
    write(tmp_path)
    dataset = lance.dataset(f"{tmp_path}/shapes.lance", version=PUBLISHED)
    dataset.restore()
    evil = "star\x1b[2J\n9.999  forged\x9b\u202e\x7f"
    quoted = evil.replace("'", "''")
    dataset.update({"id": f"'{quoted}'", "text": f"'{quoted}'"}, where="id = 'star'")
    dataset.tags.update(PUBLISHED, dataset.version)
    options = ["--db", str(tmp_path), "--table", "shapes", "--text", TEXTS["star"], "--device", "cpu", "--k", "1"]
    assert run_job(SearchConfig, search, options) == 0
    _, _, line = capsys.readouterr().out.splitlines()
    assert r"star\u001b[2J\n9.999  forged\u009b\u202e\u007f  [text] star\u001b[2J 9.999" in line
    assert run_job(SearchConfig, search, [*options, "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.isascii() and line.isprintable()
    row = json.loads(line)
    assert (row["id"], row["text"]) == (evil, evil)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--text, --image"),
        (["--text", "a", "--k", "0"], "--k"),
        (["--text", "a", "--k", "10001"], "--k 10001: at most 10,000"),
        (["--text", "a", "--table", "a/b"], "--table"),
        (["--image", "a.png", "--mode", "text"], "--mode text searches for words: give --text"),
        (["--text", "a", "--image", "a.png", "--mode", "text"], "leave out --image, or use --mode hybrid"),
        (["--text", " ", "--mode", "hybrid"], "--mode hybrid searches for words"),
        (["--text", "a", "--allow-prefix", "img.example.com"], "--allow-prefix img.example.com: https://img"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(SearchConfig, ["--db", "d", "--table", "t", *options])


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        parse(SearchConfig, ["--help"])
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    entries = dict(re.findall(r"--([a-z-]+) ((?:(?! --[a-z-]+ ).)*?)\((?:default: [^)]*|required|repeatable)\)", text))
    for field in dataclasses.fields(SearchConfig):
        assert len(entries[field.name.replace("_", "-")].split()) >= 3, f"--{field.name} is not explained"


def test_vectors_are_not_printed(db):
    assert not any(isinstance(value, list | np.ndarray | bytes) for value in found(db, text="x")[0].values())


def test_a_search_imports_only_what_it_needs(db):
    program = """
import sys
from pipelines.search.config import SearchConfig
from pipelines.search.run import search
print(len(search(SearchConfig(sys.argv[1], "shapes", text="red", mode="text")).found), *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, db], capture_output=True, text=True, check=True)
    rows, *modules = done.stdout.split()
    assert rows == "1"
    assert not {"torch", "ray", "lancedb", "duckdb", "transformers", "aiohttp", "s3fs"} & set(modules)
