"""The sample of rows with their nearest neighbours, on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.records import ID, OBJECT, TEXT
from pipelines.report.markup import Markup, joined, shortened, tag
from pipelines.report.neighbours import Sample
from pipelines.report.page import Section
from pipelines.report.sections import picture


def sample_section(sample: Sample, pictures: Mapping[str, bytes]) -> Section | None:
    """Rows with their neighbours and the cosines; None if the table has none."""
    if not sample.rows:
        return None
    rows = [
        tag(
            "div",
            cell(sampled.row, pictures, None),
            *(cell(near.row, pictures, near.cosine) for near in sampled.neighbours),
            class_="near",
        )
        for sampled in sample.rows
    ]
    note = f"Left: a row. Right of it: those with the most similar vectors, with their cosines, among {sample.among}."
    return Section("A sample, with nearest neighbours", tag("div", *rows, class_="wide", tabindex="0"), note)


def cell(row: Mapping[str, Any], pictures: Mapping[str, bytes], cosine: float | None) -> Markup:
    """A row of the table: its picture, id and text."""
    text = row.get(TEXT)
    lines = [
        picture(pictures.get(row[ID]), of="") if row.get("modality") != "text" or row[ID] in pictures else None,
        tag("div", f"{cosine:.3f}", class_="score") if cosine is not None else None,
        tag("div", tag("strong", shortened(row[ID], 60))),
        tag("div", shortened(text, 140)) if text else None,
    ]
    return tag("div", joined(lines), class_="asked" if cosine is None else None, title=shortened(row.get(OBJECT) or ""))
