"""Visualized-BGE: texts, images and images with text as vectors in one space. No Ray, Lance or object storage."""

import importlib
from typing import TYPE_CHECKING, Any

from vista_core.batching import plan_batches
from vista_core.config import MODELS, EncoderSettings, ModelConfig
from vista_core.errors import REJECT_REASONS, CheckpointError, DownloadError, RecordError, UsageError, VistaError
from vista_core.identity import EncoderIdentity
from vista_core.preprocessor import Preprocessor, Record
from vista_core.tokenizer import Tokens

if TYPE_CHECKING:
    from vista_core.drop_in import Visualized_BGE
    from vista_core.encoder import Encoder, encoder_identity

__all__ = [
    "MODELS",
    "REJECT_REASONS",
    "CheckpointError",
    "DownloadError",
    "Encoder",
    "EncoderIdentity",
    "EncoderSettings",
    "ModelConfig",
    "Preprocessor",
    "Record",
    "RecordError",
    "Tokens",
    "UsageError",
    "VistaError",
    "Visualized_BGE",
    "encoder_identity",
    "plan_batches",
]

# These modules import torch, which takes two seconds and 200 MB. Most processes of a job don't need it.
_WITH_TORCH = {
    "Encoder": "vista_core.encoder",
    "Visualized_BGE": "vista_core.drop_in",
    "encoder_identity": "vista_core.encoder",
}


def __getattr__(name: str) -> Any:
    """Import the names that need torch when they are first used (PEP 562)."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WITH_TORCH[name]), name)
