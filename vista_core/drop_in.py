"""Drop-in replacement for FlagEmbedding's `Visualized_BGE` class: the same constructor and methods, batched."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vista_core.checkpoint import load_model, open_checkpoint
from vista_core.config import MODELS, EncoderSettings
from vista_core.device import DTYPES, resolve_device, resolve_dtype
from vista_core.encoder import encode_tensors
from vista_core.errors import UsageError
from vista_core.hub import resolve_config, weights_path
from vista_core.image import square_pixels
from vista_core.linear import pack_for_cpu
from vista_core.model_folder import is_model_folder
from vista_core.preprocessor import ImageSource, Preprocessor
from vista_core.vision import normalise

_TEXT_MODELS = {"bge-base-en-v1.5": "bge-visualized-base-en-v1.5", "bge-m3": "bge-visualized-m3"}


class Visualized_BGE(nn.Module):  # noqa: N801 - the reference's name
    """Encodes images, texts and images with text, for inference only.

    `model_name_bge` is the text model, as in the reference ("BAAI/bge-base-en-v1.5", "BAAI/bge-m3"), or one of MODELS,
    or a local model folder, which has the weights, too.
    `from_pretrained` is a local folder with `config.json` and tokenizer; such a folder given as `model_name_bge` serves
    as both. `dtype="auto"` chooses the fastest precision of the machine instead of float32. Arguments of the
    reference that are not supported raise UsageError.
    """

    def __init__(
        self,
        model_name_bge: str | None = None,
        model_weight: str | Path | None = None,
        normlized: bool = True,
        sentence_pooling_method: str = "cls",
        negatives_cross_device: bool = False,
        temperature: float = 0.02,
        from_pretrained: str | Path | None = None,
        *,
        dtype: str = "float32",
        device: str = "auto",
    ) -> None:
        super().__init__()
        _refuse_unsupported(normlized, sentence_pooling_method, negatives_cross_device)
        settings = EncoderSettings(
            model=_model_name(model_name_bge),
            weights=None if model_weight is None else str(model_weight),
            from_pretrained=_folder(model_name_bge, from_pretrained),
            device=device,
            dtype=dtype,
            resize="exact",
        )
        target, config = resolve_device(device), resolve_config(settings)
        precision = DTYPES[resolve_dtype(dtype, target.type, config)]
        self.temperature = temperature
        self.preprocessor = Preprocessor.load(settings)
        self.model = load_model(config, open_checkpoint(weights_path(settings)), precision)
        self.requires_grad_(False).eval().to(target)
        if target.type == "cpu" and dtype == "auto":  # a packed model is fastest, but can't move to another device
            pack_for_cpu(self.model)

    def train(self, mode: bool = True) -> Self:
        """Accepted for compatibility; it affects no vector, since the model has no dropout."""
        return super().train(mode)

    def encode(
        self,
        image: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
    ) -> Tensor | None:
        """Encode one image, text or image with text to float32 [1, D], or lists of equal length to [N, D].

        An image is a path, an open image or its encoded bytes. Without image and text, the result is None, as in the
        reference. Raises UsageError for lists of different lengths, RecordError for an image that can't be decoded.
        """
        images, texts = _listed(image), _listed(text)
        if images is None and texts is None:
            return None
        count = len(images if images is not None else texts or [])
        images, texts = images or [None] * count, texts or [None] * count
        if len(images) != len(texts):
            raise UsageError(f"encode() got {len(images)} images and {len(texts)} texts; give the same number of each")
        pixels = [None if item is None else self.preprocessor.open_image(item) for item in images]
        tokens = self.preprocessor.tokenize(texts, [item is not None for item in images])
        return encode_tensors(self.model, [item.input_ids for item in tokens], pixels).clone()

    def preprocess_val(self, image: Image.Image) -> Tensor:
        """An open image to a normalised tensor [3, S, S]; stack these for `encode_image` and `encode_mm`."""
        return normalise(torch.from_numpy(square_pixels(image, self.preprocessor.image_size)))

    def encode_text(self, texts: Mapping[str, Tensor]) -> Tensor:
        """Right-padded token ids, `input_ids` and `attention_mask` [B, L], to vectors [B, D]."""
        return self.model(*_packed(texts))

    def encode_mm(self, images: Tensor, prompts: Mapping[str, Tensor]) -> Tensor:
        """Normalised images [B, 3, S, S] with right-padded token ids of their texts [B, L] to vectors [B, D]."""
        return self.model(*_packed(prompts), images)

    def encode_image(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to vectors [B, D]; each is encoded with an empty text."""
        empty = self.preprocessor.tokenize([""], [True])[0].input_ids
        ids = torch.from_numpy(np.tile(empty, len(images))).to(images.device)
        return self.model(ids, np.full(len(images), len(empty)), images)

    def compute_similarity(self, q_reps: Tensor, p_reps: Tensor) -> Tensor:
        """Dot products of [Q, D] and [P, D] as [Q, P]: cosines, since vectors have norm 1."""
        return q_reps @ p_reps.transpose(-2, -1)


def _packed(texts: Mapping[str, Tensor]) -> tuple[Tensor, np.ndarray]:
    """Padded token ids in the model's own layout: concatenated ids [T], and the lengths [B] of the texts."""
    mask = texts["attention_mask"].bool()
    return texts["input_ids"][mask], mask.sum(1).cpu().numpy()


def _refuse_unsupported(normlized: bool, sentence_pooling_method: str, negatives_cross_device: bool) -> None:
    if not normlized:
        raise UsageError("normlized=False is not supported: the models are trained for vectors of norm 1; leave it out")
    if sentence_pooling_method != "cls":
        raise UsageError(
            f"sentence_pooling_method {sentence_pooling_method!r} is not supported: the models are trained with 'cls'"
        )
    if negatives_cross_device:
        raise UsageError("negatives_cross_device is for training, which this class doesn't support; pass False")


def _model_name(model_name_bge: str | None) -> str:
    name = model_name_bge or ""
    known = (model for text_model, model in _TEXT_MODELS.items() if text_model in name)
    model = name if name in MODELS or is_model_folder(Path(name)) else next(known, None)
    if model is None:
        choices = ", ".join(["BAAI/bge-base-en-v1.5", "BAAI/bge-m3", *MODELS])
        raise UsageError(f"model_name_bge {model_name_bge!r} is none of {choices}, and no model folder")
    return model


def _folder(model_name_bge: str | None, from_pretrained: str | Path | None) -> str | None:
    """The folder to read: as in transformers, a local folder may be given instead of the hub's name."""
    if from_pretrained is None and model_name_bge and (Path(model_name_bge) / "config.json").is_file():
        return None if is_model_folder(Path(model_name_bge)) else model_name_bge
    return None if from_pretrained is None else str(from_pretrained)


def _listed(value: Any) -> list | None:
    return value if value is None else list(value) if isinstance(value, list | tuple) else [value]
