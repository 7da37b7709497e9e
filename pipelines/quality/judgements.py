"""Which documents are relevant to which queries, read from a file and checked."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from pipelines.storage.files import list_files, open_file
from vista_core import UsageError

QUERY_NAMES: Final = ("query-id", "query_id", "qid", "query")
DOCUMENT_NAMES: Final = ("corpus-id", "corpus_id", "doc-id", "doc_id", "relevant", "clicked", "id")
GRADE_NAMES: Final = ("score", "grade", "relevance")
SUFFIXES: Final = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
EXAMPLES: Final = 3


@dataclass(frozen=True)
class Judgements:
    """For each query the grades of documents; those above 0 are relevant."""

    uri: str
    grades: Mapping[str, Mapping[str, int]]

    @classmethod
    def read(cls, uri: str) -> Judgements:
        """Read a table with the columns `query-id`, `corpus-id` and, unless each row is a relevant document, `score`.

        The layout of MTEB and BEIR; a shop's `query`, `id` is understood as well. Raises UsageError for a file that
        can't be understood, and for two different grades of one pair.
        """
        rows = read_table(uri)
        query, document = column_of(rows, QUERY_NAMES, uri), column_of(rows, DOCUMENT_NAMES, uri)
        grade = next((name for name in GRADE_NAMES if name in rows.column_names), None)
        if not len(rows):
            raise UsageError(f"{uri}: no judgements in it")
        grades: dict[str, dict[str, int]] = {}
        values = [1] * len(rows) if grade is None else whole_numbers(rows, grade, uri)
        for asked, found, value in zip(as_texts(rows, query, uri), as_texts(rows, document, uri), values, strict=True):
            before = grades.setdefault(asked, {}).setdefault(found, value)
            if before != value:
                raise UsageError(f"{uri}: query {asked!r} and document {found!r} are judged {before} and {value}")
        return cls(uri, grades)

    @property
    def pairs(self) -> int:
        """The number of judgements."""
        return sum(map(len, self.grades.values()))

    @property
    def relevant(self) -> dict[str, set[str]]:
        """For each query that has some, its relevant documents."""
        relevant = {query: {key for key, grade in found.items() if grade > 0} for query, found in self.grades.items()}
        return {query: keys for query, keys in relevant.items() if keys}

    def require_queries(self, queries: Collection[str]) -> None:
        """Raise UsageError if a judged query does not exist: the scores would be those of something else."""
        if unknown := sorted(self.grades.keys() - set(queries)):
            raise UsageError(f"{self.uri}: {len(unknown):,} judged queries are not among the queries: {some(unknown)}")


def some(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(map(repr, names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "")


def column_of(rows: pa.Table, names: Sequence[str], uri: str) -> str:
    """The first of `names` that is a column. Raises UsageError if none is."""
    found = next((name for name in names if name in rows.column_names), None)
    if found is None:
        raise UsageError(f"{uri}: no column {' or '.join(names)}; there are {', '.join(rows.column_names)}")
    return found


def as_texts(rows: pa.Table, name: str, uri: str) -> list[str]:
    """A column of keys, as strings. Raises UsageError if one is missing."""
    if rows[name].null_count:
        raise UsageError(f"{uri}: {rows[name].null_count:,} rows have no {name}")
    return list(rows[name].cast(pa.string()).to_pylist())


def whole_numbers(rows: pa.Table, name: str, uri: str) -> list[int]:
    """A column of grades. Raises UsageError if one is missing, or is not a whole number from 0 on."""
    try:
        values = rows[name].cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise UsageError(f"{uri}: column {name}: {error}") from error
    if values.null_count or (len(values) and pc.min(values).as_py() < 0):
        raise UsageError(f"{uri}: column {name}: a grade is missing or below 0")
    return list(values.to_pylist())


def read_table(uri: str) -> pa.Table:
    """The rows of a file or of the files of a folder: Parquet, JSON lines, CSV or TSV with a header.

    Raises UsageError if there is none, or if it can't be parsed.
    """
    try:
        files = list_files(uri).files
    except UsageError as error:
        raise UsageError(str(error).removeprefix("--source ")) from error
    parts = []
    for file in files:
        if file.uri.endswith(SUFFIXES):
            with open_file(file.uri) as stream:
                content = stream.read()
            try:
                parts.append(parse(file.uri, content))
            except pa.ArrowInvalid as error:
                raise UsageError(f"{file.uri}: {error}") from error
    if not parts:
        raise UsageError(f"{uri}: no file of {', '.join(SUFFIXES)}")
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise UsageError(f"{uri}: its files differ in their columns: {error}") from error


def parse(path: str, content: bytes) -> pa.Table:
    """The rows of a file, by its name."""
    if path.endswith(".parquet"):
        return pq.read_table(io.BytesIO(content))
    if path.endswith((".jsonl", ".json")):
        return pa_json.read_json(io.BytesIO(content))
    delimiter = "\t" if path.endswith(".tsv") else ","
    as_text = dict.fromkeys((*QUERY_NAMES, *DOCUMENT_NAMES), pa.string())  # 007 is no number
    return pa_csv.read_csv(
        io.BytesIO(content),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types=as_text),
    )
