"""Evaluate a task, or a table: the whole run, from the options to the page."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipelines.cluster.session import start_ray
from pipelines.embed.run import Setup
from pipelines.evaluate.compare import Comparison
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.embedded import Embedding, Queries, vectors_of
from pipelines.evaluate.output import Evaluation, write
from pipelines.evaluate.report import as_json, page_of
from pipelines.evaluate.scoring import Asked, Result, evaluate_table, require_documents
from pipelines.evaluate.task import Task
from pipelines.fetching.addresses import is_network
from pipelines.fetching.locations import FetchRules
from pipelines.quality.judgements import Judgements, read_table
from pipelines.records import ID
from pipelines.report.destination import Destination
from pipelines.report.page import render
from pipelines.search.encoder import EncoderChoice, query_settings
from pipelines.search.pinned import Asked as AskedTable
from pipelines.search.pinned import PinnedTable, open_table
from pipelines.storage.model_files import absolute_model
from pipelines.storage.uris import absolute, bucket_or_folder
from pipelines.tables.encoder_choice import EncoderOptions
from vista_core import UsageError

TYPED_QUERIES: Final = "queries.parquet"
REPORT_FILE: Final = "report.html"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """The result of the command."""

    evaluations: Sequence[Evaluation]
    compared: Comparison | None
    report: str
    is_json: bool

    def __str__(self) -> str:
        """The tables of scores, or JSON."""
        if self.is_json:
            return as_json(self.evaluations, self.compared)
        compared = [str(self.compared)] if self.compared is not None else []
        return "\n".join([*map(str, self.evaluations), *compared, f"report: {self.report}"])


def evaluate(config: EvaluateConfig, setup: Setup = Setup()) -> Evaluated:  # noqa: B008  # a frozen value
    """Embed what isn't embedded, search, score, and write the results.

    `setup` is that of the runs of `embed`. Raises UsageError for a task or judgements that can't be used, and what
    `embed` raises.
    """
    began = time.monotonic()
    config = with_absolute_paths(config)
    evaluations = [of_task(config, setup)] if config.task is not None else of_table(config, setup)
    evaluations = [replace(each, facts={**each.facts, "seconds": time.monotonic() - began}) for each in evaluations]
    for each in evaluations:
        each.write()
    compared = None
    if len(evaluations) == 2:
        first, second = evaluations
        compared = Comparison.of((first.system, second.system), first.by_query(), second.by_query())
        compared = replace(compared, texts=first.texts)
        write(config.output, "comparison.json", json.dumps(compared.facts(), indent=1).encode())
    report = f"{config.output}/{REPORT_FILE}"
    Destination(report).write(render(page_of(config, evaluations, compared, rules_of(config))))
    return Evaluated(evaluations, compared, report, config.json)


def with_absolute_paths(config: EvaluateConfig) -> EvaluateConfig:
    """Workers have working directories of their own."""
    return replace(
        config,
        db=absolute(config.db),
        output=absolute(config.output).rstrip("/"),
        model=config.model and absolute_model(config.model),
        weights=config.weights and absolute(config.weights),
        from_pretrained=config.from_pretrained and absolute(config.from_pretrained),
        queries=config.queries and absolute(config.queries),
        judgements=config.judgements and absolute(config.judgements),
        allow_prefix=tuple(each if is_network(each) else absolute(each) for each in config.allow_prefix),
    )


def of_task(config: EvaluateConfig, setup: Setup) -> Evaluation:
    """Embed the corpus and the queries of a task, and evaluate the model on them."""
    assert config.task is not None, "the options name one"
    task = Task.open(config.task)
    judgements = task.judgements()
    start_ray()
    embedding = Embedding.of(config, config.encoder, setup)
    corpus = embedding.embed(task.name, [each.corpus for each in task.folders if each.corpus])
    queries = Queries.embed(embedding, task.name, [each.queries for each in task.folders])
    groups = groups_of(config.by, queries, [each.meta for each in task.folders])
    asked = Asked(queries, judgements, task.competing())
    log.info("%s: searching %s documents", task.name, f"{corpus.table.dataset.count_rows():,}")
    result = evaluate_table(corpus.table, corpus.rejected, asked, through_index=False)
    known = task.known
    facts = facts_of(result, judgements, dict(corpus.reasons))
    return Evaluation(
        title=task.name,
        system=embedding.identity.model,
        result=result,
        folder=config.output,
        queries=queries.every.table,
        grades=judgements.grades,
        facts=facts | ({} if known is None else {"differs": known.differs}),
        groups=groups,
        published={} if known is None else known.figures(embedding.identity.model),
    )


def of_table(config: EvaluateConfig, setup: Setup) -> list[Evaluation]:
    """Evaluate one or two columns of a table that is there."""
    assert config.table is not None and config.judgements is not None, "the options name them"
    judgements, source = Judgements.read(config.judgements), config.queries
    tables = [open_table(config.db, config.table, AskedTable(column=column)) for column in config.column or (None,)]
    require_documents(vectors_of(tables[0]), judgements, {})
    if source is None:
        judgements, source = typed_queries(config, judgements)
    start_ray()
    found = []
    for table in tables:
        options = options_of(config, table)
        embedding = Embedding.of(config, options, setup)
        queries = Queries.embed(embedding, f"{config.table}_evaluated", [source])
        result = evaluate_table(table, {}, Asked(queries, judgements, {}), config.index)
        one_of_two = len(config.column) == 2
        evaluation = Evaluation(
            title=config.table,
            system=f"{table.vector}: {embedding.identity.model}",
            result=result,
            folder=f"{config.output}/{table.vector}" if one_of_two else config.output,
            queries=queries.every.table,
            grades=judgements.grades,
            facts=facts_of(result, judgements, {}),
            groups=groups_of(config.by, queries, []),
        )
        found.append(evaluation)
    return found


def typed_queries(config: EvaluateConfig, judgements: Judgements) -> tuple[Judgements, str]:
    """Judgements whose queries are texts: the same with ids in their place, and a file with ids and texts."""
    ids = {text: f"q{number:06}" for number, text in enumerate(judgements.grades)}
    stream = io.BytesIO()
    pq.write_table(pa.table({"id": list(ids.values()), "text": list(ids)}), stream)
    write(config.output, TYPED_QUERIES, stream.getvalue())
    grades = {ids[text]: found for text, found in judgements.grades.items()}
    return Judgements(judgements.uri, grades), f"{config.output}/{TYPED_QUERIES}"


def options_of(config: EvaluateConfig, table: PinnedTable) -> EncoderOptions:
    """The encoder of a table's column, as queries are encoded: in float32."""
    named = EncoderChoice(config.model, config.weights, config.from_pretrained, config.device)
    settings = query_settings(table, named)
    return EncoderOptions(
        settings.model,
        settings.weights,
        settings.from_pretrained,
        "float32",
        settings.alpha,  # type: ignore[arg-type]  # checked by EncoderSettings
        settings.resize,  # type: ignore[arg-type]
        settings.max_tokens,
        config.inference_tokens,
    )


def groups_of(columns: Sequence[str], queries: Queries, meta: Sequence[str | None]) -> dict[str, dict[str, str]]:
    """For each column that was asked for, the value of each query. Raises UsageError if no file has the column."""
    table = queries.every.table
    tables = [queries.every.rows([ID, *(name for name in columns if name in table.dataset.schema.names)])]
    tables += [read_table(uri) for uri in meta if uri is not None and columns]
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        having = [each for each in tables if column in each.column_names and ID in each.column_names]
        if not having:
            names = sorted({name for each in tables for name in each.column_names} | set(table.dataset.schema.names))
            raise UsageError(f"--by {column}: no such column of the queries; there are {', '.join(names)}")
        found[column] = {
            str(key): "none" if value is None else str(value)
            for each in having
            for key, value in zip(each[ID].to_pylist(), each[column].to_pylist(), strict=True)
        }
    return found


def facts_of(result: Result, judgements: Judgements, rejected: Mapping[str, int]) -> dict[str, Any]:
    """What was evaluated, for metrics.json."""
    dataset, column = result.table.dataset, result.table.column
    rows = [[query, sorted(found.items())] for query, found in sorted(judgements.grades.items())]
    return {
        "corpus": {
            "table": dataset.uri,
            "version": int(dataset.version),
            "column": result.table.vector,
            "rows": dataset.count_rows(),
            "with_vector": result.documents,
            "rejected": dict(rejected),
        },
        "judgements": {
            "uri": judgements.uri,
            "pairs": judgements.pairs,
            "digest": xxhash.xxh3_64_hexdigest(json.dumps(rows).encode()),
        },
        "encoder": None if column is None else json.loads(column.identity.to_json()),
    }


def rules_of(config: EvaluateConfig) -> FetchRules:
    """Where the images of a report may be fetched from: as when they were embedded."""
    folders = [bucket_or_folder(each) for each in (config.queries,) if each]
    return FetchRules((*folders, *config.allow_prefix))
