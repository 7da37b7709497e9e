"""Visualized-BGE (VISTA, arXiv 2406.04292): image tokens read by a text encoder, between its CLS and the text.

[CLS] [image 1..N] [text ... SEP]   ->   text tower   ->   CLS, L2-normalised
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vista_core.config import ModelConfig
from vista_core.linear import Linear
from vista_core.text import TextTower, token_mask
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

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """One batch to float32 vectors of norm 1, [B, dimension].

        `input_ids` int [B, L], padded on the right to L; `lengths` [B] gives the true ones where any differ.
        `pixel_values` [B, 3, S, S], normalised; without it the batch is text alone.
        """
        if pixel_values is None:
            sequence = self._text_alone(input_ids)
        else:
            sequence = self._beside_image(input_ids, pixel_values)
            lengths = None if lengths is None else lengths + self.config.vision.tokens
        mask = None if lengths is None else token_mask(lengths, sequence.shape[1])
        return F.normalize(self.text(sequence, mask).float(), dim=-1)

    def _text_alone(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + self.config.text.position_offset
        return self.text.embeddings.words(input_ids, positions)

    def _beside_image(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """[B, 1 + N + L - 1, W]; positions count from 0 in both families, the text's go on behind the image."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        positions[1:] += self.config.vision.tokens
        words = self.text.embeddings.words(input_ids, positions)
        tokens = self.visual_proj(
            self.vision(pixel_values.to(self.dtype))[:, 1:]
        )  # the vision tower's CLS stays behind
        return torch.cat([words[:, :1], self.text.embeddings.image(tokens), words[:, 1:]], dim=1)
