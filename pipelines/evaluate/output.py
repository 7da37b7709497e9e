"""What an evaluation leaves: metrics.json, per_query.parquet and run.trec."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluate.scoring import Result, Scored
from pipelines.quality.metrics import METRICS, Grades
from pipelines.records import ID, TEXT
from pipelines.search.pinned import PinnedTable
from pipelines.storage.uris import filesystem
from pipelines.storage.walk import is_local
from vista_core import UsageError

METRICS_FILE: Final = "metrics.json"
QUERIES_FILE: Final = "per_query.parquet"
RUN_FILE: Final = "run.trec"
SHOWN: Final = ("hit_rate@1", "hit_rate@5", "recall@5", "recall@10", "ndcg@10", "mrr@10")
JUDGEMENTS: Final = b"vista.judgements"  # metadata of per_query.parquet: what stands for the task


@dataclass(frozen=True)
class Evaluation:
    """One system on one task, and where its results are."""

    title: str
    system: str  # the model, and the column
    result: Result
    folder: str
    queries: PinnedTable
    grades: Grades
    facts: Mapping[str, Any]  # of the task and the encoder, for metrics.json
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of each query, by the columns asked for
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by whom, and metric

    @property
    def missing(self) -> dict[str, int]:
        """How many documents can't be found, and why. They count where they are relevant."""
        corpus = self.facts["corpus"]
        without = corpus["rows"] - self.result.documents
        return corpus["rejected"] | ({"they have no vector": without} if without else {})

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        result = self.result
        broken_down = {column: result.by(groups) for column, groups in self.groups.items()}
        return {
            "task": self.title,
            "system": self.system,
            **means(result.scored),
            "intervals": intervals(result.scored),
            "beside": {name: means(scored) for name, scored in result.beside.items()},
            "by": {
                column: {
                    name: {"queries": number, **means(scored), "intervals": intervals(scored)}
                    for name, (number, scored) in found.items()
                }
                for column, found in broken_down.items()
            },
            "queries": {
                "table": self.queries.dataset.uri,
                "evaluated": len(result.queries),
                "excluded": dict(result.excluded),
            },
            "published_figures": self.published,
            **self.facts,
        }

    def write(self) -> None:
        """Write the files of the results."""
        write(self.folder, METRICS_FILE, json.dumps(self.metrics(), indent=1, ensure_ascii=False).encode())
        write(self.folder, QUERIES_FILE, self.per_query())
        write(self.folder, RUN_FILE, "".join(self.run_lines()).encode())

    def per_query(self) -> bytes:
        """The scores of each query, with the groups that it is in."""
        values: dict[str, Any] = {
            "query": self.result.queries,
            "text": [self.texts.get(key) for key in self.result.queries],
        }
        values |= self.result.scored.values
        for column, groups in self.groups.items():
            values[f"by {column}"] = [groups.get(query) for query in self.result.queries]
        rows = pa.table(values).replace_schema_metadata({JUDGEMENTS: str(self.facts["judgements"]["digest"])})
        stream = io.BytesIO()
        pq.write_table(rows, stream)
        return stream.getvalue()

    @cached_property
    def texts(self) -> dict[str, str]:
        """The texts of the queries by id, as far as they have some."""
        if TEXT not in self.queries.dataset.schema.names:
            return {}
        rows = self.queries.dataset.to_table([ID, TEXT])
        return {key: text for key, text in zip(rows[ID].to_pylist(), rows[TEXT].to_pylist(), strict=True) if text}

    def by_query(self) -> dict[str, dict[str, float]]:
        """The scores of each query, by metric."""
        values = self.result.scored.values
        return {
            query: {name: float(values[name][at]) for name in METRICS} for at, query in enumerate(self.result.queries)
        }

    def run_lines(self) -> Iterator[str]:
        """The ranking in the format of trec_eval."""
        name = self.system.replace(" ", "_")
        result = self.result
        for query, ids, scores in zip(result.queries, result.ranked.ids, result.ranked.scores, strict=True):
            for rank, (key, score) in enumerate(zip(ids, scores, strict=True), start=1):
                yield f"{query}\tQ0\t{key}\t{rank}\t{score:.9g}\t{name}\n"

    def __str__(self) -> str:
        """The table of scores, for people."""
        result, width = self.result, max(map(len, ["score", *self.result.beside, *self.published])) + 2
        counts = f"{len(result.queries):,} queries, {result.documents:,} documents"
        lines = [f"{self.title}: {counts}; {self.system}"]
        lines += [f"not evaluated: {number:,} queries, {why}" for why, number in result.excluded.items()]
        lines += [f"can't be found: {number:,} documents, {why}" for why, number in self.missing.items()]
        lines.append(" " * width + "".join(f"{name:>12}" for name in SHOWN))
        lines.append(f"{'score':{width}}" + "".join(f"{result.scored.intervals[name].mean:12.4f}" for name in SHOWN))
        bounds = [result.scored.intervals[name] for name in SHOWN]
        lines.append(f"{'  95 %':{width}}" + "".join(f"{each.low:6.3f}-{each.high:.3f}" for each in bounds))
        for name, scored in result.beside.items():
            lines.append(f"{name:{width}}" + "".join(f"{scored.intervals[each].mean:12.4f}" for each in SHOWN))
        for name, figures in self.published.items():
            shown = [f"{figures[each]:12.4f}" if each in figures else f"{'':12}" for each in SHOWN]
            lines.append(f"{name:{width}}" + "".join(shown).rstrip())
        for column, groups in self.groups.items():
            lines.append(f"by {column}")
            for name, (number, scored) in result.by(groups).items():
                figures_of = "".join(f"{scored.values[each].mean():12.4f}" for each in SHOWN)
                lines.append(f"  {name[: width - 4]:{width - 2}}{figures_of}  ({number:,})")
        return "\n".join([*lines, f"written to {self.folder}"])


def means(scored: Scored) -> dict[str, float]:
    """The mean of each metric."""
    return {name: float(values.mean()) for name, values in scored.values.items()}


def intervals(scored: Scored) -> dict[str, list[float]]:
    """The interval of each metric."""
    return {name: [each.low, each.high] for name, each in scored.intervals.items()}


def write(folder: str, name: str, content: bytes) -> None:
    """Write a file of the output."""
    fs, path = filesystem(folder)
    if is_local(fs):
        fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/{name}", content)


@dataclass(frozen=True)
class Written:
    """What an earlier evaluation left."""

    folder: str
    metrics: dict[str, Any]
    queries: list[str]
    values: dict[str, np.ndarray]
    texts: dict[str, str]
    judgements: bytes

    @classmethod
    def read(cls, folder: str) -> Written:
        """Read it. Raises UsageError if it isn't there."""
        fs, path = filesystem(folder)
        try:
            metrics = json.loads(fs.cat_file(f"{path}/{METRICS_FILE}"))
            rows = pq.read_table(io.BytesIO(fs.cat_file(f"{path}/{QUERIES_FILE}")))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{folder} is no output of `vista evaluate`: {error}") from error
        values = {name: rows[name].to_numpy() for name in METRICS if name in rows.column_names}
        queries = rows["query"].to_pylist()
        texts = {key: text for key, text in zip(queries, rows["text"].to_pylist(), strict=True) if text}
        return cls(folder, metrics, queries, values, texts, (rows.schema.metadata or {})[JUDGEMENTS])
