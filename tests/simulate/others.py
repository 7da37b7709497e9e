"""The other processes of the simulated world: readers of the table, and clients that write to it as they like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import lance
import numpy as np
import pyarrow as pa

from pipelines.tables.transactions import is_conflict
from tests.simulate.compute import vector_of_text
from tests.simulate.driver import DB, TABLE, Channel, Order, become

URI = f"{DB}/{TABLE}.lance"
GUEST = "guest-"  # the ids of rows that other clients write begin so
WRONG = 1e-2  # a coordinate of a float16 vector that differs by more belongs to another text


def read(order: Order, line: Channel, _: Channel) -> None:
    """Look at versions of the table when asked to, until the world ends."""
    become(order)
    while True:
        asked = line.hear()
        match asked["look"]:
            case "rejects" | "runs" as side:
                columns = {"rejects": ["id", "reason"], "runs": ["status"]}[side]
                rows = lance.dataset(f"{DB}/{TABLE}_{side}.lance").to_table(columns=columns)
                line.say(rows=list(zip(*(rows[each].to_pylist() for each in columns), strict=True)))
            case version:
                line.say(**look(lance.dataset(URI, version=version)))


def look(table: lance.LanceDataset) -> dict:
    """The rows of a version, and what is wrong with them whatever the catalog."""
    found = table.to_table(columns=["id", "text", "price", "_object", "vector"])
    rows = list(zip(*(found[name].to_pylist() for name in ("id", "text", "price", "_object")), strict=True))
    faults = [f"the id {key} {times} times" for key, times in Counter(row[0] for row in rows).items() if times > 1]
    for row, vector in zip(rows, found["vector"].to_pylist(), strict=True):
        if vector is None:
            faults.append(f"no vector for {row[0]}")
        elif np.abs(np.array(vector, np.float32) - vector_of_text(row[1], len(vector))).max() > WRONG:
            faults.append(f"the vector of {row[0]} is not that of its text {row[1]!r}")
    return {"rows": rows, "faults": faults}


def meddle(order: Order, line: Channel, _: Channel) -> None:
    """Write to the table when asked to, until the world ends."""
    become(order)
    while True:
        asked = line.hear()
        try:
            MEDDLING[asked["do"]](lance.dataset(URI), asked["id"])
        except (OSError, ValueError, RuntimeError) as error:  # such a client may lose against a run
            line.say(done=False, conflict=is_conflict(error), message=str(error))
        else:
            line.say(done=True)


def append(table: lance.LanceDataset, key: str) -> None:
    """A row that no catalog has."""
    dimension, text = table.schema.field("vector").type.list_size, f"made by hand: {key}"
    row = {"id": key, "text": text, "vector": vector_of_text(text, dimension).astype(np.float16)}
    columns = [pa.array([row.get(each.name)], each.type) for each in table.schema]
    lance.write_dataset(pa.table(columns, schema=table.schema), table.uri, mode="append")


def delete(table: lance.LanceDataset, key: str) -> None:
    """Remove a row, whoever wrote it."""
    table.delete(f"id = '{key}'")


def compact(table: lance.LanceDataset, _: str) -> None:
    """Merge all fragments."""
    table.optimize.compact_files()


MEDDLING: dict[str, Callable[[lance.LanceDataset, str], None]] = {
    "append": append,
    "delete": delete,
    "compact": compact,
}
