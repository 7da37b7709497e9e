"""A fixed catalog with the usual defects, the result that embedding it must give, and the checks of that result."""

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

from pipelines.fingerprint import fingerprint
from pipelines.sample_catalog import COLOURS, SCHEMA, SHAPES, draw
from tests.s3 import S3
from vista_core import Encoder, EncoderSettings, Record

ROW_GROUPS = 2  # per file; few, because each is read by a separate worker and workers are slow to start
EVERY_IMAGE = 20  # one row in 20 has an image
BROKEN = b"no image"
# The last file repeats two ids of the first file: one with the same content, one with other content.
SAME_CONTENT_TWICE, OTHER_CONTENT_TWICE = "item-00007", "item-00011"
COSINE = 0.999

Row = dict  # one record, with the columns of `SCHEMA`
Seen = tuple[bytes, str | None, float]  # a table row's fingerprint, text and price


@dataclass(frozen=True)
class Catalog:
    """The rows of each file."""

    files: tuple[tuple[Row, ...], ...]

    @property
    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the files."""
        return itertools.chain.from_iterable(self.files)

    def store(self, s3: S3, folder: str) -> str:
        """Write the files to a folder of the bucket and return its URI."""
        for number, rows in enumerate(self.files):
            s3.put(f"{folder}/part-{number}.parquet", parquet(rows))
        return s3.url(folder)


def parquet(rows: tuple[Row, ...]) -> bytes:
    """A Parquet file of several row groups."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), file, row_group_size=-(-len(rows) // ROW_GROUPS))
    return file.getvalue()


def catalog(files: int = 5, rows: int = 400) -> Catalog:
    """Texts, some with an image, of which some are broken; one empty record; two ids that occur in two files."""
    parts = [[row(part * rows + at) for at in range(rows)] for part in range(files)]
    parts[1][3] |= {"text": None, "image": None}
    same, other = parts[0][7], parts[0][11]
    assert (same["id"], other["id"]) == (SAME_CONTENT_TWICE, OTHER_CONTENT_TWICE)
    parts[-1] += [dict(same), other | {"text": "another text of the same id", "price": 1.5}]
    return Catalog(tuple(map(tuple, parts)))


def row(number: int) -> Row:
    """One record. Every 20th record has an image, and every tenth image is broken."""
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
    """All pairs of two different colours."""
    return list(itertools.permutations(COLOURS, 2))


def changed(before: Catalog, chance: random.Random) -> Catalog:
    """The catalog of the next night: 1 % of the texts changed, and a few prices; a few rows are gone.

    A few images broke, and so many were repaired that those that are broken stay about 2 %, however many nights pass:
    beyond 5 % the job would refuse to publish.
    """
    steady = {SAME_CONTENT_TWICE, OTHER_CONTENT_TWICE}  # unchanged, to keep the expected result simple

    def files() -> Iterator[tuple[Row, ...]]:
        for rows in before.files:
            kept = []
            for each in rows:
                what = chance.random()
                if each["id"] in steady:
                    kept.append(each)
                elif each["image"] == BROKEN and what < 0.15:
                    kept.append(each | {"image": draw("star", "red", "blue")})
                elif what > 0.02:
                    kept.append(each)
                elif what < 0.01:
                    kept.append(each | {"text": f"{each['id']} says {chance.getrandbits(32):08x}"})
                elif what < 0.014:
                    kept.append(each | {"price": each["price"] + 0.5})
                elif what < 0.017:
                    kept.append(each | {"image": BROKEN})
            yield tuple(kept)

    return replace(before, files=tuple(files()))


@dataclass(frozen=True)
class Expected:
    """What a table must hold: for each id the allowed rows (two where two records share it), and the rejects."""

    rows: dict[str, set[Seen]] = field(default_factory=dict)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)


def expected(now: Catalog, before: Expected | None = None) -> Expected:
    """The result of embedding `now` into a table that held `before`. Rows that are gone from the source stay."""
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
    """How the table stores a record. Its vector is computed once, in this process and without Ray."""
    digest = fingerprint(each["text"], each["image"])
    if digest not in VECTORS:
        [VECTORS[digest]] = encoder().encode([Record(text=each["text"], image=each["image"])])
    return digest, each["text"], each["price"]


VECTORS: dict[bytes, np.ndarray] = {}  # by fingerprint


@functools.cache
def encoder() -> Encoder:
    """The encoder that the jobs in these tests use."""
    return Encoder.load(EncoderSettings(model="vista-tiny", device="cpu"))


def assert_same(db: str, name: str, wanted: Expected) -> None:
    """The published and the latest version of `db`/`name` hold exactly the expected rows, and its rejects match."""
    assert_rows(db, name, wanted, "published")
    assert_rows(db, name, wanted, None)
    rejects = lance.dataset(f"{db}/{name}_rejects.lance").to_table(columns=["id", "reason"]).to_pylist()
    found = Counter((reject["id"], reject["reason"]) for reject in rejects)
    assert found == wanted.rejects, f"missing: {wanted.rejects - found}, too many: {found - wanted.rejects}"


def assert_rows(db: str, name: str, wanted: Expected, version: str | None) -> None:
    """One version of the table holds each id once, with the expected fingerprint, text, price and vector."""
    columns = ["id", "vector_fingerprint", "text", "price", "vector"]
    table = lance.dataset(f"{db}/{name}.lance", version=version).to_table(columns=columns)
    ids, *others = (table[column].to_pylist() for column in columns[:4])
    twice = [key for key, times in Counter(ids).items() if times > 1]
    assert not twice, f"{len(twice)} ids are in the table more than once, such as {twice[:5]}"
    missing, extra = wanted.rows.keys() - set(ids), set(ids) - wanted.rows.keys()
    assert not missing and not extra, f"missing: {first(missing)}, not expected: {first(extra)}"
    rows = dict(zip(ids, zip(*others, strict=True), strict=True))
    wrong = {key for key, values in rows.items() if values not in wanted.rows[key]}
    assert not wrong, f"other content: {[(key, rows[key], wanted.rows[key]) for key in first(wrong)]}"
    stored = np.array(table["vector"].combine_chunks().flatten(), np.float32).reshape(len(ids), -1)
    reference = np.array([VECTORS[rows[key][0]] for key in ids])
    cosines = (
        np.einsum("nd,nd->n", stored, reference) / np.linalg.norm(stored, axis=1) / np.linalg.norm(reference, axis=1)
    )
    assert cosines.min() >= COSINE, f"{ids[int(cosines.argmin())]} has a wrong vector (cosine {cosines.min()})"


def first(keys: set[str]) -> list[str]:
    """A few keys, for an error message."""
    return sorted(keys)[:3]
