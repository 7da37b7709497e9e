"""Which encoder a run uses: the one asked for; what the user leaves open is taken from the column that is there."""

from __future__ import annotations

import dataclasses

from pipelines.cluster.resources import Resources
from pipelines.embed.config import EmbedConfig, encoder_settings
from pipelines.storage.weights import local_file
from pipelines.tables.vector_column import DEFAULT, VectorColumn
from vista_core import MODELS, EncoderSettings, UsageError, encoder_identity
from vista_core.device import resolve_dtype


def choose_encoder(
    config: EmbedConfig, uses: Resources, existing: VectorColumn | None
) -> tuple[EncoderSettings, VectorColumn]:
    """The encoder's settings, and the column that it fills. Raises UsageError if `existing` has another encoder."""
    settings = chosen_settings(config, uses, existing)
    identity = encoder_identity(dataclasses.replace(settings, device="cpu", weights=local_file(settings.weights)))
    if existing is not None and (differences := identity.differences(existing.identity)):
        raise UsageError(
            f"{config.table_uri}: the column `{existing.name}` was embedded with another encoder, and the "
            f"vectors of two can't be compared: {'; '.join(differences)}. Use the column's encoder or another --table, "
            "or replace the whole column with --reembed"
        )
    column = VectorColumn(DEFAULT, identity)
    if existing is not None:
        column = dataclasses.replace(column, since=existing.since, values=existing.values)
    # The precision is not for each actor's machine to decide.
    return dataclasses.replace(settings, dtype=identity.dtype), column


def chosen_settings(config: EmbedConfig, uses: Resources, existing: VectorColumn | None) -> EncoderSettings:
    """The settings asked for, completed from the existing column or, without one, by what is fastest here."""
    settings = dataclasses.replace(encoder_settings(config), device=uses.device)
    if existing is not None:
        inherited = existing.settings(settings)
        return dataclasses.replace(
            inherited,
            dtype=inherited.dtype if config.dtype == "auto" else config.dtype,
            alpha=config.alpha or inherited.alpha,
            resize=config.resize or inherited.resize,
            max_tokens=config.max_tokens or inherited.max_tokens,
        )
    if uses.device == "cuda" and settings.dtype == "auto":
        # The driver's machine need not have the GPU that the actors will have.
        return dataclasses.replace(settings, dtype=resolve_dtype("auto", "cuda", MODELS[config.model]))
    return settings
