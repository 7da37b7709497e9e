"""Two evaluations of one task, compared query by query."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from pipelines.evaluate.config import CompareConfig
from pipelines.evaluate.output import SHOWN, Written
from pipelines.quality.intervals import Difference, difference
from pipelines.quality.metrics import NDCG
from pipelines.report.markup import shortened
from pipelines.storage.uris import absolute
from pipelines.terminal import one_line
from vista_core import UsageError

JUDGED_BY: Final = NDCG  # by which queries are won and lost most


@dataclass(frozen=True)
class Comparison:
    """By how much the second of two systems is better, on queries that both have."""

    names: tuple[str, str]
    means: Mapping[str, tuple[float, float]]
    differences: Mapping[str, Difference]
    changes: Sequence[tuple[str, float, float]]  # queries with the metric of both, the most gained first
    left_out: int  # queries that only one of them has
    texts: Mapping[str, str] = field(default_factory=dict)  # of queries, as far as they have some
    as_json: bool = False
    show: int = 10

    @classmethod
    def of(
        cls, names: tuple[str, str], first: Mapping[str, dict[str, float]], second: Mapping[str, dict[str, float]]
    ) -> Comparison:
        """Compare two systems: by query, its score by metric. Raises UsageError without a common query."""
        common = [query for query in first if query in second]
        if not common:
            raise UsageError(f"{names[0]} and {names[1]} have no query in common")
        means, differences = {}, {}
        for metric in first[common[0]]:
            one = np.array([first[query][metric] for query in common])
            other = np.array([second[query][metric] for query in common])
            means[metric] = (float(one.mean()), float(other.mean()))
            differences[metric] = difference(one, other)
        pairs = [(query, first[query][JUDGED_BY], second[query][JUDGED_BY]) for query in common]
        changes = sorted(pairs, key=lambda each: each[1] - each[2])
        return cls(names, means, differences, changes, len(first.keys() ^ second.keys()))

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "first": self.names[0],
            "second": self.names[1],
            "differences": {
                name: {
                    "first": self.means[name][0],
                    "second": self.means[name][1],
                    "difference": each.interval.mean,
                    "interval": [each.interval.low, each.interval.high],
                    "p_value": each.p_value,
                    "won": each.won,
                    "lost": each.lost,
                    "tied": each.tied,
                }
                for name, each in self.differences.items()
            },
            "queries_of_one_only": self.left_out,
        }

    def __str__(self) -> str:
        """The differences, and the queries that changed most."""
        if self.as_json:
            return json.dumps(self.facts(), indent=1)
        lines = [f"{self.names[1]} beside {self.names[0]}, {len(self.changes):,} queries"]
        lines.append(f"{'':12}{'first':>8}{'second':>8}{'difference':>12}  95 % interval      p        won/lost/tied")
        for name in SHOWN:
            one, other = self.means[name]
            each = self.differences[name]
            bounds = f"[{each.interval.low:+.4f}, {each.interval.high:+.4f}]"
            lines.append(
                f"{name:12}{one:8.4f}{other:8.4f}{each.interval.mean:+12.4f}  {bounds} {each.p_value:7.4f}  "
                f"{each.won:,}/{each.lost:,}/{each.tied:,}"
            )
        if self.left_out:
            lines.append(f"{self.left_out:,} queries are of one evaluation only, and are left out")
        won = [each for each in self.changes[: self.show] if each[2] > each[1]]
        lost = [each for each in self.changes[::-1][: self.show] if each[2] < each[1]]
        for title, changed in (("won most", won), ("lost most", lost)):
            if changed:
                lines.append(f"{title}, by {JUDGED_BY}:")
                for query, before, after in changed:
                    text = shortened(one_line(self.texts.get(query, "")), 70)
                    lines.append(f"  {before:.3f} -> {after:.3f}  {query}  {text}".rstrip())
        return "\n".join(lines)


def compare(config: CompareConfig) -> Comparison:
    """Compare two outputs. Raises UsageError if one is none, or if they are of different judgements."""
    first, second = (Written.read(absolute(each).rstrip("/")) for each in (config.first, config.second))
    if first.judgements != second.judgements:
        raise UsageError(
            f"{config.first} and {config.second} rest on different judgements. Evaluate both on the same task"
        )
    names = (f"{config.first} ({first.metrics['system']})", f"{config.second} ({second.metrics['system']})")
    found = Comparison.of(names, by_query(first), by_query(second))
    return replace(found, texts=first.texts, as_json=config.json, show=config.show)


def by_query(written: Written) -> dict[str, dict[str, float]]:
    """The scores of each query, by metric."""
    return {
        query: {name: float(values[at]) for name, values in written.values.items()}
        for at, query in enumerate(written.queries)
    }
