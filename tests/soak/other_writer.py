"""Another client of the table: it appends and removes rows of its own, keeps a column of its own, and compacts."""

from __future__ import annotations

import random
import threading
from collections import Counter

import lance
import numpy as np
import pyarrow as pa

from pipelines.tables.transactions import is_conflict
from tests.soak.reader import EITHER, GUEST
from vista_core import Encoder, Record

COLUMN = "stock"  # which only the table has
PAUSE_SECONDS = (0.5, 4.0)
IMAGES = 20  # one record in so many has an image, which may break: then its row leaves, and the other column's value


class OtherWriter:
    """A thread that writes to the table of the soak, as any LanceDB client may."""

    def __init__(self, uri: str, encoder: Encoder, seed: int) -> None:
        self.uri, self.encoder, self.chance = uri, encoder, random.Random(seed)
        self.guests: dict[str, bool] = {}  # by id: whether it is there for sure
        self.stock: dict[str, tuple[bytes, int]] = {}  # by id: the fingerprint, and the value that was stored for it
        self.done, self.conflicts = Counter[str](), 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.write)

    def write(self) -> None:
        """Write until the soak ends."""
        while not self.ended.wait(self.chance.uniform(*PAUSE_SECONDS)):
            what = self.chance.choice(
                (self.append, self.append, self.remove, self.count, self.count, self.count, self.compact)
            )
            try:
                what(lance.dataset(self.uri))
                self.done[what.__name__] += 1
            except (OSError, ValueError, RuntimeError) as error:
                if not is_conflict(error) and "conflict" not in str(error).lower():
                    raise
                self.conflicts += 1

    def append(self, table: lance.LanceDataset) -> None:
        """A row that no source has."""
        key = f"{GUEST}{len(self.guests)}"
        self.guests[key] = False
        [vector] = self.encoder.encode([Record(text=key)])
        row = {"id": key, "text": key, "vector": np.asarray(vector, np.float16)}
        columns = [pa.array([row.get(each.name)], each.type) for each in table.schema]
        lance.write_dataset(pa.table(columns, schema=table.schema), self.uri, mode="append")
        self.guests[key] = True

    def remove(self, table: lance.LanceDataset) -> None:
        """Such a row goes again."""
        if there := [key for key, is_there in self.guests.items() if is_there]:
            key = self.chance.choice(there)
            self.guests[key] = False
            table.delete(f"id = '{key}'")

    def count(self, table: lance.LanceDataset) -> None:
        """Another value in the column that only the table has."""
        if COLUMN not in table.schema.names:
            table.add_columns(pa.field(COLUMN, pa.int64()))
            return
        rows = table.to_table(columns=["id", "vector_fingerprint"], filter="_object IS NOT NULL").to_pylist()
        row, value = self.chance.choice(rows), self.chance.randrange(1000)
        self.stock.pop(row["id"], None)  # until it is known to be stored
        table.update({COLUMN: str(value)}, where=f"id = '{row['id']}'")
        number = int(row["id"].rpartition("-")[2])
        if number % IMAGES and row["id"] not in EITHER:
            self.stock[row["id"]] = (row["vector_fingerprint"], value)

    def compact(self, table: lance.LanceDataset) -> None:
        """Merge small fragments."""
        table.optimize.compact_files()

    def faults(self) -> list[str]:
        """What is not as this client left it. Call it when the soak has ended."""
        table = lance.dataset(self.uri)
        rows = {row["id"]: row for row in table.to_table(columns=["id", "vector_fingerprint", COLUMN]).to_pylist()}
        found = [
            f"{key}, which another client wrote, is gone"
            for key, there in self.guests.items()
            if there and key not in rows
        ]
        for key, (fingerprint, value) in self.stock.items():
            row = rows.get(key)
            if row and row["vector_fingerprint"] == fingerprint and row[COLUMN] != value:
                found.append(f"{COLUMN} of {key} is {row[COLUMN]} instead of {value}")
        return found
