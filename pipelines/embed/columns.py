"""The vector columns that a run fills, each by its own encoder: the default one, and all others that are complete."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import lance
import pyarrow as pa

from pipelines.embed.config import EmbedConfig
from pipelines.tables.default_column import default_column
from pipelines.tables.encoder_choice import EncoderOptions, choose_encoder
from pipelines.tables.fresh_columns import OtherColumns, is_of_own_content, made_by_encoders
from pipelines.tables.origin import encoder_files, vista_column
from pipelines.tables.vector_column import DEFAULT, VectorColumn
from vista_core import EncoderSettings, UsageError, VistaError

Device = Literal["cpu", "cuda"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptColumn:
    """A vector column that the run fills, and the settings of its encoder."""

    column: VectorColumn
    settings: EncoderSettings

    @property
    def encoder(self) -> str:
        """The encoder as people need to know it."""
        return f"{self.column.identity.model}, {self.column.identity.dtype}"


def kept_columns(config: EmbedConfig, device: Device, existing: lance.LanceDataset | None) -> tuple[KeptColumn, ...]:
    """The columns that a run fills, the default one first. The options are of the column whose encoder has the model.

    Raises UsageError if no column has it, or if an encoder is another one than that of the column, or can't be had.
    """
    if existing is None:
        settings, column = choose_encoder(config.encoder, device, DEFAULT, None)
        return (KeptColumn(column, settings),)
    name, others = default_column(existing), OtherColumns.of(existing)
    for why in others.left:
        log.warning("%s: %s; new rows have no vector there", config.table, why)
    if config.reembed:
        first = replacing(config, device, name, existing)
        return (first, *(by_stored_encoder(config, device, existing, each) for each in others.fresh))
    columns = (vista_column(existing, name), *others.fresh)
    if not is_of_own_content(existing.schema.field(name)):
        raise UsageError(
            f"{existing.uri}: the default column `{name}` is made of other columns of the table than embed takes. "
            "`vista switch` makes another column the default"
        )
    asked = column_of_options(config, columns, existing)
    kept = []
    for column in columns:
        if column is asked:
            settings, found = choose_encoder(config.encoder, device, column.name, column)
            if config.encoder.files.folder is not None:  # the table will say where the folder is now
                found = dataclasses.replace(found, files=config.encoder.files)
            kept.append(KeptColumn(found, settings))
        else:
            kept.append(by_stored_encoder(config, device, existing, column))
    return tuple(kept)


def replacing(config: EmbedConfig, device: Device, name: str, existing: lance.LanceDataset) -> KeptColumn:
    """The default column, with the encoder that replaces its own."""
    settings, column = choose_encoder(config.encoder, device, name, None)
    column = dataclasses.replace(column.with_floats_of(existing.schema), files=config.encoder.files)
    return KeptColumn(column, settings)


def column_of_options(
    config: EmbedConfig, columns: Sequence[VectorColumn], existing: lance.LanceDataset
) -> VectorColumn:
    """The column that --model and the other options of an encoder are said of. Raises UsageError if there is none.

    Of two columns whose models have the same name it is the one whose model folder the options name.
    """
    name = config.encoder.name
    found = [each for each in columns if each.identity.model == name]
    if config.encoder.files.folder is not None:
        found.sort(key=lambda each: encoder_files(existing, each) != config.encoder.files)
    if not found and len(columns) > 1:
        models = ", ".join(f"`{each.name}` of {each.identity.model}" for each in columns)
        raise UsageError(
            f"--model {name}: no column of {config.table} is of this model. They are {models}: give one of "
            "these models, or fill another column by `vista backfill`, or replace the whole column "
            f"`{columns[0].name}` by --reembed"
        )
    return found[0] if found else columns[0]


def by_stored_encoder(
    config: EmbedConfig, device: Device, existing: lance.LanceDataset, column: VectorColumn
) -> KeptColumn:
    """A column with the encoder that the table names for it. Raises UsageError if it can't be had."""
    files = encoder_files(existing, column)
    options = EncoderOptions(
        files.model(column.identity.model),
        files.weights,
        files.from_pretrained,
        inference_tokens=config.inference_tokens,
    )
    try:
        settings, found = choose_encoder(options, device, column.name, column)
    except VistaError as error:
        raise UsageError(
            f"{files.why_lost(f'`{column.name}` of {config.table}', column.identity.model, error)}, or remove the "
            f"column: `vista drop-column --column {column.name}`"
        ) from error
    return KeptColumn(found, settings)


def require_other_names(source: pa.Schema, existing: lance.LanceDataset | None) -> None:
    """Raise UsageError if the source has a column with the name of a vector column of the table, or of fingerprints."""
    for name in sorted(made_by_encoders(existing.schema)) if existing is not None else ():
        if name in source.names:
            raise UsageError(
                f"the source has a column {name!r}, which in the table is the work of an encoder. Rename the source's"
            )
