"""`vista embed` on nodes that have a GPU by name only: the encoders compute on CPUs.

python tests/pipelines/cluster/encodes_on_cpu.py OPTIONS
"""

from __future__ import annotations

import dataclasses
import sys

from jobs import run_job
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup, embed
from pipelines.stages.decode import Slot
from pipelines.stages.encode import EncodeActor
from pipelines.stages.pool import Stages
from vista_core import EncoderIdentity, EncoderSettings


class OnCpu(EncodeActor):
    """An encode actor that leaves the GPU alone."""

    def __init__(self, settings: EncoderSettings, identity: EncoderIdentity, actors_per_node: int, slot: Slot) -> None:
        super().__init__(dataclasses.replace(settings, device="cpu"), identity, actors_per_node, slot)


if __name__ == "__main__":
    sys.exit(run_job(EmbedConfig, lambda config: embed(config, Setup(stages=Stages(encoder=OnCpu)))))
