"""Records to vectors: the encoder, which holds the model."""

from collections.abc import Sequence

import numpy as np
import torch

from vista_core.batching import plan_batches
from vista_core.checkpoint import Checkpoint, check_keys, load_model, open_checkpoint, weights_digest
from vista_core.config import EncoderSettings, ModelConfig
from vista_core.device import DTYPES, resolve_device, resolve_dtype
from vista_core.errors import RecordError
from vista_core.hub import resolve_config, text_folder, weights_path
from vista_core.identity import EncoderIdentity
from vista_core.image import PREPROCESSING_VERSION
from vista_core.linear import pack_for_cpu
from vista_core.model import VistaModel
from vista_core.preprocessor import Preprocessor, Record
from vista_core.tokenizer import read_tokenizer, tokenizer_digest
from vista_core.vision import normalise

TOKEN_BUDGETS = {"cpu": 2048, "cuda": 65536}  # padded tokens of a batch: where a larger one gains nothing more


class Encoder:
    """A loaded model with its preprocessor; vectors do not depend on what else is in a call."""

    def __init__(self, model: VistaModel, preprocessor: Preprocessor, identity: EncoderIdentity) -> None:
        self.model = model
        self.preprocessor = preprocessor
        self.identity = identity

    @staticmethod
    def load(settings: EncoderSettings) -> "Encoder":
        """Read, check and place the model that settings mean."""
        device = resolve_device(settings.device)
        config = resolve_config(settings)
        preprocessor = Preprocessor.load(settings)
        checkpoint = open_checkpoint(weights_path(settings))
        identity = identify(settings, config, checkpoint)
        model = load_model(config, checkpoint, DTYPES[identity.dtype]).requires_grad_(False).to(device)
        if device.type == "cpu":
            pack_for_cpu(model)
        return Encoder(model, preprocessor, identity)

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self.identity.dimension

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model runs in."""
        return self.model.dtype

    def encode(self, records: Sequence[Record]) -> np.ndarray:
        """Records to vectors float32 [N, D] in their order; a bad one raises RecordError with its index."""
        pixels = [self._pixels(record, index) for index, record in enumerate(records)]
        tokens = self.preprocessor.tokenize(
            [record.text for record in records], [image is not None for image in pixels]
        )
        return self.encode_tensors([item.input_ids for item in tokens], pixels)

    def encode_tensors(self, input_ids: Sequence[np.ndarray], pixels: Sequence[np.ndarray | None]) -> np.ndarray:
        """What a Preprocessor made, to vectors float32 [N, D] in input order.

        `input_ids` int [L] each, `pixels` uint8 [S, S, 3] each or None.
        """
        return encode_tensors(self.model, input_ids, pixels).cpu().numpy()

    def _pixels(self, record: Record, index: int) -> np.ndarray | None:
        if not record.text and record.image is None:
            raise RecordError("empty_record", "neither text nor image", index)
        try:
            return None if record.image is None else self.preprocessor.open_image(record.image)
        except RecordError as error:
            raise RecordError(error.reason, error.message, index) from error


@torch.inference_mode()
def encode_tensors(
    model: VistaModel,
    input_ids: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray | None],
    token_budget: int | None = None,
) -> torch.Tensor:
    """Vectors float32 [N, D] on the model's device, in input order, computed in batches of similar length."""
    device = model.device
    budget = token_budget or TOKEN_BUDGETS[device.type]
    vectors = torch.empty(len(input_ids), model.config.dimension, device=device)
    with_image = [index for index, image in enumerate(pixels) if image is not None]
    text_only = [index for index, image in enumerate(pixels) if image is None]
    for group, extra in ((with_image, model.config.vision.tokens), (text_only, 0)):
        for batch in plan_batches([len(input_ids[index]) + extra for index in group], budget):
            indices = [group[place] for place in batch]
            images = [image for index in indices if (image := pixels[index]) is not None]
            vectors[indices] = _encode_batch(model, [input_ids[index] for index in indices], images)
    return vectors


def _encode_batch(model: VistaModel, input_ids: list[np.ndarray], images: list[np.ndarray]) -> torch.Tensor:
    """One batch; where it does not fit a GPU's memory, its halves."""
    try:
        return _forward(model, input_ids, images)
    except torch.OutOfMemoryError:
        if len(input_ids) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(input_ids) // 2
    parts = (slice(half), slice(half, None))
    return torch.cat([_encode_batch(model, input_ids[part], images[part]) for part in parts])


def _forward(model: VistaModel, input_ids: list[np.ndarray], images: list[np.ndarray]) -> torch.Tensor:
    device, lengths = model.device, np.array([len(ids) for ids in input_ids])
    padded = np.full((len(input_ids), lengths.max()), model.config.text.pad_id, dtype=np.int32)
    for row, ids in zip(padded, input_ids, strict=True):
        row[: len(ids)] = ids
    pixel_values = normalise(_stacked(images, device)) if images else None
    ragged = bool((lengths != lengths[0]).any())  # without padding, attention needs no mask and is faster
    true_lengths = torch.from_numpy(lengths).to(device) if ragged else None
    return model(torch.from_numpy(padded).to(device), pixel_values, true_lengths)


def _stacked(images: list[np.ndarray], device: torch.device) -> torch.Tensor:
    """Pixels as uint8 [B, S, S, 3] on the device; a GPU fetches them from pinned memory while the CPU goes on."""
    shape = (len(images), *images[0].shape)
    stacked = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(images, out=stacked.numpy())
    return stacked.to(device, non_blocking=True)


def identity_of(settings: EncoderSettings) -> EncoderIdentity:
    """The identity that `Encoder.load(settings)` would have, without building the model."""
    config = resolve_config(settings)
    checkpoint = open_checkpoint(weights_path(settings))
    check_keys(config, checkpoint)
    return identify(settings, config, checkpoint)


def identify(settings: EncoderSettings, config: ModelConfig, checkpoint: Checkpoint) -> EncoderIdentity:
    """The identity of an encoder whose files are open already."""
    return EncoderIdentity(
        model=settings.model,
        weights=weights_digest(config, checkpoint),
        tokenizer=tokenizer_digest(read_tokenizer(text_folder(settings))),
        config=config.digest(),
        dtype=resolve_dtype(settings.dtype, resolve_device(settings.device).type, config),
        preprocessing=PREPROCESSING_VERSION,
        alpha=settings.alpha,
        max_tokens=config.max_tokens(settings.max_tokens),
        dimension=config.dimension,
    )
