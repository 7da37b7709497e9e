"""Runs whose encoder is called by tasks, so that a worker loads the model once for all tests instead of for each run.

An encode actor spends seconds of CPU time on a new process, on importing torch and on loading the model. All that comes
before and after it is what a job has. Tests of the actor itself, of the command and of kills use actors.
"""

import dataclasses
import functools

import pyarrow as pa

from pipelines.embed import run
from pipelines.embed.config import EmbedConfig
from pipelines.embed.plan import Plan
from pipelines.embed.run import Setup
from pipelines.embed.summary import Summary
from pipelines.records import Slot
from pipelines.stages.encode import EncodeActor
from pipelines.stages.pool import Stages
from vista_core import EncoderIdentity, EncoderSettings


@functools.lru_cache(maxsize=2)
def actor(settings: EncoderSettings, identity: EncoderIdentity, actors_per_node: int, slot: Slot) -> EncodeActor:
    return EncodeActor(settings, identity, actors_per_node, slot)


def encode(
    records: pa.Table, settings: EncoderSettings, identity: EncoderIdentity, actors_per_node: int, slot: Slot
) -> pa.Table:
    return actor(settings, identity, actors_per_node, slot)(records)


WARM = Setup(stages=Stages(encoder=encode))


def embed(config: EmbedConfig, setup: Setup | None = None) -> Summary | Plan:
    """`pipelines.embed.run.embed`, unless the test has an encoder of its own."""
    setup = setup or Setup()
    if setup.stages.encoder is EncodeActor:
        setup = dataclasses.replace(setup, stages=dataclasses.replace(setup.stages, encoder=encode))
    return run.embed(config, setup)
