"""What people read has no control characters, however they came into the data."""

import json
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.terminal import one_line, printable_lines

ANY_TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from("\x00\x07\x1b\r\n\t\x7f\x85\x9b\u202e\u2066\ufeff\ud800"))
)
ENCODINGS = st.sampled_from(["utf-8", "ascii", "latin-1"])


@given(ANY_TEXT)
def test_a_line_has_no_character_that_a_terminal_obeys(text):
    line = one_line(text)
    assert not {unicodedata.category(each) for each in line} & {"Cc", "Zl", "Zp", "Cs"}
    assert {unicodedata.bidirectional(each) for each in line}.isdisjoint({"LRE", "RLE", "LRO", "RLO", "PDF"})
    assert {unicodedata.bidirectional(each) for each in line}.isdisjoint({"LRI", "RLI", "FSI", "PDI"})
    assert one_line(line) == line


@given(ANY_TEXT, ENCODINGS)
def test_lines_stay_apart_and_can_be_printed_in_any_encoding(text, encoding):
    lines = printable_lines(text, encoding)
    lines.encode(encoding)
    assert lines.count("\n") == text.count("\n")
    assert not {each for each in lines if unicodedata.category(each) == "Cc"} - {"\n"}


@given(st.dictionaries(ANY_TEXT, ANY_TEXT), ENCODINGS)
def test_json_means_the_same_afterwards(row, encoding):
    written = json.dumps(row, ensure_ascii=False)
    assert json.loads(printable_lines(written, encoding)) == json.loads(json.dumps(row))


@pytest.mark.parametrize("text", ["a lamp, 20 €", "灯", "می‌خواهم", "👩‍👩‍👧", "[red]not markup[/red]", "C:\\new", ""])
def test_ordinary_text_is_as_it_was(text):
    assert one_line(text) == printable_lines(text, "utf-8") == text


def test_escapes_are_those_of_json():
    assert one_line("a\x1b[31m\tb\nc\r\x9b\u202e\x7f") == r"a\u001b[31m\tb\nc\r\u009b\u202e\u007f"
    assert printable_lines("é 👩 \ud800\nnext", "ascii") == "\\u00e9 \\ud83d\\udc69 \\ud800\nnext"


def test_who_reads_may_stop_early():
    """`vista search | head -1` is no error."""
    program = "import sys; from pipelines.terminal import show; show('a line\\n' * 100_000, sys.stdout)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"a line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
