"""Visualized-BGE (VISTA, arXiv 2406.04292): image tokens read by a text encoder, between its CLS and the text.

[CLS] [image 1..N] [text ... SEP]   ->   text tower   ->   CLS, L2-normalised
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vista_core.attention import Packing, on_device
from vista_core.batching import places_within
from vista_core.config import ModelConfig
from vista_core.linear import Linear
from vista_core.text import TextTower
from vista_core.vision import VisionTower


class VistaModel(nn.Module):
    """Both towers and the projection between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.visual_proj = Linear(config.vision.width, config.text.width)
        self.text = TextTower(config.text)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.vision.cls_token.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the parameters."""
        return self.vision.cls_token.dtype

    def forward(self, input_ids: Tensor, lengths: np.ndarray, pixel_values: Tensor | None = None) -> Tensor:
        """One batch to float32 vectors of norm 1, [B, dimension].

        `input_ids` int [T] of B texts, one behind the other, and the `lengths` int [B] of these; rising is fastest.
        `pixel_values` [B, 3, S, S], normalised, or None for texts alone.
        """
        if pixel_values is None:
            embedded = self._text_alone(input_ids, lengths)
        else:
            embedded = self._beside_image(input_ids, lengths, pixel_values)
            lengths = lengths + self.config.vision.tokens
        return F.normalize(self.text(embedded, Packing(lengths, input_ids.device)).float(), dim=-1)

    def _text_alone(self, input_ids: Tensor, lengths: np.ndarray) -> Tensor:
        positions = places_within(lengths) + self.config.text.position_offset
        return self.text.embeddings.words(input_ids, on_device(positions, input_ids.device))

    def _beside_image(self, input_ids: Tensor, lengths: np.ndarray, pixel_values: Tensor) -> Tensor:
        """[CLS] [image 1..N] [text ... SEP] of each; positions count from 0 in both families."""
        count, image_tokens = len(lengths), self.config.vision.tokens
        places = places_within(lengths)
        positions = on_device(places + image_tokens * (places > 0), input_ids.device)
        words = self.text.embeddings.words(input_ids, positions)
        patches = self.vision(pixel_values.to(self.dtype))[:, 1:]  # the vision tower's CLS stays behind
        image = self.text.embeddings.image(self.visual_proj(patches)).flatten(0, 1)  # [B*N, W]
        first = np.cumsum(lengths) - lengths
        of_image = len(places) + np.arange(count * image_tokens).reshape(count, image_tokens)
        order = np.insert(np.arange(len(places)), np.repeat(first + 1, image_tokens), of_image.reshape(-1))
        return torch.cat([words, image]).index_select(0, on_device(order, input_ids.device))
