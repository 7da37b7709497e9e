"""Search compares a query with the published version of a column, by the encoder that filled the column."""

import dataclasses
import json
import re

import lance
import numpy as np
import pyarrow as pa
import pytest

from jobs import run_job
from pipelines.options import parse
from pipelines.sample_catalog import draw
from pipelines.search import Results, SearchConfig, Searcher, search
from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.origin import Origin, marked
from pipelines.tables.vector_column import VectorColumn
from vista_core import Encoder, EncoderSettings, Record, UsageError
from vista_core.hub import weights_path

ORIGIN = Origin("vista-tiny")
TEXTS = {
    "star": "a yellow star on a blue background",
    "ring": "a red ring on a black background",
    "disc": "a green disc on a white background",
    "unpublished": "a grey square on a grey background",
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(EncoderSettings(device="cpu"))


@pytest.fixture(scope="module")
def picture() -> bytes:
    return draw("star", "yellow", "blue")


@pytest.fixture(scope="module")
def write(encoder, picture):
    """Writes a table as the embedding job does: three records and an image are published, one more is not."""
    records = [*(Record(text) for text in TEXTS.values()), Record(None, picture)]
    vectors = dict(zip([*TEXTS, "picture"], encoder.encode(records).astype(np.float16), strict=True))

    def rows(ids: list[str], column: VectorColumn) -> pa.Table:
        values = pa.FixedSizeListArray.from_arrays(np.concatenate([vectors[key] for key in ids]), encoder.dimension)
        columns = {
            "id": pa.array(ids),
            "text": pa.array([TEXTS.get(key) for key in ids]),
            "price": pa.array(range(len(ids))),
            "score": pa.array(["a column of this name"] * len(ids)),
            "modality": pa.array(["text" if key in TEXTS else "image" for key in ids]),
            column.fingerprint: pa.array([bytes(16)] * len(ids), pa.binary(16)),
            "_object": pa.array(["a.parquet"] * len(ids)),
            "_run": pa.array(["run"] * len(ids)),
        }
        fields = [pa.field(name, array.type) for name, array in columns.items()]
        schema = pa.schema([column.field, *fields])
        return pa.table([values, *columns.values()], schema=schema)

    def write(db, column: VectorColumn | None = None, origin: Origin = ORIGIN, publish: bool = True):
        column = column or VectorColumn("vector", encoder.identity)
        table = rows(["ring", "star", "disc", "picture"], column)
        dataset = lance.write_dataset(table.cast(marked(table.schema, origin)), f"{db}/shapes.lance")
        if publish:
            dataset.tags.create(PUBLISHED, dataset.version)
        lance.write_dataset(rows(["unpublished"], column), dataset.uri, mode="append")

    return write


@pytest.fixture(scope="module")
def db(tmp_path_factory, write) -> str:
    folder = tmp_path_factory.mktemp("db")
    write(folder)
    return str(folder)


def found(db: str, **options: object) -> list[dict]:
    return search(SearchConfig(db, "shapes", device="cpu", **options)).rows


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


def test_text_and_image_make_one_query(db, encoder, picture, tmp_path):
    (tmp_path / "query.png").write_bytes(picture)
    [query] = encoder.encode([Record(TEXTS["disc"], picture)])
    dataset = lance.dataset(f"{db}/shapes.lance", version=PUBLISHED).to_table(columns=["id", "vector"])
    vectors = np.array(dataset["vector"].to_pylist(), np.float32)
    expected = dict(zip(dataset["id"].to_pylist(), vectors @ query / np.linalg.norm(vectors, axis=1), strict=True))
    for row in found(db, text=TEXTS["disc"], image=str(tmp_path / "query.png")):
        assert row["score"] == pytest.approx(float(expected[row["id"]]), abs=1e-3)


def test_rows_that_are_not_published_are_not_found(db):
    assert "unpublished" not in [row["id"] for row in found(db, text=TEXTS["unpublished"])]


def test_results_have_the_columns_that_mean_something_to_people(db):
    [row] = found(db, text="x", k=1)
    assert list(row) == ["id", "text", "price", "score", "modality"]
    assert isinstance(row["score"], float), "the cosine, not the column of that name"


def test_a_filter_is_applied_before_the_search(db):
    assert [row["id"] for row in found(db, text=TEXTS["ring"], where="price > 1 AND modality = 'text'", k=3)] == [
        "disc"
    ]


@pytest.mark.parametrize("where", ["no_such_column = 1", "price >"])
def test_a_filter_that_cannot_be_used_is_named(db, where):
    with pytest.raises(UsageError, match=re.escape(f"--where {where!r}")):
        found(db, text="x", where=where)


def test_a_version_that_is_published_after_the_encoder_was_loaded_is_not_searched_with_it(tmp_path, write, encoder):
    write(tmp_path)
    config = SearchConfig(str(tmp_path), "shapes", text=TEXTS["ring"], device="cpu")
    searcher = Searcher.open(config)
    before = searcher.search(config).rows
    other = VectorColumn("vector", dataclasses.replace(encoder.identity, weights="0" * 64))
    rows = lance.dataset(f"{tmp_path}/shapes.lance").to_table()
    reversed_vectors = rows["vector"].take(pa.array(range(len(rows)))[::-1])
    rows = rows.set_column(0, other.field, reversed_vectors)
    dataset = lance.write_dataset(rows, f"{tmp_path}/shapes.lance", mode="overwrite")
    dataset.tags.update(PUBLISHED, dataset.version)
    assert searcher.search(config).rows == before
    with pytest.raises(UsageError, match="embedded with another encoder"):
        Searcher.open(config)


def test_a_query_that_cannot_be_encoded_is_named(db, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no image")
    for image in (tmp_path / "no.png", tmp_path / "missing.png"):
        with pytest.raises(UsageError, match=f"--image {image}"):
            found(db, image=str(image))
    with pytest.raises(UsageError, match="--text: "):
        found(db, text="")


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=f"there is no table shapes in {tmp_path}"):
        found(str(tmp_path), text="x")


def test_a_table_that_was_never_published_is_refused(tmp_path, write):
    write(tmp_path, publish=False)
    with pytest.raises(UsageError, match=r"never published: .* shapes_runs says why"):
        found(str(tmp_path), text="x")


def test_a_table_that_vista_did_not_make_is_refused(tmp_path):
    dataset = lance.write_dataset(pa.table({"id": ["a"]}), f"{tmp_path}/shapes.lance")
    dataset.tags.create(PUBLISHED, 1)
    with pytest.raises(UsageError):
        found(str(tmp_path), text="x")


def test_an_encoder_that_did_not_fill_the_column_is_refused(tmp_path, write, encoder):
    write(tmp_path, VectorColumn("vector", dataclasses.replace(encoder.identity, weights="0" * 64)))
    with pytest.raises(UsageError, match=r"shapes was embedded with another encoder: weights: .*--weights"):
        found(str(tmp_path), text="x")


def test_a_column_of_lower_precision_is_searched_in_float32(tmp_path, write, encoder):
    write(tmp_path, VectorColumn("vector", dataclasses.replace(encoder.identity, dtype="bfloat16")))
    assert found(str(tmp_path), text=TEXTS["ring"])[0]["id"] == "ring"


def test_the_options_say_where_the_encoders_files_are_now(tmp_path, write):
    write(tmp_path, origin=Origin("vista-tiny", weights="/no/longer/there.safetensors"))
    with pytest.raises(UsageError, match=r"/no/longer/there\.safetensors"):
        found(str(tmp_path), text="x")
    weights = str(weights_path(EncoderSettings()))
    assert found(str(tmp_path), text=TEXTS["ring"], weights=weights)[0]["id"] == "ring"


ROWS = [{"id": "a", "text": "two\nlines", "modality": "text", "score": 0.5}]


def test_weights_at_a_uri_with_credentials_are_refused(db):
    with pytest.raises(UsageError, match="has credentials in it"):
        search(SearchConfig(db, "shapes", text="x", weights="s3://KEY:SECRET@bucket/model.pth"))


def test_results_for_people_are_a_table():
    assert str(Results(ROWS, False, "tiny")) == "tiny, 1 results\n score  id\n 0.500  a  [text] two lines"
    long = str(Results([ROWS[0] | {"text": "word " * 50}], False, "tiny")).splitlines()[2]
    assert long.endswith("…")
    assert len(long) < 100
    assert "None" not in str(Results([ROWS[0] | {"text": None}], False, "tiny"))
    bare = {"id": "a", "score": 0.5}  # another client appended the row, or dropped the columns
    for row in (bare, bare | {"text": None, "modality": None}):
        assert str(Results([row], False, "tiny")).endswith("\n 0.500  a  [unknown] ")


def test_results_for_programs_are_json_lines():
    rows = [*ROWS, ROWS[0] | {"text": "grün"}]
    lines = str(Results(rows, True, "tiny")).splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert "grün" in lines[1]


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
    [([], "--text, --image"), (["--text", "a", "--k", "0"], "--k"), (["--text", "a", "--table", "a/b"], "--table")],
)
def test_a_search_without_a_query_or_results_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        parse(SearchConfig, ["--db", "d", "--table", "t", *options])


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        parse(SearchConfig, ["--help"])
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    entries = dict(re.findall(r"--([a-z-]+) ((?:(?! --[a-z-]+ ).)*?)\((?:default: [^)]*|required|repeatable)\)", text))
    for field in dataclasses.fields(SearchConfig):
        assert len(entries[field.name.replace("_", "-")].split()) >= 3, f"--{field.name} is not explained"
