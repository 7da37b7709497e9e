"""From what a probe measured: what limits a run, and how many decoding cores an encoder wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pipelines.cluster.resources import Cluster, Resources
from pipelines.cluster.session import cores
from pipelines.forecast.probe import Measured

BUSY: Final = 0.85  # of the time; an encoder that is busier is what the others wait for
AT_WORK: Final = 0.5  # of its cores or tasks; a stage before the encoders that has less to do keeps nobody waiting
WORDS: Final = {
    "encode": "encoding",
    "decode": "decoding",
    "fetch": "fetching images",
    "transport": "passing batches from stage to stage, of which larger ones are fewer (--transport-rows)",
}


@dataclass(frozen=True)
class Sizing:
    """The speed of the stages apart from each other, on the machines that a run would have."""

    measured: Measured
    uses: Resources
    cpus: float  # of the cluster

    @property
    def decoded_per_core(self) -> float:
        """Records that one core decodes in a second."""
        return self.measured.rows / max(self.measured.busy.get("decode", 0.0), 1e-9)

    @property
    def encoded_per_encoder(self) -> float:
        """Records that one encoder would encode in a second if it never waited.

        An encoder that has two batches at a time is faster than one of them: as fast as what came out of it.
        """
        seen = self.measured.rows_per_second / self.uses.actors if self.measured.side_by_side else 0.0
        return max(self.measured.rows / max(self.measured.busy.get("encode", 0.0), 1e-9), seen)

    @property
    def encoder_busy(self) -> float:
        """The share of the time in which an encoder has work."""
        return min(1.0, self.measured.rows_per_second / self.uses.actors / self.encoded_per_encoder)

    @property
    def cores_wanted(self) -> int:
        """Cores that have to decode for an encoder, so that it never waits."""
        return math.ceil(self.encoded_per_encoder / self.decoded_per_core)

    @property
    def bottleneck(self) -> str:
        """The stage that the others wait for: the encoders or, of those that feed them, the one with the most work.

        Images are fetched by tasks that wait, as many as there may be readers; each decoding task has a core. If none
        of them has much to do, Ray's own work for each batch is what takes the time: `transport`.
        """
        measured = self.measured
        if not measured.side_by_side:
            return max(("decode", "encode"), key=lambda stage: measured.busy.get(stage, 0.0))
        if self.encoder_busy >= BUSY:
            return "encode"
        limits = {"decode": self.cpus, "fetch": float(self.uses.readers)}
        shares = {stage: measured.busy.get(stage, 0.0) / measured.seconds / limits[stage] for stage in limits}
        stage = max(shares, key=lambda stage: shares[stage])
        return stage if shares[stage] >= AT_WORK else "transport"

    def describe(self) -> list[str]:
        """Lines for people."""
        decoding = f"decoding: {self.decoded_per_core:,.1f} rows/s a core"
        encoding = f"encoding: {self.encoded_per_encoder:,.1f} rows/s an encoder"
        if self.uses.device == "cuda":
            has = self.cpus / self.uses.actors
            wants = f", which wants {self.cores_wanted:,} decoding cores and has {has:,.1f}"
        else:
            wants = " (on the same cores, while both are at work)" if self.measured.side_by_side else ""
        busy = f"; encoders are busy {self.encoder_busy:.0%} of the time" if self.measured.side_by_side else ""
        return [f"{decoding}; {encoding}{wants}", f"bottleneck: {WORDS[self.bottleneck]}{busy}"]


def real_cpus(cluster: Cluster) -> float:
    """The CPUs of a cluster. A Ray of one node may offer more than the machine has cores."""
    return min(cluster.cpus, cores()) if cluster.nodes == 1 else cluster.cpus
