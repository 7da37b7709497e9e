"""Prove that the released weights give the similarities that their authors published: `python -m vista_core.prove`.

The cases are those of the model's README (FlagEmbedding, research/visual_bge). Images and weights are not part of this
package: the message for a file that is missing says where it comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tyro

from vista_core.config import EncoderSettings
from vista_core.encoder import Encoder
from vista_core.errors import UsageError, VistaError
from vista_core.hub import TEXT_MODELS, WEIGHTS
from vista_core.preprocessor import Record

TOLERANCE: Final = 5e-4
IMAGES_FROM: Final = "https://github.com/FlagOpen/FlagEmbedding, folder research/visual_bge/visual_bge/imgs"
BASE: Final = "bge-visualized-base-en-v1.5"
M3: Final = "bge-visualized-m3"


@dataclass(frozen=True)
class Side:
    """A text, the name of an image, or both."""

    text: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class Case:
    """A query, its candidates, and the published cosine of each."""

    model: str
    query: Side
    candidates: Sequence[tuple[Side, float]]


CASES: Final = (
    Case(
        BASE,
        Side("Make the background dark, as if the camera has taken the photo at night", "cir_query.png"),
        [(Side(image="cir_candi_1.png"), 0.8750), (Side(image="cir_candi_2.png"), 0.7816)],
    ),
    Case(
        BASE,
        Side("Are there sidewalks on both sides of the Mid-Hudson Bridge?"),
        [
            (
                Side(
                    "The Mid-Hudson Bridge, spanning the Hudson River between Poughkeepsie and Highland.",
                    "wiki_candi_1.jpg",
                ),
                0.6932,
            ),
            (Side("Golden_Gate_Bridge", "wiki_candi_2.jpg"), 0.4441),
            (
                Side(
                    "The Mid-Hudson Bridge was designated as a New York State Historic Civil Engineering Landmark by "
                    "the American Society of Civil Engineers in 1983. The bridge was renamed the "
                    '"Franklin Delano Roosevelt Mid-Hudson Bridge" in 1994.'
                ),
                0.6415,
            ),
        ],
    ),
    Case(
        M3,
        Side("一匹马牵着这辆车", "cir_query.png"),
        [(Side(image="cir_candi_1.png"), 0.7026), (Side(image="cir_candi_2.png"), 0.8075)],
    ),
)


@dataclass(frozen=True)
class Options:
    """Compare the similarities that the released weights give with those that their authors published."""

    weights: Path
    """A folder with the weights (Visualized_base_en_v1.5.pth, Visualized_m3.pth), and for each a folder with the
    config.json and tokenizer.json of its text model (bge-base-en-v1.5, bge-m3). A model that has neither is left out;
    one of them alone is an error. The word `hub` in place of the folder downloads the files of both models."""
    images: Path | None = None
    """A folder with the five images; default: the folder `imgs` in --weights."""


@dataclass(frozen=True)
class Outcome:
    """A published similarity, and the one that was computed."""

    case: Case
    candidate: Side
    published: float
    computed: float

    @property
    def holds(self) -> bool:
        """True if both agree."""
        return abs(self.published - self.computed) <= TOLERANCE

    def __str__(self) -> str:
        """A line for people."""
        text = self.candidate.text and self.candidate.text[:40]
        name = " + ".join(each for each in (self.candidate.image, text) if each)
        verdict = "equal" if self.holds else f"DIFFERS by {abs(self.published - self.computed):.4f}"
        return f"{self.case.model}  published {self.published:.4f}  computed {self.computed:.4f}  {verdict}  {name}"


def settings_of(model: str, weights: Path) -> EncoderSettings | None:
    """The files of a model in a folder, computed in float32; None if it has none. UsageError if some are missing."""
    if str(weights) == "hub":
        return EncoderSettings(model, dtype="float32", resize="exact")
    repository, name = WEIGHTS[model]
    text = TEXT_MODELS[model].name
    wanted = [weights / name, weights / text.rpartition("/")[2]]
    missing = [each for each in wanted if not each.exists()]
    if len(missing) == len(wanted):
        return None
    if missing:
        raise UsageError(
            f"{missing[0]} is missing. Bring {name} of https://huggingface.co/{repository.name}, and config.json and "
            f"tokenizer.json of https://huggingface.co/{text} in a folder of that name"
        )
    return EncoderSettings(model, str(wanted[0]), str(wanted[1]), dtype="float32", resize="exact")


def prove(case: Case, settings: EncoderSettings, images: Path) -> list[Outcome]:
    """The similarities of a case. Raises UsageError for an image that is missing, and what the encoder raises."""
    sides = [case.query, *(candidate for candidate, _ in case.candidates)]
    missing = [images / side.image for side in sides if side.image and not (images / side.image).is_file()]
    if missing:
        raise UsageError(f"{missing[0]} is missing: an image of {IMAGES_FROM}. Name their folder: --images")
    records = [Record(side.text, None if side.image is None else str(images / side.image)) for side in sides]
    query, *others = Encoder.load(settings).encode(records)
    return [
        Outcome(case, candidate, published, float(query @ vector))
        for (candidate, published), vector in zip(case.candidates, others, strict=True)
    ]


def main(options: Options, cases: Sequence[Case] = CASES) -> int:
    """Print each similarity. Returns 0 if all that could be computed agree, 1 if one differs. Raises VistaError."""
    found = {model: settings_of(model, options.weights) for model in dict.fromkeys(case.model for case in cases)}
    if not any(found.values()):
        names = ", ".join(f"{WEIGHTS[model][1]} and {TEXT_MODELS[model].name.rpartition('/')[2]}/" for model in found)
        raise UsageError(f"{options.weights} has the files of no model. Bring {names}")
    images = options.images or options.weights / "imgs"
    outcomes = [each for case in cases if (settings := found[case.model]) for each in prove(case, settings, images)]
    for each in outcomes:
        print(each)
    for model, settings in found.items():
        if settings is None:
            print(f"{model}  not proved: {options.weights} has no files of it")
    return 0 if all(each.holds for each in outcomes) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except VistaError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
