"""The page of an evaluation: scores beside baselines and published figures, and the worst queries with pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipelines.evaluate.chart import hit_rate_chart
from pipelines.evaluate.compare import Comparison
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.output import SHOWN, Evaluation
from pipelines.evaluate.scoring import Scored
from pipelines.fetching.locations import FetchRules
from pipelines.quality.metrics import METRICS, MRR, NDCG
from pipelines.records import TEXT
from pipelines.report.markup import Markup, joined, shortened, table, tag
from pipelines.report.page import Page, Section
from pipelines.report.sample_pictures import drawn
from pipelines.report.sections import configuration_section, picture_of_row, versions_section, wide
from pipelines.search.images import images_of
from pipelines.search.pinned import PinnedTable
from pipelines.search.rows import addresses_of, rows_at
from pipelines.tables.runs import library_versions

WORST: Final = 20  # queries
FOUND: Final = 5  # documents of each
SHOULD: Final = 5
MOST_GROUPS: Final = 40

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """Rows of a table, and pictures of them, by id."""

    rows: Mapping[str, Row]
    pictures: Mapping[str, bytes]

    @classmethod
    def of(cls, found: PinnedTable, ids: Sequence[str], rules: FetchRules | None) -> Shown:
        """Some rows of a table. Images given by URI are fetched by `rules`; None: they are not."""
        wanted = [*dict.fromkeys(ids)]
        addresses = addresses_of(found, wanted)
        rows = rows_at(found, list(addresses.values())).to_pylist() if addresses else []
        images = images_of(found, wanted, rules)
        pictures = drawn([(str(key), image) for key, image in images.items()])
        return cls({str(key): row for key, row in zip(addresses, rows, strict=True)}, pictures)

    def cell(self, key: str, lines: Sequence[object], is_asked: bool = False) -> Markup:
        """A row: its picture, what is said of it, its id and text."""
        row = self.rows.get(key, {})
        text = row.get(TEXT) or next((row[name] for name in ("title", "caption", "name") if row.get(name)), None)
        parts = [
            picture_of_row(self.pictures, key, row),
            *(tag("div", line, class_="score") for line in lines),
            tag("div", tag("strong", shortened(key, 60))),
            tag("div", shortened(text, 140)) if text else None,
        ]
        return tag("div", joined(parts), class_="asked" if is_asked else None)


def page_of(
    config: EvaluateConfig, evaluations: Sequence[Evaluation], compared: Comparison | None, rules: FetchRules | None
) -> Page:
    """The page of one evaluation, or of two that are compared."""
    first, last = evaluations[0], evaluations[-1]
    sections: list[Section | None] = [section for each in evaluations for section in scores_sections(each, evaluations)]
    sections.append(difference_section(compared))
    sections += [broken_down(each, column) for each in evaluations for column in each.groups]
    sections.append(worst_section(last, rules))
    configuration = {"options": dataclasses.asdict(config), **last.facts}
    sections.append(configuration_section(configuration, "options", EvaluateConfig))
    sections.append(versions_section(library_versions(), {each.system: each.facts["encoder"] for each in evaluations}))
    left = [f"{number:,} queries were not evaluated: {why}." for why, number in first.result.excluded.items()]
    for each in evaluations:
        left += [f"{number:,} documents can't be found: {why} ({each.system})." for why, number in each.missing.items()]
    means = [[f"{each.result.scored.intervals[name].mean:.3f}" for each in evaluations] for name in SHOWN]
    tiles = [(name, " / ".join(found)) for name, found in zip(SHOWN, means, strict=True)]
    return Page(
        title=last.title,
        subtitle=f"vista evaluate: {' and '.join(each.system for each in evaluations)}",
        passed=True,
        verdict=f"{len(last.result.queries):,} queries, {last.result.documents:,} documents",
        explanation=left,
        tiles=tiles,
        sections=sections,
    )


def scores_sections(evaluation: Evaluation, every: Sequence[Evaluation]) -> list[Section | None]:
    """All scores of a system, and what stands beside them."""
    systems: dict[str, Scored] = {evaluation.system: evaluation.result.scored, **evaluation.result.beside}
    names = [name for name in evaluation.result.scored.values if name not in METRICS]
    rows = []
    for metric in (*METRICS, *names):
        cells = [metric]
        for scored in systems.values():
            each = scored.intervals.get(metric)
            cells.append("" if each is None else f"{each.mean:.4f} [{each.low:.3f}, {each.high:.3f}]")
        cells += [f"{figures[metric]:.4f}" if metric in figures else "" for figures in evaluation.published.values()]
        rows.append(cells)
    head = ["metric", *systems, *evaluation.published]
    note = (
        "Means over the queries, with 95 % intervals (bootstrap over the queries). recall@K is the share of the "
        "relevant documents among the first K, hit_rate@K the share of queries with at least one there."
    )
    if "differs" in evaluation.facts:
        note += f" Differences to the published setting: {evaluation.facts['differs']}."
    title = "Scores" if len(every) == 1 else f"Scores of {evaluation.system}"
    return [
        Section(f"{title}: hit rate", wide(hit_rate_chart(systems)), "A band is the 95 % interval of the mean."),
        Section(title, table(head, rows, range(1, len(head))), note),
    ]


def difference_section(compared: Comparison | None) -> Section | None:
    """What the second system has more."""
    if compared is None:
        return None
    rows = []
    for name, each in compared.differences.items():
        one, other = compared.means[name]
        bounds = f"[{each.interval.low:+.4f}, {each.interval.high:+.4f}]"
        counts = f"{each.won:,} / {each.lost:,} / {each.tied:,}"
        rows.append(
            [name, f"{one:.4f}", f"{other:.4f}", f"{each.interval.mean:+.4f}", bounds, f"{each.p_value:.4f}", counts]
        )
    head = ["metric", *compared.names, "difference", "95 % interval", "p", "won / lost / tied"]
    note = f"What {compared.names[1]} has more than {compared.names[0]}; p by a paired randomisation test."
    return Section("Differences", table(head, rows, range(1, len(head))), note)


def broken_down(evaluation: Evaluation, column: str) -> Section:
    """The scores by a column of the queries."""
    found = evaluation.result.by(evaluation.groups[column])
    rows = [
        [name, f"{number:,}", *(brief(scored, metric) for metric in SHOWN)]
        for name, (number, scored) in [*found.items()][:MOST_GROUPS]
    ]
    note = "" if len(found) <= MOST_GROUPS else f"The {MOST_GROUPS} largest of {len(found):,} groups."
    head = [column, "queries", *SHOWN]
    return Section(f"By {column}: {evaluation.system}", table(head, rows, range(1, len(head))), note)


def brief(scored: Scored, metric: str) -> str:
    """A mean and its interval, in few digits."""
    found = scored.intervals[metric]
    return f"{found.mean:.3f} [{found.low:.2f}, {found.high:.2f}]"


def worst_section(evaluation: Evaluation, rules: FetchRules | None) -> Section | None:
    """The queries with the lowest scores: what was found, and what should have been."""
    result = evaluation.result
    order = np.lexsort((result.scored.values[MRR], result.scored.values[NDCG]))
    step = max(1, int(np.count_nonzero(result.scored.values[NDCG] == 0)) // WORST)  # of many that found nothing, some
    worst = order[::step][:WORST].tolist()
    if not worst:
        return None
    should = {at: shown_relevant(evaluation, at) for at in worst}
    documents = [key for at in worst for key in (*result.ranked.ids[at][:FOUND], *should[at])]
    found = Shown.of(result.table, documents, rules)
    asked = Shown.of(evaluation.queries, [result.queries[at] for at in worst], rules)
    grades, blocks = evaluation.grades, []
    for at in worst:
        query, ids, scores = result.queries[at], result.ranked.ids[at], result.ranked.scores[at]
        place = {key: rank for rank, key in enumerate(ids, start=1)}
        cells = []
        for rank, (key, score) in enumerate(zip(ids[:FOUND], scores, strict=False), start=1):
            relevant = "✓ " if grades[query].get(key, 0) > 0 else ""
            cells.append(found.cell(key, [f"{relevant}{rank}. {score:.3f}"]))
        missed = [
            found.cell(key, [f"found at {place[key]}" if key in place else f"not among {len(ids)}"])
            for key in should[at]
        ]
        said = tag("div", tag("strong", "should have been found"), class_="asked")
        first = asked.cell(query, [f"{NDCG} {result.scored.values[NDCG][at]:.3f}"], is_asked=True)
        blocks += [tag("div", first, *cells, class_="near"), tag("div", said, *missed, class_="near")]
    note = f"The lowest {NDCG}. Left: the query. Right of it: the first {FOUND} results with their cosines."
    return Section(f"The worst queries of {evaluation.system}", tag("div", *blocks, class_="wide", tabindex="0"), note)


def shown_relevant(evaluation: Evaluation, at: int) -> list[str]:
    """Some documents that a query should have found, those first that were found latest or not at all."""
    result = evaluation.result
    grades, ids = evaluation.grades[result.queries[at]], result.ranked.ids[at]
    place = {key: rank for rank, key in enumerate(ids)}
    relevant = [key for key, grade in grades.items() if grade > 0]
    return sorted(relevant, key=lambda key: -place.get(key, len(ids)))[:SHOULD]


def as_json(evaluations: Sequence[Evaluation], compared: Comparison | None) -> str:
    """All figures as JSON."""
    found = [each.metrics() for each in evaluations]
    return json.dumps(found[0] if compared is None else {"systems": found, **compared.facts()}, ensure_ascii=False)
