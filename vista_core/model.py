"""Visualized-BGE (VISTA, arXiv 2406.04292): a text encoder that reads image tokens before the text.

    [CLS] [image 1..N] [text ... SEP]   ->   text tower   ->   CLS pooling   ->   L2 normalisation

CLS pooling: the vector is the last hidden state of [CLS]. It isn't the mean over tokens, and there is no pooler layer.
The last text layer computes this state only (`text.LastTextLayer`).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vista_core.attention import Rows, on_device
from vista_core.batching import positions_within
from vista_core.config import ModelConfig
from vista_core.linear import Linear
from vista_core.text import TextTower
from vista_core.vision import VisionTower


class VistaModel(nn.Module):
    """Both towers, and the projection of image tokens from the vision tower's width to the text tower's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.visual_proj = Linear(config.vision.width, config.text.width)
        self.text = TextTower(config.text)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.text.embeddings.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the parameters."""
        return self.text.embeddings.norm.weight.dtype

    def forward(self, input_ids: Tensor, lengths: np.ndarray, images: Tensor | None = None) -> Tensor:
        """One batch to float32 vectors of norm 1, [B, dimension]: CLS pooling, then L2 normalisation.

        `input_ids` int [T] are the concatenated ids of B texts, and `lengths` int [B] the lengths of these; ascending
        lengths are fastest. `images` are pixels, uint8 [B, S, S, 3], or normalised, [B, 3, S, S]; None for texts alone.
        """
        return self.encode(input_ids, lengths, None if images is None else self.image_tokens(images))

    def image_tokens(self, images: Tensor) -> Tensor:
        """Pixels of B images, as `forward` takes them, to what the text tower reads of them: [B, N, W]."""
        patches = self.vision(images)[:, 1:]  # without the vision tower's own CLS
        return self.text.embeddings.image(self.visual_proj(patches))

    def encode(self, input_ids: Tensor, lengths: np.ndarray, image_tokens: Tensor | None) -> Tensor:
        """`forward` with the `image_tokens` of the images, [B, N, W]; training computes those of an image only once."""
        if image_tokens is None:
            embedded = self._embed_texts(input_ids, lengths)
        else:
            embedded = self._embed_pairs(input_ids, lengths, image_tokens)
            lengths = lengths + self.config.vision.tokens
        cls = self.text(embedded, lengths)  # CLS pooling: the text tower returns only CLS
        return F.normalize(cls.float(), dim=-1)

    def _embed_texts(self, input_ids: Tensor, lengths: np.ndarray) -> Tensor:
        """Concatenated texts to embeddings [T, W]."""
        positions = positions_within(lengths) + self.config.text.position_offset
        return self.text.embeddings.words(input_ids, on_device(positions, input_ids.device))

    def _embed_pairs(self, input_ids: Tensor, lengths: np.ndarray, image_tokens: Tensor) -> Tensor:
        """[CLS] [image 1..N] [text ... SEP] of each pair as embeddings [T + B*N, W].

        Positions start at 0 for both families. Image tokens have positions 1 to N, the text continues after them.
        """
        count, per_image = len(lengths), self.config.vision.tokens
        in_text = positions_within(lengths)
        positions = on_device(in_text + per_image * (in_text > 0), input_ids.device)
        words = self.text.embeddings.words(input_ids, positions)
        starts = np.cumsum(lengths) - lengths
        image_rows = len(in_text) + np.arange(count * per_image)  # in the concatenation of words and image tokens
        order = np.insert(np.arange(len(in_text)), np.repeat(starts + 1, per_image), image_rows)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        rows = torch.cat([words, image_tokens.flatten(0, 1)])
        return Rows.apply(rows, *(on_device(each, input_ids.device) for each in (order, back)))
