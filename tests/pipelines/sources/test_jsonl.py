"""JSON lines: each line is read exactly once, wherever its file is cut, or rejected alone."""

import io
import json

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.sources.json_syntax import JsonSyntax
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.limits import DEFAULTS
from pipelines.sources.lines import line_ends, read_batches, read_blocks
from pipelines.storage.files import list_files
from tests.pipelines.sources.text_files import (
    BOM,
    columns,
    cut_every,
    jsonl,
    open_json,
    outcomes,
    read,
    tabular,
    units,
)

# From files to records


def test_json_lines_become_records(store):
    content = jsonl(
        {
            "id": "a",
            "title": "Tasse",
            "image_url": "a.jpg",
            "price": 1,
            "tags": ["x", None],
            "dims": {"w": 1, "h": 2.5},
        },
        {"id": "b", "title": "Döner", "price": 2.5},
        {"id": "c", "title": None, "image_url": "", "tags": [], "dims": None, "unheard_of": [1]},
    )
    store.put("a.jsonl", content)
    source = tabular(open_json(store.root))
    assert source.describe()[0] == "1 JSON lines file(s), 0.00 MB"
    rows, reasons = read(source)
    assert reasons == {}
    assert columns(rows, "id", "text", "image_uri", "price", "tags", "dims") == [
        ("a", "Tasse", "a.jpg", 1.0, ["x", None], {"w": 1, "h": 2.5}),
        ("b", "Döner", None, 2.5, None, None),
        ("c", None, None, None, [], None),
    ]
    assert columns(rows, "_object", "_row") == [
        (store.uri("a.jsonl"), content.index(b'{"id": "%s"' % key)) for key in (b"a", b"b", b"c")
    ]


def test_each_image_of_a_record_is_a_row(local):
    local.put(
        "a.jsonl", jsonl({"id": "a", "title": "x", "images": ["1.jpg", "2.jpg"]}, {"id": "b", "images": []}) + b"["
    )
    rows, reasons = read(tabular(open_json(local.root)))
    assert columns(rows, "id", "image_uri") == [("a#0", "1.jpg"), ("a#1", "2.jpg"), ("b#0", None)]
    assert [reason for reason, _ in reasons.values()] == ["line_unparsable"]


# Ranges


JSON_LINES = st.sampled_from(
    [
        *(b'{"id":"%d","n":%d}' % (n, n) for n in range(9)),
        b'{"id":"a long one to be cut more than once","n":7,"more":{"x":[1,{}]}}',
        b' {"id":"blanks"}\t ',
        '{"id":"ü日本\\u00fc"}'.encode(),
        b"{}",
        b'{"z":null}',
        b"",
        b" \t",
        b"\r",
        b'{"n":1}\r',
        # lines that pyarrow takes for another number of rows, rejects, or crashes at
        b'{"n":1}{"n":2}',
        b'{"n":1} {"n":2}{"n":3}',
        b'{"n":1}null{"n":2}',
        b'{"n":',
        b"1}",
        b'{"z":[',
        b"{}]}",
        b'{"z":{}',
        b"}{",
        b"{",
        b"null",
        b"[1]",
        b"5",
        b'"x"',
        b"x",
        b'{"n":1} x',
        b'{"n":"x"}',
        b'{"n":1.5}',
        b'{"n":NaN}',
        b'{"n":99999999999999999999}',
        b'{"n":1,"n":2}',
        b'{"id":5}',
        b'{"id":"\xff"}',
        b'{"id":"\\ud800"}',
        b'{"id":"a\x00b"}',
        b'{"n":1}\x00',
        BOM + b'{"n":1}',
    ]
)


def expected_of_json(content: bytes) -> list[tuple[int, dict | str]]:
    """What Python's parser makes of each line."""
    found, offset = [], 0
    for line in content.split(b"\n"):
        stripped = (line if found or offset else line.removeprefix(BOM)).strip(b" \t\r").removeprefix(BOM)
        if stripped:
            found.append((offset, expected_of_line(stripped)))
        offset += len(line) + 1
    return found


def expected_of_line(line: bytes) -> dict | str:
    try:
        pairs = json.loads(line.decode(), object_pairs_hook=tuple)
    except UnicodeDecodeError:
        return "text_not_utf8"
    except ValueError:
        return "line_unparsable"
    if not isinstance(pairs, tuple) or len({name for name, _ in pairs}) < len(pairs):
        return "line_unparsable"
    values = dict(pairs)
    key, number = values.get("id"), values.get("n")
    if isinstance(key, str) and not key.isprintable() and "\ud800" in key:
        return "line_unparsable"
    key = str(key) if type(key) is int else key
    whole = int(number) if type(number) is float and number.is_integer() else number
    fits = type(whole) is int and abs(whole) < 1 << 63
    return {"id": key, "n": whole if fits else None}


@settings(max_examples=200)
@given(
    st.lists(JSON_LINES, max_size=12), st.sampled_from([b"\n", b""]), st.integers(1, 90), st.sampled_from([b"", BOM])
)
@example([b'{"n":1}{"n":2}', b'{"n":', b"1}"], b"\n", 90, b"")
@example([b'{"n":1}{"n":2}', b'{"z":[', b"{}]}"], b"\n", 90, b"")
@example([b'{"n":1}{"n":2}', b' {"z":[', b"{}]}"], b"\n", 90, b"")
@example([b"null"], b"\n", 90, b"")
@example([b'{"n":3}'] * 3, b"", 8, b"")
@example([b'{"n":3}'] * 3, b"", 7, BOM)
def test_each_line_is_read_once_wherever_the_file_is_cut(tmp_path_factory, parts, end, size, start):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(start + b"\n".join(parts) + (end if parts else b""))
    schema = pa.schema([("id", pa.string()), ("n", pa.int64())])
    kind = JsonLines(list_files(str(path)), cut_every(size), schema, 10.0, roles=frozenset(["id"]), key="id")
    assert [unit.first_row for unit in units(kind)] == list(range(0, path.stat().st_size, size))
    assert outcomes(kind) == expected_of_json(path.read_bytes())


# Lines that are rejected


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b'{"id":"x"', "line_unparsable", "Expecting ',' delimiter: line 1 column 10"),
        (b'{"id":"x","id":"y"}', "line_unparsable", "specified twice"),
        (b"[1,2]", "line_unparsable", "not a JSON object but a list"),
        (b'{"id":"x"} {"id":"y"}', "line_unparsable", "Extra data"),
        (b'{"id":"\\ud800"}', "line_unparsable", "surrogate"),
        (b"[" * 100_000, "line_unparsable", "nested too deeply"),
        (b'{"id":["x"],"n":1}', "column_type", 'id is ["x"], which can\'t be read as text: {"id":["x"]'),
        (b'{"id":"' + b"x" * 500 + b'","text":{}}', "column_type", "text is {}, which can't be read as text: {"),
        (b'{"id":"caf\xe9"}', "text_not_utf8", "can't decode byte 0xe9"),
    ],
)
def test_a_rejected_line_says_why(local, line, reason, message):
    good = jsonl({"id": "a", "text": "x", "n": 1})
    local.put("a.jsonl", good)
    local.put("b.jsonl", good + line + b"\n" + good)
    rows, reasons = read(tabular(open_json(local.root)))
    assert columns(rows, "id", "n") == [("a", 1)] * 3
    [(row, said)] = reasons.items()
    assert (row, said[0]) == (len(good), reason)
    assert message in said[1]
    assert len(said[1]) <= 382 + 100
    assert line[:80].decode(errors="replace") in said[1]
    assert len(line) < 100 or line[:100].decode(errors="replace") not in said[1]


def test_nan_is_a_number(local):
    """Python's `json` writes it."""
    local.put("a.jsonl", b'{"text":"x","n":1.5}\n{"text":"x","n":NaN}\n')
    rows, reasons = read(tabular(open_json(local.root)))
    assert reasons == {}
    assert repr([row["n"] for row in rows]) == "[1.5, nan]"


class Counting(JsonSyntax):
    """Counts the calls of the parser."""

    calls = 0

    def parse(self, text: memoryview) -> pa.Table:
        Counting.calls += 1
        return super().parse(text)


@pytest.mark.parametrize(("bad", "most"), [(4096, 10), (1, 10)])
def test_bad_records_take_few_calls_of_the_parser(bad, most):
    good = {"text": "x", "n": 1}
    content = jsonl(*([good] * (4096 - bad)), *({"text": "x", "n": "many"} for _ in range(bad)))
    blocks = read_blocks(io.BytesIO(content), 0, len(content), line_ends, DEFAULTS)
    Counting.calls = 0
    found = list(read_batches(blocks, Counting(pa.schema([("text", pa.string()), ("n", pa.int64())])), DEFAULTS))
    assert sum(len(batch.rows) for batch in found) == 4096
    assert sum(len(batch.misfits) for batch in found) == bad
    assert not any(batch.rejects for batch in found)
    assert Counting.calls < most


# Types


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([1, 2**63], pa.uint64()),
        ([-1, 2**63], pa.string()),
        ([2**64], pa.string()),
        ([2**64, 0.5], pa.float64()),
        ([True, False], pa.bool_()),
        ([True, 1, 2], pa.string()),
        (["2024-01-01", "00123"], pa.string()),
        (["a", "b", 1], pa.string()),
        ([1, 2, "a"], pa.string()),
        ([None, None], pa.null()),
        ([["a"], [], None], pa.list_(pa.string())),
        ([[1], [2.5], [None]], pa.list_(pa.float64())),
        ([{"a": 1}, {"b": "x", "a": None}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([[{"a": [1]}], [{"a": None}]], pa.list_(pa.struct([("a", pa.list_(pa.int64()))]))),
        ([{"a": 1}, {"a": "x"}, {"a": 2}], pa.struct([("a", pa.string())])),
        ([[]], pa.list_(pa.string())),
        ([[1], "x", {}, [2]], pa.list_(pa.int64())),
    ],
)
def test_a_column_has_a_type_that_holds_its_values(local, values, expected):
    passed_over = b'no JSON\n"v"\n{"\\ud800":1}\n' + b'{"v":' * 100_000 + b"\n"
    local.put("a.jsonl", passed_over + jsonl(*({"v": value} for value in values)))
    kind = open_json(local.root)
    assert kind.schema == pa.schema([("v", expected)])
    assert len(outcomes(kind)) == len(values) + 4
