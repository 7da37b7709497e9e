"""A process that reads and searches what is published, over and over, and says what it saw that it should not see.

    python -m tests.soak.reader DB TABLE FOLDER NUMBER

FOLDER/whole has a line for each state of the catalog: the digest of a table that holds it. The process ends when there
is a file FOLDER/end, and keeps its figures in FOLDER/reader-NUMBER.json.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lance

from pipelines.search.searcher import Searcher
from pipelines.storage.errors import says_not_found
from tests.chaos.catalog import OTHER_CONTENT_TWICE, SAME_CONTENT_TWICE

GUEST = "guest-"  # the ids of rows that other clients write begin so
EITHER = {SAME_CONTENT_TWICE, OTHER_CONTENT_TWICE}  # ids of two records: either may be in the table
COLUMNS = ["id", "vector_fingerprint", "text", "price"]
PAUSE_SECONDS = 0.5  # readers are to be there, not to take the machine
RESULTS = 5


@dataclass
class Seen:
    """What a reader saw."""

    reads: int = 0
    searches: int = 0
    versions: int = 0  # different ones that were published
    removed: int = 0  # versions that upkeep removed while they were read, long after others had been published
    faults: list[str] = field(default_factory=list)


def digest(rows: Iterable[tuple[str, bytes, str | None, float]]) -> str:
    """Stands for the rows (id, fingerprint, text, price) of the catalog in a table."""
    kept = sorted(repr(row) for row in rows if row[0] not in EITHER and not row[0].startswith(GUEST))
    return hashlib.blake2b("\n".join(kept).encode(), digest_size=16).hexdigest()


def main(db: str, name: str, folder: Path, number: str) -> None:
    """Read and search until told to end."""
    seen, chance, versions = Seen(), random.Random(number), set[int]()
    searcher: Searcher | None = None
    while not (folder / "end").exists():
        try:
            table = lance.dataset(f"{db}/{name}.lance", version="published")
            versions.add(table.version)
            rows = rows_of(table)
            seen.reads += 1
            if digest(rows) not in (folder / "whole").read_text().split():
                seen.faults.append(f"version {table.version} is no state of the catalog")
            seen.faults += twice("published", rows)
            seen.faults += twice("latest", rows_of(lance.dataset(table.uri)))
            searcher = searcher.refreshed() if searcher else Searcher.open(db, name, version="published")
            seen.faults += search(searcher, chance)
            seen.searches += 1
        except (OSError, ValueError) as error:
            if says_not_found(error):
                seen.removed += 1
            else:
                seen.faults.append(f"{type(error).__name__}: {error}"[:500])
        seen.versions = len(versions)
        beside = folder / f"reader-{number}.new"
        beside.write_text(json.dumps(asdict(seen)))
        beside.replace(folder / f"reader-{number}.json")
        time.sleep(PAUSE_SECONDS)


def rows_of(table: lance.LanceDataset) -> list[tuple]:
    """The rows of a version, as `digest` takes them."""
    found = table.to_table(columns=COLUMNS)
    return list(zip(*(found[column].to_pylist() for column in COLUMNS), strict=True))


def twice(which: str, rows: list[tuple]) -> list[str]:
    """The ids that a version has more than once."""
    return [
        f"{which}: the id {key} {times} times" for key, times in Counter(row[0] for row in rows).items() if times > 1
    ]


def search(searcher: Searcher, chance: random.Random) -> list[str]:
    """Search a text of the table, and say what is wrong with what was found."""
    number = chance.randrange(1000)
    found = searcher.search(text=f"number {number}: a red circle", k=RESULTS).to_pydict()
    scores = found["score"]
    if len(set(found["id"])) != RESULTS:
        return [f"a search found the ids {found['id']}"]
    return [] if scores == sorted(scores, reverse=True) else [f"a search found the scores {scores}"]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
