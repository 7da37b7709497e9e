"""A folder with queries and judgements and, for an evaluation, a corpus, in the layout of MTEB.

corpus.parquet   queries.parquet   qrels.parquet        files of any kind that `vista embed` reads, or
corpus/*         queries/*         qrels/test*          folders of them; `query` and `default` are understood, too
top_ranked.*     the documents that compete for a query, if there are few (`query-id`, `corpus-id`)
queries_meta.*   further columns of queries, by `id`, to break scores down by
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipelines.storage.uris import filesystem
from vista_core import UsageError

QUERIES: Final = ("queries", "query")
QRELS: Final = ("qrels", "default")
SUFFIXES: Final = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".arrow", ".lance")
SPLIT: Final = "test"

Entries = Mapping[str, Mapping[str, Any]]  # of a folder, by name, as fsspec describes them


@dataclass(frozen=True)
class TaskFolder:
    """The parts of a task, by their URIs."""

    uri: str
    queries: str
    qrels: str
    corpus: str | None = None
    top_ranked: str | None = None
    meta: str | None = None

    @classmethod
    def open(cls, uri: str, option: str) -> TaskFolder:
        """Find the parts. Raises UsageError, which names the option, if queries or judgements are missing."""
        fs, path = filesystem(uri)
        try:
            entries = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in fs.ls(path, detail=True)}
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(f"{option} {uri}: there is no such folder") from error
        queries, qrels = part_of(uri, entries, QUERIES), part_of(uri, entries, QRELS)
        for part, found in (("queries", queries), ("qrels", qrels)):
            if found is None:
                wanted = f"{part}.parquet, {part}.jsonl, {part}.tsv or a folder {part}"
                raise UsageError(f"{option} {uri}: no {part} in it ({wanted}). There is {', '.join(sorted(entries))}")
        assert queries is not None and qrels is not None, "checked above"
        others = [part_of(uri, entries, (name,)) for name in ("corpus", "top_ranked", "queries_meta")]
        return cls(uri, queries, qrels, *others)


def part_of(uri: str, entries: Entries, names: Sequence[str]) -> str | None:
    """The URI of a part of a task, a file or a folder; of several splits, that of the test. None if it is missing."""
    for name in names:
        for suffix in SUFFIXES:
            if f"{name}{suffix}" in entries:
                return f"{uri}/{name}{suffix}"
        if name in entries and entries[name]["type"] == "directory":
            fs, path = filesystem(f"{uri}/{name}")
            files = [each.rstrip("/").rpartition("/")[2] for each in fs.ls(path, detail=False)]
            of_split = sorted(each for each in files if each.startswith(SPLIT) and each.endswith(SUFFIXES))
            if len(of_split) == 1:
                return f"{uri}/{name}/{of_split[0]}"
            return f"{uri}/{name}/{SPLIT}*" if of_split and len(of_split) < len(files) else f"{uri}/{name}"
    return None
