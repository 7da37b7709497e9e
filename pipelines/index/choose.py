"""Which vector index suits a column, as a pure function of a few figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipelines.index.config import Kind
from vista_core import UsageError

# Below so many bytes of vectors (as float16) an exact search reads them all at once, faster than it looks at an index.
EXACT_ON_DISK: Final = 32 << 20
EXACT_ON_A_STORE: Final = 8 << 20
# Rows of a partition that Lance's own upkeep aims at: it merges partitions of less than a quarter, and splits those of
# more than four times as many. Other numbers would be undone by the first night.
PARTITION_ROWS: Final[dict[Kind, int]] = {"IVF_RQ": 4_096, "IVF_PQ": 8_192, "IVF_HNSW_SQ": 1 << 20}
FEWEST_ROWS: Final = 256  # quantizers are trained on as many
RQ_ALIGNMENT: Final = 8  # RQ takes dimensions that are divisible by this
TRAINING_BYTES: Final = 1 << 30  # of the rows, as float32, by which partitions are found
SAMPLE_RATE: Final = 256  # rows for each partition
SEGMENT_ROWS: Final = 262_144  # that a worker indexes at once, at least; what a kill can cost


@dataclass(frozen=True)
class Vectors:
    """What the choice depends on."""

    rows: int
    dimension: int
    on_a_store: bool  # an object store instead of a disk
    metric: str = "cosine"

    def __str__(self) -> str:
        """For reasons."""
        place = "on an object store" if self.on_a_store else "on a disk"
        return f"{self.rows:,} rows of dimension {self.dimension} {place}"


@dataclass(frozen=True)
class Choice:
    """A vector index to be built; without a kind there is to be none, and searches are exact."""

    kind: Kind | None
    reason: str
    partitions: int = 0
    bits: int = 0  # for each dimension; of RQ only
    sub_vectors: int = 0  # of PQ only
    sample_rate: int = SAMPLE_RATE
    segment_rows: int = SEGMENT_ROWS

    def __str__(self) -> str:
        """The index, and why it is chosen."""
        if self.kind is None:
            return f"no vector index, searches are exact: {self.reason}"
        bits = f" of {self.bits} bit{'s' if self.bits > 1 else ''}" if self.bits else ""
        return f"{self.kind}{bits}, {self.partitions:,} partitions: {self.reason}"


def choose(vectors: Vectors, kind: str = "auto") -> Choice:
    """The index for a column. A `kind` other than auto is taken. Raises UsageError if that can't be built."""
    few = EXACT_ON_A_STORE if vectors.on_a_store else EXACT_ON_DISK
    if kind == "auto" and (2 * vectors.rows * vectors.dimension <= few or vectors.rows < FEWEST_ROWS):
        return Choice(None, f"{vectors} are read at once")
    if vectors.rows < FEWEST_ROWS:
        raise UsageError(f"--kind {kind}: {vectors}; an index needs {FEWEST_ROWS} rows, and searches are exact without")
    if kind == "IVF_PQ":
        return built("IVF_PQ", vectors, "as --kind says")
    if kind == "IVF_HNSW_SQ":
        return built("IVF_HNSW_SQ", vectors, "as --kind says")
    if vectors.dimension % RQ_ALIGNMENT:
        if kind == "IVF_RQ":
            raise UsageError(
                f"--kind IVF_RQ: it takes dimensions that are divisible by {RQ_ALIGNMENT}, not {vectors.dimension}: "
                "--kind IVF_HNSW_SQ takes any"
            )
        return built("IVF_HNSW_SQ", vectors, f"{vectors}, and IVF_RQ needs a multiple of {RQ_ALIGNMENT}")
    if vectors.on_a_store:
        return built("IVF_RQ", vectors, f"{vectors}, where raw vectors are dear to read: many bits need few of them")
    return built("IVF_RQ", vectors, f"{vectors}, where raw vectors are cheap to read and refine what few bits found")


def built(kind: Kind, vectors: Vectors, reason: str) -> Choice:
    """An index of a kind, with the sizes that suit the column."""
    partitions = max(1, vectors.rows // PARTITION_ROWS[kind])
    affordable = TRAINING_BYTES // (4 * vectors.dimension * partitions)
    return Choice(
        kind=kind,
        reason=reason,
        partitions=partitions,
        bits=bits(vectors) if kind == "IVF_RQ" else 0,
        sub_vectors=sub_vectors(vectors.dimension) if kind == "IVF_PQ" else 0,
        sample_rate=max(1, min(SAMPLE_RATE, affordable, vectors.rows // partitions)),
    )


def bits(vectors: Vectors) -> int:
    """How many bits RQ keeps of each dimension: few dimensions need more, and so does a search that must not refine."""
    if vectors.on_a_store:
        return 5
    return next((number for dimension, number in ((512, 1), (256, 3)) if vectors.dimension >= dimension), 5)


def sub_vectors(dimension: int) -> int:
    """How many parts PQ cuts a vector into: of 8 dimensions each, or of fewer if it has few."""
    widest = 8 if dimension >= 512 else 4 if dimension >= 128 else 2
    return next(dimension // width for width in (8, 4, 2, 1) if width <= widest and dimension % width == 0)
