"""Visualized-BGE: texts, images and images with text as vectors of one space. No Ray, no Lance, no object storage."""

from vista_core.batching import plan_batches
from vista_core.config import MODELS, EncoderSettings, ModelConfig, display_name
from vista_core.drop_in import Visualized_BGE
from vista_core.encoder import Encoder, Preprocessor, Record
from vista_core.errors import REJECT_REASONS, CheckpointError, DownloadError, RecordError, UsageError, VistaError
from vista_core.identity import EncoderIdentity
from vista_core.tokenizer import Tokens

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
    "display_name",
    "plan_batches",
]
