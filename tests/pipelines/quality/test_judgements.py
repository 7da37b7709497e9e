"""Judgements are read from every layout in use; what can't be meant is an error that names the place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.quality.judgements import Judgements
from vista_core import UsageError

EXPECTED = {"q1": {"a": 1, "b": 0}, "q2": {"007": 2}}
ROWS = [
    {"query-id": "q1", "corpus-id": "a", "score": 1},
    {"query-id": "q1", "corpus-id": "b", "score": 0},
    {"query-id": "q2", "corpus-id": "007", "score": 2},
]


def written(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return str(path)


def test_every_layout_says_the_same(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "q.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    tsv = "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t0\nq2\t007\t2\n"
    places = [
        str(tmp_path / "q.parquet"),
        written(tmp_path / "q.jsonl", lines),
        written(tmp_path / "q.tsv", tsv),
        written(tmp_path / "q.csv", tsv.replace("\t", ",")),
        str(tmp_path / "folder"),
    ]
    written(tmp_path / "folder" / "part.jsonl", lines)
    for place in places:
        found = Judgements.read(place)
        assert found.grades == EXPECTED, place
    assert found.relevant == {"q1": {"a"}, "q2": {"007"}}
    assert found.pairs == 3


def test_a_shops_file_has_queries_and_relevant_ids_alone(tmp_path):
    place = written(tmp_path / "clicks.csv", 'query,id\n"a lamp, red",12\n"a lamp, red",13\nchair,12\nchair,12\n')
    assert Judgements.read(place).grades == {"a lamp, red": {"12": 1, "13": 1}, "chair": {"12": 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("query,id\n", "no judgements in it"),
        ("question,id\nq,a\n", "no column query-id or query_id or qid or query; there are question, id"),
        ("query,document\nq,a\n", "no column corpus-id"),
        ("query,id,score\nq,a,1\nq,a,2\n", "query 'q' and document 'a' are judged 1 and 2"),
        ("query,id,score\nq,a,-1\n", "below 0"),
        ("query,id,score\nq,a,\n", "a grade is missing"),
        ("query,id,score\nq,a,often\n", "column score"),
        ("query,id,score\nq,a,0.5\n", "column score"),
    ],
)
def test_what_cannot_be_meant_is_an_error(tmp_path, content, message):
    place = written(tmp_path / "bad.csv", content)
    with pytest.raises(UsageError, match=message) as error:
        Judgements.read(place)
    assert place in str(error.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"^/.*nothing is there"):
        Judgements.read(str(tmp_path / "none.csv"))
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "README.md", "words")
    with pytest.raises(UsageError, match=r"no file of \.parquet"):
        Judgements.read(str(tmp_path / "folder"))


def test_unknown_queries_are_an_error():
    judgements = Judgements("qrels.tsv", EXPECTED)
    judgements.require_queries(["q1", "q2", "q3"])
    with pytest.raises(UsageError, match="1 judged queries are not among the queries: 'q2'"):
        judgements.require_queries(["q1"])
