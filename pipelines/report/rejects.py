"""Rejected records by reason, with examples: from `NAME_rejects`, of which a bounded number of rows is read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events import Counts
from pipelines.reasons import REASONS
from pipelines.records import Pictured
from pipelines.report.markup import Markup, joined, shortened, table, tag
from pipelines.report.page import Section
from pipelines.report.sections import picture
from pipelines.tables.dataset import open_dataset

SCANNED: Final = 200_000  # rows of NAME_rejects: some 40 MB
BATCH: Final = 8_192
EXAMPLES: Final = 3  # of each reason
REASONS_SHOWN: Final = 12  # with examples


@dataclass(frozen=True)
class Rejected:
    """What `NAME_rejects` has of a source."""

    earlier: Counter[str] = field(default_factory=Counter)  # by reason, those of earlier runs, in skipped files
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by reason, those of this run first
    complete: bool = True  # False if there are more rows than were read

    def add(self, rows: pa.Table, run: str, is_new: bool) -> None:
        """Count rows, and take some for examples: in place of those of earlier runs if they are of `run`."""
        for reason, number in zip(*pc.value_counts(rows["reason"].combine_chunks()).flatten(), strict=True):
            name = reason.as_py()
            self.earlier[name] += 0 if is_new else number.as_py()
            examples = self.examples.get(name, [])
            if len(examples) < EXAMPLES or (is_new and any(row["run"] != run for row in examples)):
                more = rows.filter(pc.equal(rows["reason"], reason)).slice(0, EXAMPLES).to_pylist()
                self.examples[name] = sorted(examples + more, key=lambda row: row["run"] != run)[:EXAMPLES]


def read_rejects(uri: str, run: str, skipped: Container[str], scanned: int = SCANNED) -> Rejected:
    """Count and choose examples from the first `scanned` rows of `NAME_rejects`.

    What counts are the rejects of `run`, and those that earlier runs found in the files that it `skipped`: others are
    of another source or, if the run failed, of earlier versions of files.
    """
    rejects, found, seen = open_dataset(uri), Rejected(), 0
    if rejects is None:
        return found
    for batch in rejects.scanner(batch_size=BATCH, batch_readahead=2).to_batches():
        rows = pa.Table.from_batches([batch])
        is_new = pc.fill_null(pc.equal(rows["run"], run), False)
        files = [name for name in pc.unique(rows["object"]).to_pylist() if name in skipped]
        is_skipped = pc.is_in(rows["object"], value_set=pa.array(files, pa.string()))
        found.add(rows.filter(is_new), run, True)
        found.add(rows.filter(pc.and_(is_skipped, pc.invert(is_new))), run, False)
        seen += len(batch)
        if seen >= scanned:
            break
    return dataclasses.replace(found, complete=seen >= rejects.count_rows())


def rejects_section(counts: Counts, found: Rejected, pictures: Sequence[Pictured]) -> Section | None:
    """The rejects by reason; None if there are none."""
    reasons = [name for name, _ in (counts.reasons + found.earlier).most_common()]
    if not reasons:
        return None
    at_least = "" if found.complete else "at least "
    rows = [
        [
            tag("code", name),
            REASONS[name].meaning if name in REASONS else "",
            f"{counts.reasons[name]:,}",
            f"{at_least}{found.earlier[name]:,}" if found.earlier[name] else "",
            ("each run" if REASONS[name].retryable else "when its file changes") if name in REASONS else "",
        ]
        for name in reasons
    ]
    head = ["reason", "meaning", "this run", "earlier runs", "tried again"]
    examples = [examples_of(name, found.examples.get(name, []), pictures) for name in reasons[:REASONS_SHOWN]]
    return Section(
        "Rejected records",
        joined([table(head, rows, numbers=(2, 3)), *examples]),
        "Each is in the table of rejects, with its reason. Everything else of the source is not affected by them.",
    )


def examples_of(reason: str, rows: Sequence[dict[str, Any]], pictures: Sequence[Pictured]) -> Markup | None:
    """A few records that were rejected for a reason."""
    if not rows:
        return None
    by_place = {(each.file, each.row, each.id): each.picture for each in pictures}
    cards = [
        tag(
            "div",
            picture(by_place.get((row["object"], row["row"], row["id"])), of="the rejected image"),
            tag(
                "div",
                tag("strong", shortened(row["id"], 80)) if row["id"] else None,
                tag("div", shortened(row["message"] or "")),
                tag("div", place(row), class_="faint"),
            ),
            class_="example",
        )
        for row in rows
    ]
    return joined([tag("h3", tag("code", reason)), tag("div", *cards, class_="examples")])


def place(row: dict[str, Any]) -> str:
    """Where a record is in the source; rows of a file count from 0."""
    number = "" if row["row"] is None else f", row {row['row']:,}"
    return f"{shortened(row['object'] or '', 160)}{number}"
