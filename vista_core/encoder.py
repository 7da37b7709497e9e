"""The encoder: records to vectors."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from vista_core.attention import on_device
from vista_core.batching import TokenBudget, plan_batches
from vista_core.checkpoint import Checkpoint, check_keys, load_model, open_checkpoint, weights_digest
from vista_core.config import EncoderSettings, ModelConfig
from vista_core.device import DTYPES, can_fuse, resolve_device, resolve_dtype
from vista_core.errors import RecordError
from vista_core.hub import model_name, resolve_alpha, resolve_config, text_folder, weights_path
from vista_core.identity import EncoderIdentity
from vista_core.image import PREPROCESSING_VERSIONS
from vista_core.linear import pack_for_cpu
from vista_core.model import VistaModel
from vista_core.preprocessor import Preprocessor, Record
from vista_core.tokenizer import read_tokenizer, tokenizer_digest

Item = tuple[np.ndarray, np.ndarray | None]  # token ids, pixels
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 65536}  # tokens in a batch; larger batches are no faster


class Encoder:
    """A loaded model with its preprocessor. A record's vector doesn't depend on the other records of a call."""

    def __init__(
        self, model: VistaModel, preprocessor: Preprocessor, identity: EncoderIdentity, budget: TokenBudget
    ) -> None:
        self.model = model
        self.preprocessor = preprocessor
        self.identity = identity
        self.budget = budget

    @staticmethod
    def load(settings: EncoderSettings) -> "Encoder":
        """Load and check the model, and move it to its device.

        Raises UsageError, DownloadError or CheckpointError; each message says what to change.
        """
        device = resolve_device(settings.device)
        config = resolve_config(settings)
        preprocessor = Preprocessor.load(settings)
        checkpoint = open_checkpoint(weights_path(settings))
        identity = _identity(settings, config, checkpoint)
        model = load_model(config, checkpoint, DTYPES[identity.dtype]).requires_grad_(False).to(device)
        prepare_for_inference(model)
        budget = TokenBudget(settings.inference_tokens or TOKEN_BUDGETS[device.type])
        return Encoder(model, preprocessor, identity, budget)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.identity.dimension

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the model runs in."""
        return self.model.dtype

    def encode(self, records: Sequence[Record]) -> np.ndarray:
        """Records to float32 vectors [N, D] in the same order; a bad record raises RecordError with its index."""
        pixels = [self._pixels(record, index) for index, record in enumerate(records)]
        tokens = self.preprocessor.tokenize(
            [record.text for record in records], [image is not None for image in pixels]
        )
        return self.encode_tensors([item.input_ids for item in tokens], pixels)

    def encode_tensors(self, input_ids: Sequence[np.ndarray], pixels: Sequence[np.ndarray | None]) -> np.ndarray:
        """Output of a Preprocessor to float32 vectors [N, D] in the same order.

        For each record, `input_ids` has an int array [L], and `pixels` a uint8 array [S, S, 3] or None.
        """
        return to_host(encode_tensors(self.model, input_ids, pixels, self.budget))

    def _pixels(self, record: Record, index: int) -> np.ndarray | None:
        if not record.text and record.image is None:
            raise RecordError("empty_record", "neither text nor image", index)
        try:
            return None if record.image is None else self.preprocessor.open_image(record.image)
        except RecordError as error:
            raise RecordError(error.reason, error.message, index) from error


def prepare_for_inference(model: VistaModel) -> None:
    """Give a model the fastest form for its device and precision; it can't be trained, moved or converted then."""
    if model.device.type == "cpu":
        pack_for_cpu(model)
    elif can_fuse(model.config, model.device, model.dtype):
        from vista_core.gpu import fuse_for_gpu  # it imports Triton, which torch brings only where there are GPUs

        fuse_for_gpu(model)


def to_host(vectors: torch.Tensor) -> np.ndarray:
    """A tensor as an array. From a GPU it is copied into pinned memory, twelve times as fast as into other memory."""
    if vectors.device.type != "cuda":
        return vectors.numpy()
    return torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True).copy_(vectors).numpy()


@torch.inference_mode()
def encode_tensors(
    model: VistaModel,
    input_ids: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray | None],
    budget: TokenBudget | None = None,
) -> torch.Tensor:
    """Token ids and pixels to float32 vectors [N, D] on the model's device, in the same order.

    Records with and without an image are batched apart. If the GPU's memory doesn't suffice, batches become smaller;
    torch.OutOfMemoryError is raised only for a single record that doesn't fit.
    """
    items = list(zip(input_ids, pixels, strict=True))
    encode = partial(_encode_while_memory_lasts, model, items, budget or TokenBudget(TOKEN_BUDGETS[model.device.type]))
    vectors, order = [torch.empty(0, model.config.dimension, device=model.device)], []
    for with_image in (True, False):
        left = [index for index, (_, image) in enumerate(items) if (image is not None) == with_image]
        while left:
            for indices, encoded in encode(left):
                vectors.append(encoded)
                order += indices
            left = sorted(set(left).difference(order))
    return torch.cat(vectors)[on_device(np.argsort(order), model.device)]


def _encode_while_memory_lasts(
    model: VistaModel, items: list[Item], budget: TokenBudget, left: list[int]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Encode the items at the indices `left` batch by batch; if a batch doesn't fit, halve the budget and stop."""
    lengths = [len(items[i][0]) + (0 if items[i][1] is None else model.config.vision.tokens) for i in left]
    for batch in plan_batches(lengths, budget.tokens):
        indices = [left[position] for position in batch]
        try:
            encoded = _forward(model, [items[index] for index in indices])
        except torch.OutOfMemoryError:
            if len(indices) == 1:
                raise
            budget.halve()
            torch.cuda.empty_cache()
            return
        budget.record_success()
        yield indices, encoded


def _forward(model: VistaModel, items: list[Item]) -> torch.Tensor:
    texts, images = [ids for ids, _ in items], [image for _, image in items if image is not None]
    packed, lengths = on_device(np.concatenate(texts), model.device), np.array([len(ids) for ids in texts])
    return model(packed, lengths, _stacked(images, model.device) if images else None)


def _stacked(images: list[np.ndarray], device: torch.device) -> torch.Tensor:
    """Pixels as uint8 [B, S, S, 3] on the device. A copy to a GPU is asynchronous, from pinned memory."""
    shape = (len(images), *images[0].shape)
    stacked = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(images, out=stacked.numpy())
    return stacked.to(device, non_blocking=True)


def encoder_identity(settings: EncoderSettings) -> EncoderIdentity:
    """The identity of `Encoder.load(settings)`, without building the model. Raises the same errors."""
    config = resolve_config(settings)
    checkpoint = open_checkpoint(weights_path(settings))
    check_keys(config, checkpoint)
    return _identity(settings, config, checkpoint)


def _identity(settings: EncoderSettings, config: ModelConfig, checkpoint: Checkpoint) -> EncoderIdentity:
    return EncoderIdentity(
        model=model_name(settings),
        weights=weights_digest(config, checkpoint),
        tokenizer=tokenizer_digest(read_tokenizer(text_folder(settings))),
        config=config.digest(),
        dtype=resolve_dtype(settings.dtype, resolve_device(settings.device).type, config),
        preprocessing=PREPROCESSING_VERSIONS[settings.resize],
        alpha=resolve_alpha(settings),
        max_tokens=config.max_tokens(settings.max_tokens),
        dimension=config.dimension,
    )
