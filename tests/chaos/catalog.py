"""A fixed catalog with the troubles that catalogs have, what embedding it must give, and how to tell whether it did."""

from __future__ import annotations

import functools
import io
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.records import fingerprint
from pipelines.sample_catalog import COLOURS, SCHEMA, SHAPES, draw
from tests.s3 import S3
from vista_core import Encoder, EncoderSettings, Record

ROW_GROUPS = 2  # of a file: each is read by a worker of its own, and workers are slow to start
EVERY_IMAGE = 20  # so many rows to one with an image
BROKEN = b"no image"
SAME_TWICE, OTHERWISE_TWICE = "item-00007", "item-00011"  # ids of the first file that the last has, too
COSINE = 0.999

Row = dict  # in the columns of `SCHEMA`
Seen = tuple[bytes, str | None, float]  # fingerprint, text and price of a row of the table


@dataclass(frozen=True)
class Catalog:
    """Rows by file."""

    files: tuple[tuple[Row, ...], ...]

    @property
    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the files."""
        return itertools.chain.from_iterable(self.files)

    def store(self, s3: S3, folder: str) -> str:
        """Put the files into a folder of the bucket, and return its URI."""
        for number, rows in enumerate(self.files):
            s3.put(f"{folder}/part-{number}.parquet", parquet(rows))
        return s3.url(folder)


def parquet(rows: tuple[Row, ...]) -> bytes:
    """A Parquet file of several row groups."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), file, row_group_size=-(-len(rows) // ROW_GROUPS))
    return file.getvalue()


def catalog(files: int = 5, rows: int = 400) -> Catalog:
    """Texts, some with an image, of which some are broken; a record of nothing; two ids that two files have."""
    parts = [[row(part * rows + at) for at in range(rows)] for part in range(files)]
    parts[1][3] |= {"text": None, "image": None}
    same, otherwise = parts[0][7], parts[0][11]
    assert (same["id"], otherwise["id"]) == (SAME_TWICE, OTHERWISE_TWICE)
    parts[-1] += [dict(same), otherwise | {"text": "another text of the same id", "price": 1.5}]
    return Catalog(tuple(map(tuple, parts)))


def row(number: int) -> Row:
    """One record; each 20th has an image, and each tenth of those is broken."""
    shape, (one, other) = SHAPES[number % len(SHAPES)], pairs()[number % len(pairs())]
    image = draw(shape, one, other) if number % EVERY_IMAGE == 0 else None
    return {
        "id": f"item-{number:05d}",
        "text": f"number {number}: a {one} {shape} beside a {other} one",
        "image": BROKEN if number % (10 * EVERY_IMAGE) == EVERY_IMAGE else image,
        "price": float(number % 97),
        "shape": shape,
    }


@functools.cache
def pairs() -> list[tuple[str, str]]:
    """Two different colours."""
    return list(itertools.permutations(COLOURS, 2))


def changed(before: Catalog, chance: random.Random) -> Catalog:
    """A night later: one text in a hundred is another, a few prices too, a few images broke or were mended, a few rows
    are gone."""
    steady = {SAME_TWICE, OTHERWISE_TWICE}  # theirs may be either of two rows, which is enough

    def files() -> Iterator[tuple[Row, ...]]:
        for rows in before.files:
            kept = []
            for each in rows:
                what = chance.random()
                if each["id"] in steady or what > 0.02:
                    kept.append(each)
                elif what < 0.01:
                    kept.append(each | {"text": f"{each['id']} says {chance.getrandbits(32):08x}"})
                elif what < 0.014:
                    kept.append(each | {"price": each["price"] + 0.5})
                elif what < 0.017:
                    mended = draw("star", "red", "blue") if each["image"] == BROKEN else BROKEN
                    kept.append(each | {"image": mended})
            yield tuple(kept)

    return replace(before, files=tuple(files()))


@dataclass(frozen=True)
class Expected:
    """What a table must hold: by id the rows that it may be (two where two records have the id), and the rejects."""

    rows: dict[str, set[Seen]] = field(default_factory=dict)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)


def expected(now: Catalog, before: Expected | None = None) -> Expected:
    """What embedding `now` must give, over a table that held `before`: rows that are gone from the source stay."""
    rows: dict[str, set[Seen]] = {}
    rejects: Counter[tuple[str, str]] = Counter()
    for each in now.rows:
        if not each["text"] and each["image"] is None:
            rejects[each["id"], "empty_record"] += 1
        elif each["image"] == BROKEN:
            rejects[each["id"], "image_undecodable"] += 1
        else:
            if each["id"] in rows:
                rejects[each["id"], "duplicate_id"] += 1
            rows.setdefault(each["id"], set()).add(seen(each))
    bad = {key for key, _ in rejects} - rows.keys()
    stay = {key: value for key, value in (before.rows if before else {}).items() if key not in bad}
    return Expected(stay | rows, rejects)


def seen(each: Row) -> Seen:
    """A record as the table shows it; its vector is computed once, in this process, without Ray."""
    digest = fingerprint(each["text"], each["image"])
    if digest not in VECTORS:
        [VECTORS[digest]] = encoder().encode([Record(text=each["text"], image=each["image"])])
    return digest, each["text"], each["price"]


VECTORS: dict[bytes, np.ndarray] = {}  # by fingerprint


@functools.cache
def encoder() -> Encoder:
    """The encoder that the jobs of these tests use."""
    return Encoder.load(EncoderSettings(model="vista-tiny", device="cpu"))


def assert_same(db: str, name: str, wanted: Expected) -> None:
    """The table `db`/`name` as published, and its latest version, are what is expected: all of it, and nothing else."""
    assert_rows(db, name, wanted, "published")
    assert_rows(db, name, wanted, None)
    rejects = lance.dataset(f"{db}/{name}_rejects.lance").to_table(columns=["id", "reason"]).to_pylist()
    found = Counter((reject["id"], reject["reason"]) for reject in rejects)
    assert found == wanted.rejects, f"missing: {wanted.rejects - found}, too many: {found - wanted.rejects}"


def assert_rows(db: str, name: str, wanted: Expected, version: str | None) -> None:
    """One version of the table holds each id once, with the fingerprint, the text, the price and the vector of it."""
    columns = ["id", "vector_fingerprint", "text", "price", "vector"]
    table = lance.dataset(f"{db}/{name}.lance", version=version).to_table(columns=columns)
    ids, *others = (table[column].to_pylist() for column in columns[:4])
    twice = [key for key, times in Counter(ids).items() if times > 1]
    assert not twice, f"in the table more than once: {twice[:5]} and so on, {len(twice)} in all"
    missing, more = wanted.rows.keys() - set(ids), set(ids) - wanted.rows.keys()
    assert not missing and not more, f"missing: {first(missing)}, not expected: {first(more)}"
    rows = dict(zip(ids, zip(*others, strict=True), strict=True))
    wrong = {key for key, values in rows.items() if values not in wanted.rows[key]}
    assert not wrong, f"other content: {[(key, rows[key], wanted.rows[key]) for key in first(wrong)]}"
    stored = np.array(table["vector"].combine_chunks().flatten(), np.float32).reshape(len(ids), -1)
    meant = np.array([VECTORS[rows[key][0]] for key in ids])
    cosines = np.einsum("nd,nd->n", stored, meant) / np.linalg.norm(stored, axis=1) / np.linalg.norm(meant, axis=1)
    assert cosines.min() >= COSINE, f"{ids[int(cosines.argmin())]}: its vector is another record's ({cosines.min()})"


def first(keys: set[str]) -> list[str]:
    """A few, for a message."""
    return sorted(keys)[:3]
