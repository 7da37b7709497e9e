"""Tables of clustered vectors that another client made, and what searches find in them."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipelines.index.choose import Choice
from pipelines.index.config import IndexConfig
from pipelines.tables.dataset import open_dataset

DIMENSION = 32
CHOICE = Choice("IVF_RQ", "as the test says", partitions=4, bits=5, sample_rate=64, segment_rows=800)


def vectors(rows: int, seed: int = 0, clusters: int = 12) -> np.ndarray:
    """float32 [rows, 32] around some centres."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((clusters, DIMENSION))
    found = centres[random.integers(0, clusters, rows)] + 0.4 * random.standard_normal((rows, DIMENSION))
    return found.astype(np.float32)


def rows_of(values: np.ndarray, first: int = 0) -> pa.Table:
    """Rows with these vectors."""
    numbers = range(first, first + len(values))
    return pa.table(
        {
            "sku": pa.array([f"sku-{number:06}" for number in numbers]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), DIMENSION),
            "title": pa.array([f"lamp number {number}" for number in numbers]),
        }
    )


def foreign_table(db: Path | str, rows: int = 2_400, fragments: int = 6) -> str:
    """The URI of a table `t` in so many fragments."""
    uri = f"{db}/t.lance"
    lance.write_dataset(rows_of(vectors(rows)), uri, max_rows_per_file=rows // fragments, data_storage_version="2.1")
    return uri


def config(db: Path | str, **options) -> IndexConfig:
    return IndexConfig(str(db), "t", **options)


def names(uri: str) -> dict[str, str]:
    """The indexes of the latest version: name to type."""
    return {index.name: index.index_type for index in lance.dataset(uri).describe_indices()}


def nearest(table: lance.LanceDataset, query: np.ndarray, k: int = 10, **options) -> list[str]:
    """The keys of the nearest rows."""
    search = {"column": "embedding", "q": query, "k": k, "metric": "cosine", **options}
    return table.to_table(["sku", "_distance"], nearest=search)["sku"].to_pylist()


def tables_in(db: Path | str) -> set[str]:
    """The tables of a local database."""
    return {path.stem for path in Path(db).iterdir() if open_dataset(str(path)) is not None}
