"""Batches as a model takes them: images decoded, texts tokenized, each once, however many pairs have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import xxhash
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines.finetune.images import ImageBytes
from pipelines.finetune.plan import Batch, Plan
from pipelines.finetune.prepared import Prepared
from pipelines.reasons import IMAGE_UNREADABLE
from pipelines.storage.model_files import local_files
from vista_core import EncoderSettings, Preprocessor, RecordError

AHEAD: Final = 4  # batches that each loading process has ready
KEPT_BYTES: Final = 512 * 2**20  # of decoded images, in each loading process: many of a small model's, few of others
NO_IMAGE: Final = -1

Item = dict[str, Any]  # a value of prepared.ITEM: `text`, and the number of its `image`


@dataclass(frozen=True)
class Inputs:
    """Distinct queries and candidates: I items with U distinct images.

    `keys` int64 [I] are hashes of the content. `ids` are the token ids of each item. `image_of` int64 [I] has the row
    in `images`, uint8 [U, S, S, 3], of each item's image, or NO_IMAGE.
    """

    keys: np.ndarray
    ids: Sequence[np.ndarray]
    image_of: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class TrainingBatch:
    """What a process trains with in a step.

    `queries` and `positives` are rows of `inputs`, one of each for each pair; `candidates` are the distinct ones among
    positives and hard negatives. `skipped` counts what was left out.
    """

    step: int
    task: int
    inputs: Inputs
    queries: np.ndarray
    positives: np.ndarray
    candidates: np.ndarray
    skipped: Counter[Skipped]


class Skipped(NamedTuple):
    """A pair, or a hard negative, that was left out of a batch, as its image can't be used."""

    what: str
    reason: str  # of pipelines.reasons
    image: str


class UnusableImageError(Exception):
    """An image is not there, or can't be decoded; `reason` is one of pipelines.reasons."""

    def __init__(self, reason: str, image: str) -> None:
        super().__init__(f"{image}: {reason}")
        self.reason, self.image = reason, image

    def skipped(self, what: str) -> Skipped:
        """What is left out because of it."""
        return Skipped(what, self.reason, self.image)


@dataclass
class Decoder:
    """Decodes images of the data, and keeps as many as `kept_bytes` allow, since every epoch needs them again."""

    preprocessor: Preprocessor
    reader: ImageBytes
    kept_bytes: int = KEPT_BYTES
    kept: dict[int, np.ndarray] = field(default_factory=dict)

    def decode(self, number: int) -> np.ndarray:
        """Pixels uint8 [S, S, 3] of an image by its number. Raises RecordError, and OSError as the store does."""
        pixels = self.kept.get(number)
        if pixels is None:
            pixels = self.preprocessor.decode_image(self.reader.read(number))
            if (len(self.kept) + 1) * pixels.nbytes <= self.kept_bytes:
                self.kept[number] = pixels
        return pixels


@dataclass
class Collector:
    """Gathers the distinct items of a batch."""

    decoder: Decoder
    numbers: dict[int, int] = field(default_factory=dict)  # rows of items, by their keys
    ids: list[np.ndarray] = field(default_factory=list)
    image_of: list[int] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    pixel_keys: list[bytes] = field(default_factory=list)  # hashes of the images
    by_pixels: dict[bytes, int] = field(default_factory=dict)  # rows of images, by these
    decoded: dict[int, int | str] = field(default_factory=dict)  # their rows, or reasons, by their numbers in the data
    skipped: Counter[Skipped] = field(default_factory=Counter)

    def add(self, item: Item) -> int:
        """The row of an item. Raises UnusableImageError."""
        image = NO_IMAGE if item["image"] is None else self.image(item["image"])
        [tokens] = self.decoder.preprocessor.tokenize([item["text"]], [image != NO_IMAGE])
        digest = xxhash.xxh3_64(tokens.input_ids.tobytes())  # by content: other processes compare it, too
        if image != NO_IMAGE:
            digest.update(self.pixel_keys[image])
        key = digest.intdigest()
        if key not in self.numbers:
            self.numbers[key] = len(self.ids)
            self.ids.append(tokens.input_ids)
            self.image_of.append(image)
        return self.numbers[key]

    def image(self, number: int) -> int:
        """The row of an image of the data. Raises UnusableImageError, and OSError if the store fails."""
        if number not in self.decoded:
            try:
                pixels = self.decoder.decode(number)
                key = xxhash.xxh3_128_digest(pixels.data)
                row = self.by_pixels.setdefault(key, len(self.images))
                if row == len(self.images):
                    self.images.append(pixels)
                    self.pixel_keys.append(key)
                self.decoded[number] = row
            except FileNotFoundError:
                self.decoded[number] = IMAGE_UNREADABLE.name
            except RecordError as error:
                self.decoded[number] = error.reason
        found = self.decoded[number]
        if isinstance(found, str):
            raise UnusableImageError(found, self.decoder.reader.name(number))
        return found

    def usable(self, items: Iterable[Item]) -> Iterator[int]:
        """The rows of those items whose image can be used; the others are counted."""
        for item in items:
            try:
                yield self.add(item)
            except UnusableImageError as error:
                self.skipped[error.skipped("hard negative")] += 1

    def inputs(self) -> Inputs:
        """What was gathered."""
        size = self.decoder.preprocessor.image_size
        images = np.stack(self.images) if self.images else np.empty((0, size, size, 3), np.uint8)
        keys = np.array(list(self.numbers), np.uint64).view(np.int64)
        return Inputs(keys, self.ids, np.array(self.image_of, np.int64), images)


@dataclass
class BatchMaker:
    """Makes the share of one process of each batch; `negatives` are how many each task's pairs bring."""

    prepared: Prepared
    preprocessor: Preprocessor
    plan: Plan
    negatives: Sequence[int]

    def __post_init__(self) -> None:
        self.decoder = Decoder(self.preprocessor, ImageBytes(self.prepared.images))

    def make(self, batch: Batch, rank: int = 0, processes: int = 1) -> TrainingBatch:
        """Every `processes`-th pair of a batch, decoded."""
        table = self.prepared.tasks[batch.task].pairs
        pairs = [table.slice(row, 1).to_pylist()[0] for row in batch.rows.tolist()]  # `take` would copy the table
        counts = [len(pair["negatives"] or ()) for pair in pairs]
        drawn = self.plan.draw_negatives(batch, counts, self.negatives[batch.task])
        collector = Collector(self.decoder)
        queries, positives, candidates = [], [], dict[int, None]()
        for pair, chosen in list(zip(pairs, drawn, strict=True))[rank::processes]:
            try:
                query, positive = collector.add(pair["query"]), collector.add(pair["positive"])
            except UnusableImageError as error:
                collector.skipped[error.skipped("pair")] += 1
                continue
            queries.append(query)
            positives.append(positive)
            candidates[positive] = None
            candidates |= dict.fromkeys(collector.usable(pair["negatives"][index] for index in chosen))
        return TrainingBatch(
            step=batch.step,
            task=batch.task,
            inputs=collector.inputs(),
            queries=np.array(queries, np.int64),
            positives=np.array(positives, np.int64),
            candidates=np.array(list(candidates), np.int64),
            skipped=collector.skipped,
        )


class Steps(Sampler[int]):
    """The steps that are left."""

    def __init__(self, first: int, last: int) -> None:
        self.left = range(first, last)

    def __iter__(self) -> Iterator[int]:
        return iter(self.left)

    def __len__(self) -> int:
        return len(self.left)


class Batches(Dataset[TrainingBatch]):
    """The share of one process of each step's batch."""

    def __init__(self, prepared: str, settings: EncoderSettings, plan: Plan, negatives: Sequence[int]) -> None:
        self.prepared, self.settings, self.plan, self.negatives = prepared, settings, plan, negatives
        self.rank, self.processes = 0, 1
        self.maker: BatchMaker | None = None

    def __getitem__(self, step: int) -> TrainingBatch:
        """The batch of a step."""
        if self.maker is None:  # in the process that loads: Arrow's maps of files can't be sent to it
            prepared = Prepared.open(self.prepared)
            assert prepared is not None, "the training has prepared its data"
            preprocessor = Preprocessor.load(local_files(self.settings, weights=False))
            self.maker = BatchMaker(prepared, preprocessor, self.plan, self.negatives)
        return self.maker.make(self.plan.of(step), self.rank, self.processes)


def loaded_ahead(batches: Batches, first: int, last: int, loaders: int) -> Iterator[TrainingBatch]:
    """The batches of the steps from `first` to before `last`, made ahead by as many processes as `loaders` says."""
    options: dict[str, Any] = {}
    if loaders:
        # Forked from a process with threads of Ray and Arrow, a process may hang.
        options = {"multiprocessing_context": "forkserver", "prefetch_factor": AHEAD}
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=Steps(first, last),
            num_workers=loaders,
            worker_init_fn=one_thread,
            collate_fn=as_it_is,
            **options,
        )
    )


def one_thread(_: int) -> None:
    """Keep a loading process from taking the cores that train."""
    torch.set_num_threads(1)


def as_it_is(batch: Any) -> Any:
    """Keep arrays as arrays."""
    return batch
