"""What a run reports while it goes on. Whoever is interested is a listener: progress, `NAME_runs`, tests, benchmarks.

A listener is called on the driver, in the order of events, and before the run goes on. What it raises ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.reasons import REASONS
from pipelines.records import Misfits, Pictured


@dataclass(frozen=True)
class Counts:
    """Records of a run so far. At its end read = written + rewritten + unchanged + rejected + empty."""

    read: int = 0
    written: int = 0
    rewritten: int = 0  # their vector was copied, since only other columns changed
    unchanged: int = 0
    empty: int = 0  # rows of a table that is backfilled in which there is nothing to embed
    removed: int = 0  # rows that left the table because their record was rejected; the record is among the rejected
    missing: int = 0  # rows of the table whose record is no longer in the source
    deleted: int = 0  # those of them that were removed
    skipped: int = 0  # rows of the table whose file was skipped, unchanged
    foreign: int = 0  # rows of the table that other clients wrote, without `_object`
    skipped_rejected: int = 0  # records of skipped files that an earlier run rejected
    reasons: Counter[str] = field(default_factory=Counter)  # rejected records by reason
    misfits: Mapping[str, Misfits] = field(default_factory=dict)  # values that don't fit, by column
    # What each stage took, added up over all tasks. No two runs agree in it, so it is not compared.
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    # What the encoders did: texts, images, tokens, batches, and the seconds in which they were busy and idle.
    work: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def rejected(self) -> int:
        """Records rejected for whatever reason."""
        return self.reasons.total()

    @property
    def rejected_in_earnest(self) -> int:
        """Those of them of which something is lost."""
        return sum(number for reason, number in self.reasons.items() if not REASONS[reason].harmless)

    @property
    def resolved(self) -> int:
        """Records of which the outcome is known; equals `read` at the end of a run."""
        return self.written + self.rewritten + self.unchanged + self.rejected + self.empty


@dataclass(frozen=True)
class Verdict:
    """Whether a gate let the run pass, and the figures that it judged by."""

    gate: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Reading:
    """The flow starts: it is going to read `rows` records, a number that is an estimate unless `exact`."""

    rows: int
    exact: bool


@dataclass(frozen=True)
class Arrived:
    """`rows` encoded rows have arrived on the driver since the last commit; `counts` are those of the last commit."""

    rows: int
    counts: Counts


@dataclass(frozen=True)
class FragmentsWritten:
    """Workers have written the fragments of a bundle, which are not committed yet."""


@dataclass(frozen=True)
class TableCommitted:
    """Fragments of a bundle are in the table: all of them, or those that had to be replaced first."""


@dataclass(frozen=True)
class RejectsCommitted:
    """The rejects of a bundle are in `NAME_rejects`."""


@dataclass(frozen=True)
class VectorsParked:
    """Vectors of fragments that are not complete yet are kept, so that a killed run costs none of them."""


@dataclass(frozen=True)
class BundleCommitted:
    """A bundle is committed in full: rows, rejects and the manifest of files."""

    counts: Counts
    pictures: Sequence[Pictured] = ()  # of a few of its records


@dataclass(frozen=True)
class ReadingEnded:
    """Every record in scope was read, and what came of it is committed."""

    counts: Counts


@dataclass(frozen=True)
class Counted:
    """Counts changed outside of a bundle: skipped files, missing and removed rows."""

    counts: Counts


@dataclass(frozen=True)
class UpkeepPostponed:
    """Some upkeep of the table could not be done. `message` says what is left for a later run, and why."""

    message: str


@dataclass(frozen=True)
class Judged:
    """A gate has judged the result."""

    verdict: Verdict


@dataclass(frozen=True)
class Publishing:
    """All gates passed; the tag `published` is about to move to `version`."""

    version: int


@dataclass(frozen=True)
class TagMoving:
    """The lease names the version to be published; `tag` is about to move to it."""

    tag: str
    version: int


@dataclass(frozen=True)
class Published:
    """The tag `published` has moved to `version`."""

    version: int


@dataclass(frozen=True)
class IndexTrained:
    """The partitions of a vector index are found, and kept for a build that is resumed."""


@dataclass(frozen=True)
class SegmentBuilt:
    """A segment of a vector index, with so many rows, is written, and kept for a build that is resumed."""

    rows: int


@dataclass(frozen=True)
class SegmentsMerged:
    """The segments of a vector index are one, which no reader sees yet."""


@dataclass(frozen=True)
class MeasuredSetting:
    """What searches by one setting find, compared with exact search, and how long they take."""

    nprobes: int
    refine_factor: int  # 0: no refine
    recall: float  # recall@10
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class IndexMeasured:
    """The settings that were measured with a new vector index, and the one that is going to be stored, if any."""

    settings: tuple[MeasuredSetting, ...]
    chosen: MeasuredSetting | None


@dataclass(frozen=True)
class SettingStored:
    """The table has the setting of the new vector index, but not yet the index."""


@dataclass(frozen=True)
class IndexExchanged:
    """The latest version of the table has the new vector index instead of the old one."""


Event = (
    Reading
    | Arrived
    | FragmentsWritten
    | TableCommitted
    | RejectsCommitted
    | VectorsParked
    | BundleCommitted
    | ReadingEnded
    | Counted
    | UpkeepPostponed
    | Judged
    | Publishing
    | TagMoving
    | Published
    | IndexTrained
    | SegmentBuilt
    | SegmentsMerged
    | IndexMeasured
    | SettingStored
    | IndexExchanged
)
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Events:
    """Passes each event on to every listener."""

    listeners: Sequence[Listener] = ()

    def report(self, event: Event) -> None:
        """Call the listeners, in their order."""
        for listener in self.listeners:
            listener(event)
