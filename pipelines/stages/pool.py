"""From selected records to encoded ones: fetch, decode, and a pool of encode actors for each vector column."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from pipelines.cluster.child import ProcessLimits
from pipelines.cluster.resources import Resources
from pipelines.fetching.locations import FetchRules
from pipelines.stages.decode import decode, slots_of
from pipelines.stages.encode import EncodeActor
from pipelines.stages.fetch import fetch
from pipelines.stages.isolation import DECODING, READING, decode_or_reject
from vista_core import EncoderIdentity, EncoderSettings

FETCH_ROWS = 256


@dataclass(frozen=True)
class Stages:
    """The stages that cost the most; tests and benchmarks put others in their place.

    `encoder` is a class, of which each encode actor is an instance, or a function, which tasks on any worker call.
    """

    decode: Callable[..., pa.Table] = decode
    encoder: Callable[..., Any] = EncodeActor
    decoding: ProcessLimits = DECODING
    reading: ProcessLimits = READING


@dataclass(frozen=True)
class Encoding:
    """An encoder, by its settings, and the identity that it must have on every node."""

    settings: EncoderSettings
    identity: EncoderIdentity


@dataclass(frozen=True)
class Pool:
    """What records go through behind select. Each of `encodings` fills the slot of its number."""

    encodings: Sequence[Encoding]
    uses: Resources
    stages: Stages
    store_images: bool = False
    fetching: FetchRules | None = None  # None: no image has to be fetched

    def encoded(self, records: Dataset, readers: int) -> Dataset:
        """The flow from selected records to encoded ones; `readers` fetch at the same time."""
        uses, stages = self.uses, self.stages
        first, *others = [each.settings for each in self.encodings]
        decoding = functools.partial(stages.decode, settings=first, store_images=self.store_images)
        if others:
            decoding = functools.partial(decoding, others=tuple(others))
        if self.fetching is not None:
            records = records.map_batches(
                functools.partial(fetch, rules=self.fetching),
                batch_format="pyarrow",
                batch_size=FETCH_ROWS,
                num_cpus=uses.fetch_cpus,
                compute=TaskPoolStrategy(size=readers),
            )
        records = records.map_batches(
            functools.partial(decode_or_reject, stage=decoding, limits=stages.decoding),
            batch_format="pyarrow",
            batch_size=uses.transport_rows,
            num_cpus=uses.decode_cpus,
        )
        # Fused into decode. Without it a block is 128 MB, which of texts may be an hour's work between two commits.
        records = records.repartition(target_num_rows_per_block=uses.transport_rows)
        slots = slots_of((first, *others))
        for slot, encoding in zip(slots, self.encodings, strict=True):
            # Different reservations, since Ray Data fuses stages whose reservations are equal.
            share = 1 / len(slots) / (1 + slot.number / 100)
            records = records.map_batches(
                stages.encoder,
                batch_format="pyarrow",
                batch_size=uses.transport_rows,
                num_cpus=uses.actor_cpus * share or None,  # Ray Data wants one of the two, not both
                num_gpus=uses.actor_gpus * share or None,
                **encoders(stages, uses, (encoding.settings, encoding.identity, uses.actors_per_node, slot)),
            )
        return records


def encoders(stages: Stages, uses: Resources, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """How Ray Data runs the encoder, with `arguments` for the constructor of actors or, after a batch, the function."""
    if not isinstance(stages.encoder, type):
        return {"compute": TaskPoolStrategy(size=uses.actors), "fn_args": arguments}
    pool = ActorPoolStrategy(
        min_size=uses.actors,
        initial_size=uses.actors,
        max_size=uses.most_actors,
        max_concurrent_calls_per_actor=uses.actor_calls,
        enable_true_multi_threading=True,
    )
    return {"compute": pool, "fn_constructor_args": arguments}
