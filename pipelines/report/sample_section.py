"""The sample of rows with their nearest neighbours, on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.records import ID, MODALITY, OBJECT, TEXT
from pipelines.report.markup import Markup, joined, shortened, tag
from pipelines.report.neighbours import Sample
from pipelines.report.page import Section
from pipelines.report.sections import picture_of_row


def sample_section(sample: Sample, pictures: Mapping[str, bytes]) -> Section | None:
    """Rows with their neighbours and the cosines; None if the table has none."""
    if not sample.rows:
        return None
    pictures = {key: pictures[key] for key in sample.ids if key in pictures}
    rows = [
        tag(
            "div",
            cell(sampled.row, None, pictures),
            *(cell(near.row, near.cosine, pictures) for near in sampled.neighbours),
            class_="near",
        )
        for sampled in sample.rows
    ]
    note = f"Left: a row. Right of it: those with the most similar vectors, with their cosines, among {sample.among}."
    if any(key not in pictures for key in with_image(sample)):
        note += " Pictures are shown of images that the table stores (--store-images), or that it names by URI."
    return Section("A sample, with nearest neighbours", tag("div", *rows, class_="wide", tabindex="0"), note)


def with_image(sample: Sample) -> Iterator[str]:
    """The ids of the rows that have an image."""
    for sampled in sample.rows:
        for row in (sampled.row, *(near.row for near in sampled.neighbours)):
            if row.get(MODALITY) != "text":
                yield row[ID]


def cell(row: Mapping[str, Any], cosine: float | None, pictures: Mapping[str, bytes]) -> Markup:
    """A row of the table: its picture, id and text."""
    text = row.get(TEXT)
    lines = [
        picture_of_row(pictures, row[ID], row),
        tag("div", f"{cosine:.3f}", class_="score") if cosine is not None else None,
        tag("div", tag("strong", shortened(row[ID], 60))),
        tag("div", shortened(text, 140)) if text else None,
    ]
    return tag("div", joined(lines), class_="asked" if cosine is None else None, title=shortened(row.get(OBJECT) or ""))
