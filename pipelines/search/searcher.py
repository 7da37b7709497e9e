"""A table that is open for searches: one version of it, and the encoder of that version's vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

import numpy as np
import pyarrow as pa

from pipelines.fetching.locations import FetchRules
from pipelines.records import ID
from pipelines.search.encoder import EncoderChoice, load_encoder, same_encoder
from pipelines.search.images import images_of
from pipelines.search.method import NPROBES, REFINE_FACTOR
from pipelines.search.pinned import SCORE, Asked, PinnedTable, open_table, repinned
from pipelines.search.query import Mode, Query
from pipelines.search.ranking import Ranking, rank
from pipelines.search.rows import address_of, rows_at, vector_at
from pipelines.storage.errors import says_not_found
from vista_core import Record, RecordError, UsageError
from vista_core.preprocessor import ImageSource

if TYPE_CHECKING:
    from vista_core import Encoder

THREADS: Final = 8  # that search at the same time, for one call


class Options(TypedDict, total=False):
    """Options of a search; see `Query`."""

    k: int
    offset: int
    where: str | None
    mode: Mode
    exact: bool


class Opened(TypedDict, total=False):
    """Which part of a table is opened; see `Asked`."""

    column: str | None
    version: int | str | None
    allow_incomplete: bool


@dataclass(frozen=True)
class Searcher:
    """One version of a table, and the encoder of that version's vectors. Thread-safe.

    It keeps to that version: a version that is published later may have another encoder. See `refreshed`.
    """

    table: PinnedTable
    choice: EncoderChoice | None
    encoder: Encoder | None  # None: only for keyword search, and for rows like another one

    @classmethod
    def open(
        cls,
        db: str,
        table: str,
        *,
        encoder: EncoderChoice | None = EncoderChoice(),  # noqa: B008  # a frozen value
        **asked: Unpack[Opened],
    ) -> Searcher:
        """Open a `version` of a table: a number or a tag, by default the one that is published. Without a `column`, its
        default column is searched.

        With `encoder=None` no model is loaded, which is enough for keywords. Raises UsageError if there is no such
        table, version or vector column, if its encoder is another one or not known, or if the column is incomplete and
        this is not allowed.
        """
        pinned = open_table(db, table, Asked(**asked))
        if encoder is None:
            return cls(pinned, None, None)
        choice = dataclasses.replace(encoder, column=encoder.column or pinned.vector)
        return cls(pinned, choice, load_encoder(pinned, choice))

    @property
    def version(self) -> int:
        """The number of the version that is searched."""
        return int(self.table.dataset.version)

    @property
    def model(self) -> str:
        """The name of the encoder's model, for people."""
        return self.table.origin.model or (self.encoder.identity.model if self.encoder else "unknown model")

    @property
    def schema(self) -> pa.Schema:
        """The schema of results: `id`, `score`, and the row's other columns without vectors and images."""
        stored = self.table.dataset.schema
        fields = [pa.field(shown, stored.field(name).type) for shown, name in self.table.columns.items()]
        key = stored.field(self.table.id).type if self.table.id else pa.string()
        return pa.schema([pa.field(ID, key), pa.field(SCORE, pa.float64()), *fields])

    @property
    def advice(self) -> str | None:
        """What would make the results better, in a sentence; None if there is nothing to say."""
        method = self.table.method
        if method.setting is None or method.is_measured:
            return None
        return (
            f"nobody measured the index {method.setting.index!r} of {self.table.name}: it is searched with {NPROBES} "
            f"partitions and a refine factor of {REFINE_FACTOR}. `vista index` builds one and measures it"
        )

    def search(self, text: str | None = None, image: ImageSource | None = None, **options: Unpack[Options]) -> pa.Table:
        """The best rows for a text, an image, or both, best first: `id`, `score`, and the row's other columns.

        Raises UsageError for a query that can't be encoded, and for a filter that can't be used.
        """
        return self.search_many([Query(text, image, **options)])[0]

    def like(self, id: str | int, text: str | None = None, **options: Unpack[Options]) -> pa.Table:
        """The rows most like the row `id`, without that row; with `text`, like its image with this change.

        Raises UsageError if there is no such row, or if it has no vector (with `text`: no image).
        """
        return self.search_many([Query(text, like=id, **options)])[0]

    def search_many(self, queries: Sequence[Query]) -> list[pa.Table]:
        """The results of each query. Raises UsageError for the first that can't be answered."""
        found = self.answers(queries)
        for each in found:
            if isinstance(each, UsageError):
                raise each
        return [each for each in found if isinstance(each, pa.Table)]

    def answers(self, queries: Sequence[Query]) -> list[pa.Table | UsageError]:
        """The results of each query, or why it can't be answered; such a query costs no other one its results."""
        with_vectors = list(zip(queries, self.vectors(queries), strict=True))
        if len(with_vectors) == 1:
            return [self.answer(*with_vectors[0])]
        with ThreadPoolExecutor(THREADS, "search") as pool:
            return list(pool.map(lambda each: self.answer(*each), with_vectors))

    def answer(self, query: Query, vector: np.ndarray | UsageError | None) -> pa.Table | UsageError:
        """The results of a query that is encoded."""
        if isinstance(vector, UsageError):
            return vector
        try:
            without = None if query.like is None else address_of(self.table, query.like)
            if without is not None and vector is None:
                vector = vector_at(self.table, without)
            return self.results(rank(self.table, query, vector).part(query, without))
        except UsageError as error:
            return error
        except (OSError, ValueError, pa.ArrowException) as error:
            if not says_not_found(error):
                raise
            return UsageError(f"{self.table.name}: files of version {self.version} were removed. Open the table again")

    def results(self, ranking: Ranking) -> pa.Table:
        """Ranked rows as results."""
        found = rows_at(self.table, ranking.rows)
        return found.add_column(1, SCORE, pa.array(ranking.scores, pa.float64()))

    def vectors(self, queries: Sequence[Query]) -> list[np.ndarray | UsageError | None]:
        """The vector of each query, float32 [D], or why it has none; None if it needs none that is computed."""
        found: list[np.ndarray | UsageError | None] = [None] * len(queries)
        records: dict[int, Record] = {}
        for index, query in enumerate(queries):
            if query.needs_encoder:
                try:
                    records[index] = self.record(query)
                except UsageError as error:
                    found[index] = error
        while records:
            order = list(records)
            try:
                for index, vector in zip(order, self.needed_encoder.encode(list(records.values())), strict=True):
                    found[index] = vector
                break
            except RecordError as error:
                assert error.index is not None, "encode names the record"
                bad = order[error.index]
                found[bad] = not_encoded(queries[bad], error)
                del records[bad]  # and encode the others
        return found

    def record(self, query: Query) -> Record:
        """What is encoded for a query. Raises UsageError if it is like a row without an image."""
        if query.like is None:
            image = query.image
            return Record(query.text, Path(image) if isinstance(image, str) else image)
        image = self.image_bytes([query.like]).get(query.like)
        if image is None:
            raise UsageError(f"the row {query.like!r} has no image to change: search without a text, or by text alone")
        return Record(query.text, image)

    @property
    def needed_encoder(self) -> Encoder:
        """The encoder. Raises UsageError if the searcher was opened without one."""
        if self.encoder is None:
            raise UsageError(f"{self.table.name} was opened without an encoder, so it can only be searched for words")
        return self.encoder

    def image_bytes(self, ids: Iterable[str | int], rules: FetchRules | None = None) -> dict[str | int, bytes]:
        """The images of some rows, by id, as far as they are stored or, by their URI, within what `rules` allow."""
        return images_of(self.table, list(ids), rules)

    def refreshed(self) -> Searcher:
        """The same searcher on the version that is published now (or that its tag names now); itself if it is this one.

        A searcher that was opened without a column follows the table to another default column. The encoder is loaded
        again only if the column has another one.
        """
        table = repinned(self.table)
        if table is self.table:
            return self
        if self.choice is None or same_encoder(table, self.table):
            return dataclasses.replace(self, table=table)
        return dataclasses.replace(self, table=table, encoder=load_encoder(table, self.choice))


def not_encoded(query: Query, error: RecordError) -> UsageError:
    """The error of a query that can't be encoded, which names the option."""
    if query.image is None:
        return UsageError(f"--text: {error.message}")
    named = f"--image {query.image}" if isinstance(query.image, str | Path) else "--image"
    return UsageError(f"{named}: {error.message}")
