"""A catalog that changes from night to night, and what a table that embeds it has to hold."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

FILES = ("a.parquet", "b.parquet", "c.parquet", "d.parquet")  # in the order of a listing
GROUP_ROWS = 6
SECONDS_OF_A_NIGHT = 10  # by which the files of a night are newer than those of the night before


class Record(NamedTuple):
    """A record of a file; without a text there is nothing to embed."""

    id: str
    text: str | None
    price: float


class Row(NamedTuple):
    """What readers see of a record."""

    text: str
    price: float
    file: str


@dataclass(frozen=True)
class Corpus:
    """The records of each file at one night; a file without records does not exist."""

    night: int
    files: dict[str, tuple[Record, ...]]

    def write(self, folder: Path) -> None:
        """Make the files of `folder` those of this night. Files that did not change keep their version."""
        for name in FILES:
            path, records = folder / name, self.files.get(name, ())
            if not records:
                path.unlink(missing_ok=True)
                continue
            table = pa.table(
                {column: [getattr(each, column) for each in records] for column in Record._fields}, schema=SCHEMA
            )
            beside = folder.parent / name
            pq.write_table(table, beside, row_group_size=GROUP_ROWS)
            if path.exists() and path.read_bytes() == beside.read_bytes():
                continue
            os.utime(beside, (self.night * SECONDS_OF_A_NIGHT,) * 2)
            beside.replace(path)

    @property
    def rows(self) -> dict[str, Row]:
        """By id the rows that a table has to hold: of records with one id that of the first file."""
        found: dict[str, Row] = {}
        for name in FILES:
            for each in self.files.get(name, ()):
                if each.text is not None and each.id not in found:
                    found[each.id] = Row(each.text, each.price, name)
        return found

    @property
    def rejects(self) -> Counter[tuple[str, str]]:
        """The rejects, as id and reason."""
        found: Counter[tuple[str, str]] = Counter()
        owners = set[str]()
        for name in FILES:
            for each in self.files.get(name, ()):
                if each.text is None:
                    found[each.id, "empty_record"] += 1
                elif each.id in owners:
                    found[each.id, "duplicate_id"] += 1
                owners |= {each.id} if each.text is not None else set()
        return found


SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("price", pa.float64())])


@dataclass
class Author:
    """Writes and changes the catalog, by chance."""

    chance: random.Random
    ids: int = 0
    texts: int = 0
    changes: Counter[str] = field(default_factory=Counter)  # of the night

    def first(self) -> Corpus:
        """The catalog of the first night."""
        names = self.chance.sample(FILES, self.chance.randint(2, len(FILES)))
        return Corpus(1, {name: tuple(self.new() for _ in range(self.chance.randint(3, 16))) for name in names})

    def new(self) -> Record:
        """A record with an id that nobody has."""
        self.ids += 1
        return Record(f"item-{self.ids:04d}", self.text(), float(self.chance.randint(1, 99)))

    def text(self) -> str:
        """A text; some are those of other records, too."""
        self.texts += self.chance.random() < 0.9
        return f"lamp number {self.texts} of oak and brass"

    def next(self, before: Corpus) -> Corpus:
        """The catalog of the next night."""
        self.changes.clear()
        files = {name: list(before.files.get(name, ())) for name in FILES}
        for _ in range(self.chance.randint(0, 14)):
            change = self.chance.choice(CHANGES)
            if change(self, files):
                self.changes[change.__name__] += 1
        if not any(each.text for records in files.values() for each in records):
            files[FILES[0]].append(self.new())
        return Corpus(before.night + 1, {name: tuple(records) for name, records in files.items() if records})

    def any_place(self, files: dict[str, list[Record]]) -> tuple[str, int] | None:
        """Where a record is."""
        places = [(name, at) for name, records in files.items() for at in range(len(records))]
        return self.chance.choice(places) if places else None


Files = dict[str, list[Record]]


def added(author: Author, files: Files) -> bool:
    """A new record."""
    files[author.chance.choice(FILES)].append(author.new())
    return True


def reworded(author: Author, files: Files) -> bool:
    """Another text, or one again for a record that had none."""
    if place := author.any_place(files):
        name, at = place
        files[name][at] = files[name][at]._replace(text=author.text())
    return place is not None


def repriced(author: Author, files: Files) -> bool:
    """Another price, which is no reason to embed anything."""
    if place := author.any_place(files):
        name, at = place
        files[name][at] = files[name][at]._replace(price=files[name][at].price + 0.5)
    return place is not None


def emptied(author: Author, files: Files) -> bool:
    """Nothing is left to embed."""
    if place := author.any_place(files):
        name, at = place
        files[name][at] = files[name][at]._replace(text=None)
    return place is not None


def deleted(author: Author, files: Files) -> bool:
    """The record is gone."""
    if place := author.any_place(files):
        del files[place[0]][place[1]]
    return place is not None


def moved(author: Author, files: Files) -> bool:
    """The record is in another file."""
    return passed_on(author, files, keep=False)


def doubled(author: Author, files: Files) -> bool:
    """A second record has the id, with its own text or the same."""
    return passed_on(author, files, keep=True)


def passed_on(author: Author, files: Files, keep: bool) -> bool:
    """Put a record into another file, unless that has one with its id."""
    if (place := author.any_place(files)) is None:
        return False
    name, at = place
    record, other = files[name][at], author.chance.choice([each for each in FILES if each != name])
    if any(each.id == record.id for each in files[other]):
        return False
    if not keep:
        del files[name][at]
    elif author.chance.random() < 0.5:
        record = record._replace(text=author.text())
    files[other].insert(author.chance.randint(0, len(files[other])), record)
    return True


def file_gone(author: Author, files: Files) -> bool:
    """A whole file is gone."""
    if author.chance.random() < 0.7:
        return False
    files[author.chance.choice(FILES)].clear()
    return True


CHANGES = (added, added, reworded, reworded, reworded, repriced, emptied, deleted, moved, moved, doubled, file_gone)
