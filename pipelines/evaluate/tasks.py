"""The tasks that are known by name: where they come from, and the figures that were published for them.

Revisions are pinned: a score is a score of one data set. `base` and `m3` are the zero-shot figures of
bge-visualized-base-en-v1.5 and bge-visualized-m3: recall@5 of the paper (arXiv 2406.04292), over its own corpora, and
what MTEB published for the data sets that are loaded here, on older revisions of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipelines.quality.metrics import NDCG

BASE: Final = "bge-visualized-base-en-v1.5"
M3: Final = "bge-visualized-m3"
Figures = Mapping[str, Mapping[str, float]]  # by model and metric, between 0 and 1


@dataclass(frozen=True)
class KnownTask:
    """A task by name. Its data sets are searched as one corpus."""

    datasets: tuple[str, ...]
    published: Figures  # of these data sets, by MTEB
    paper: Figures  # of the paper's own corpus
    differs: str  # what differs from the paper

    def figures(self, model: str) -> dict[str, Mapping[str, float]]:
        """The published figures of a model, by who published them."""
        found = {
            "published by MTEB": self.published.get(model, {}),
            "published in the paper": self.paper.get(model, {}),
        }
        return {name: figures for name, figures in found.items() if figures}


def hub(name: str, revision: str) -> str:
    """The URI of a data set."""
    return f"hf://datasets/{name}@{revision}"


WEBQA_TEXT: Final = hub("mteb/mbeir_webqa_task1", "17d2f7d42f1b3ef9293fb545b9039fcec1deab91")
WEBQA_IMAGES: Final = hub("mteb/mbeir_webqa_task2", "8a9243d504a2039b3467abdef2208a127a5c0737")
OVEN: Final = "M-BEIR's part of OVEN: other queries than the paper's 3,291, and a corpus far below its 6,084,491"


def recall_5(base: float, m3: float) -> Figures:
    """Recall@5 of both models."""
    return {BASE: {"recall@5": base}, M3: {"recall@5": m3}}


def of_mteb(recall: tuple[float, float], hit_rate: float, ndcg: float) -> Figures:
    """Recall@5 of both models, and what else is known of the base model."""
    return {
        BASE: {"recall@5": recall[0], "hit_rate@5": hit_rate, NDCG: ndcg},
        M3: {"recall@5": recall[1]},
    }


TASKS: Final[Mapping[str, KnownTask]] = {
    "webqa-text": KnownTask(
        (WEBQA_TEXT,), of_mteb((0.695, 0.696), 0.912, 0.689), {}, "the paper has texts and images in one corpus"
    ),
    "webqa-image": KnownTask(
        (WEBQA_IMAGES,), of_mteb((0.655, 0.650), 0.741, 0.598), {}, "the paper has texts and images in one corpus"
    ),
    "webqa": KnownTask(
        (WEBQA_TEXT, WEBQA_IMAGES),
        {},
        recall_5(0.6011, 0.6225),
        "M-BEIR's candidates of both kinds in one corpus: 947,653 where the paper has 944,766, deduplicated",
    ),
    "cirr": KnownTask(
        (hub("mteb/mbeir_cirr_task7", "bb0713ed1ed136b2974fce68df7e26388040b650"),),
        of_mteb((0.218, 0.203), 0.218, 0.154),
        recall_5(0.2251, 0.2019),
        "4,170 queries where the paper has 4,181; the same corpus of 21,551 images",
    ),
    "fashioniq": KnownTask(
        (hub("mteb/mbeir_fashioniq_task7", "469fba95d895f129f1d297619835d724db01904d"),),
        of_mteb((0.061, 0.068), 0.061, 0.045),
        recall_5(0.0751, 0.0655),
        "6,003 queries where the paper has 6,016; the same corpus of 74,381 images",
    ),
    "oven-text": KnownTask(
        (hub("mteb/mbeir_oven_task6", "88994735625f4ebf646eaf42096f7ba204880ac2"),),
        of_mteb((0.112, 0.067), 0.259, 0.117),
        recall_5(0.0839, 0.0623),
        OVEN,
    ),
    "oven-image": KnownTask(
        (hub("mteb/mbeir_oven_task8", "619847759581b2e57dfc1d68e2dadedc9599b283"),),
        {BASE: {"recall@5": 0.070, "hit_rate@5": 0.313, NDCG: 0.097}},
        recall_5(0.0839, 0.0623),
        OVEN,
    ),
    "remuq": KnownTask(
        (hub("izhx/UMRB-ReMuQ", "f0bd5955d2897bd1bed56546e88082d966c90a80"),),
        {},
        recall_5(0.8473, 0.9132),
        "138,794 documents where the paper has 195,387; the same 3,609 queries",
    ),
}
