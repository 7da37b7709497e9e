"""The corpus and the queries of an evaluation, embedded by `vista embed` into tables of their own.

So they are read, decoded, encoded and rejected as in any night, and a second evaluation embeds nothing again. A table
belongs to one encoder and to certain sources: its name ends in what stands for these.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash

from pipelines.cluster.resources import share_out
from pipelines.cluster.scaling import cluster_for
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup, embed
from pipelines.evaluate.config import EvaluateConfig
from pipelines.quality.exact import Vectors
from pipelines.quality.judgements import some
from pipelines.reasons import DUPLICATE_ID
from pipelines.records import ID
from pipelines.search.pinned import Asked, PinnedTable, open_table
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.roles import Modality
from pipelines.tables.dataset import TableVersion, open_dataset, table_uri
from pipelines.tables.encoder_choice import EncoderOptions, choose_encoder
from pipelines.tables.vector_column import DEFAULT
from vista_core import EncoderIdentity, UsageError

ALL_ROWS: Final = 1 << 40  # rows that may leave a table at once: it mirrors the task
TITLE, TEXT = "title", "text"  # columns of BEIR, which are embedded together


@dataclass(frozen=True)
class Embedded:
    """A part of a task as a table, and the records that are not in it."""

    table: PinnedTable
    rejected: dict[str, str] = field(default_factory=dict)  # reason by id

    @property
    def vectors(self) -> Vectors:
        """Its column of vectors."""
        return vectors_of(self.table)

    @property
    def reasons(self) -> Counter[str]:
        """How many records were rejected, and why."""
        return Counter(self.rejected.values())

    def rows(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows. For queries, which are few."""
        return self.table.dataset.to_table(list(names))


def vectors_of(table: PinnedTable) -> Vectors:
    """The vectors of a table. Raises UsageError if its rows have no ids."""
    if table.id is None:
        raise UsageError(f"{table.dataset.uri}: no column with ids, so judgements can't name its rows")
    return Vectors(TableVersion(table.dataset.uri, int(table.dataset.version)), table.vector, table.id)


@dataclass(frozen=True)
class Embedding:
    """How parts of tasks are embedded."""

    config: EvaluateConfig
    options: EncoderOptions
    identity: EncoderIdentity
    setup: Setup

    @classmethod
    def of(cls, config: EvaluateConfig, options: EncoderOptions, setup: Setup) -> Embedding:
        """With the encoder that `options` name. Raises UsageError if it can't be had."""
        device = share_out(cluster_for(config.device), config.device, config.num_actors).device
        _, column = choose_encoder(options, device, DEFAULT, None)
        return cls(config, options, column.identity, setup)

    def embed(self, name: str, sources: Sequence[str], only: Modality | None = None) -> Embedded:
        """Embed some sources into one table, as far as that isn't done. Raises what `embed` raises.

        Raises UsageError if records have no ids, or if two have the same one.
        """
        table = self.table(name, sources)
        for number, source in enumerate(sources):
            embed(self.embed_config(source, table, str(number) if len(sources) > 1 else None, only), self.setup)
        rejected = rejects_of(self.config.db, table)
        if doubled := sorted(key for key, reason in rejected.items() if reason == DUPLICATE_ID.name):
            raise UsageError(f"{', '.join(sources)}: {len(doubled):,} ids are there twice: {some(doubled)}")
        return Embedded(open_table(self.config.db, table, Asked()), rejected)

    def table(self, name: str, sources: Sequence[str]) -> str:
        """The name of the table for some sources."""
        made_of = "\n".join([self.identity.to_json(), *sources])
        digest = xxhash.xxh3_64_hexdigest(made_of.encode())[:8]
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', name).lstrip('.')}_{self.identity.model}_{digest}"

    def embed_config(self, source: str, table: str, mark: str | None, only: Modality | None) -> EmbedConfig:
        """The options of `embed` for a source."""
        asked = open_source(source, Columns(only=only))
        if not asked.has_ids:
            raise UsageError(f"{source}: no column with ids, so judgements can't name its records")
        joins = asked.roles.get("text") == TEXT and TITLE in asked.extra.names
        return EmbedConfig(
            source=source,
            db=self.config.db,
            table=table,
            source_name=mark,
            only=only,
            text_column=(TITLE, TEXT) if joins else None,
            **{each: getattr(self.options, each) for each in EncoderOptions.__dataclass_fields__},
            device=self.config.device,
            num_actors=self.config.num_actors,
            allow_prefix=self.config.allow_prefix,
            max_reject_rate=1.0,  # what can't be read is counted, and costs its own score
            store_images=not self.config.no_pictures and only is None,
            delete_missing=True,
            delete_at_most=ALL_ROWS,
            report="none",
        )


def rejects_of(db: str, table: str) -> dict[str, str]:
    """The reason of each rejected record, by id. One without an id has none that judgements could name."""
    dataset = open_dataset(table_uri(db, f"{table}_rejects"))
    rows = [] if dataset is None else dataset.to_table(["id", "reason"]).to_pylist()
    return {str(row["id"]): row["reason"] for row in rows}


@dataclass(frozen=True)
class Queries:
    """The queries of an evaluation, as one encoder has them."""

    every: Embedded
    alone: dict[str, Embedded]  # by what is asked with: the same queries, if some have both text and image

    @classmethod
    def embed(cls, embedding: Embedding, name: str, sources: Sequence[str]) -> Queries:
        """Embed them whole and, if some are composed, their texts and images alone, as baselines."""
        every = embedding.embed(f"{name}_queries", sources)
        if not every.table.dataset.count_rows("modality = 'image_text'"):
            return cls(every, {})
        kinds: tuple[Modality, ...] = ("text", "image")
        parts = {f"{only} alone": embedding.embed(f"{name}_queries_{only}", sources, only) for only in kinds}
        return cls(every, parts)

    def matrix(self) -> tuple[list[str], dict[str, np.ndarray]]:
        """The ids of all queries and, by system, their vectors: float32 [N, D]. The whole queries are those of "".

        A query that has only the other modality is asked with as it is.
        """
        ids, vectors = with_vectors(self.every)
        found = {"": vectors}
        for name, part in self.alone.items():
            keys, values = with_vectors(part)
            place = {key: at for at, key in enumerate(keys)}
            found[name] = np.stack([values[place[key]] if key in place else vectors[at] for at, key in enumerate(ids)])
        return ids, found


def with_vectors(embedded: Embedded) -> tuple[list[str], np.ndarray]:
    """The ids and vectors of all rows: float32 [N, D]."""
    table = embedded.table
    rows: Any = embedded.rows([ID, table.vector])
    rows = rows.filter(pa.compute.is_valid(rows[table.vector]))
    values = rows[table.vector].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return rows[ID].to_pylist(), values.reshape(len(rows), table.dimension)
