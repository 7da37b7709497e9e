"""What the table of a soak has to hold after a night."""

from __future__ import annotations

import lance
import numpy as np

from tests.chaos.catalog import COSINE, VECTORS, Expected
from tests.soak.reader import GUEST, digest


def whole(wanted: Expected) -> str:
    """The digest of a table that holds what is expected."""
    return digest((key, *next(iter(rows))) for key, rows in wanted.rows.items())


def check(uri: str, wanted: Expected) -> list[str]:
    """What is wrong with the published version, and with its vectors."""
    columns = ["id", "vector_fingerprint", "text", "price", "vector"]
    found = lance.dataset(uri, version="published").to_table(columns=columns).to_pylist()
    rows = {row["id"]: row for row in found if not row["id"].startswith(GUEST)}
    faults = [f"{key} is missing" for key in wanted.rows.keys() - rows.keys()]
    faults += [f"{key} is in the table, and not in the catalog" for key in rows.keys() - wanted.rows.keys()]
    for key in rows.keys() & wanted.rows.keys():
        row = rows[key]
        if (row["vector_fingerprint"], row["text"], row["price"]) not in wanted.rows[key]:
            faults.append(f"{key} is {row['text']!r}, {row['price']}: not what the catalog has")
            continue
        stored, reference = np.array(row["vector"], np.float32), VECTORS[row["vector_fingerprint"]]
        if stored @ reference / np.linalg.norm(stored) / np.linalg.norm(reference) < COSINE:
            faults.append(f"{key} has a wrong vector")
    return faults
