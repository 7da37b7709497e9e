"""The encoder of the queries: the one that filled the column or, if that is not known, the one that is named."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.search.pinned import PinnedTable
from pipelines.storage.uris import absolute
from pipelines.storage.weights import local_file
from vista_core import EncoderSettings, UsageError, display_name
from vista_core.hub import resolve_config

if TYPE_CHECKING:
    from vista_core import Encoder


@dataclass(frozen=True)
class EncoderChoice:
    """What a user says of the encoder; None: as it is stored with the table. See the options of the same names.

    It holds for the column that is searched first: a table's default column may become another one.
    """

    model: str | None = None
    weights: str | None = None
    from_pretrained: str | None = None
    device: str = "auto"
    column: str | None = None  # the column that the others are said of; None: any

    def of(self, column: str) -> EncoderChoice:
        """The choice for a column: of any other than it was made for, only the device."""
        return self if self.column in (None, column) else EncoderChoice(device=self.device)


def load_encoder(table: PinnedTable, choice: EncoderChoice) -> Encoder:
    """The encoder of the table's column, in float32.

    Raises UsageError if the files in use now make another encoder than the column's, or if neither the column nor
    `choice` names a model.
    """
    from vista_core import Encoder  # imports torch

    choice = choice.of(table.vector)
    settings = query_settings(table, choice)
    encoder = Encoder.load(settings)
    stored = table.column.identity if table.column else None
    if stored and (differences := encoder.identity.differences(dataclasses.replace(stored, dtype="float32"))):
        raise UsageError(
            f"{table.name} was embedded with another encoder: {'; '.join(differences)}. "
            "Name the files it was embedded with: --weights, --from-pretrained"
        )
    return encoder


def query_settings(table: PinnedTable, choice: EncoderChoice) -> EncoderSettings:
    """The settings that the column was filled with; `choice` overrides where the encoder's files are."""
    stored = table.column.identity if table.column else None
    model = choice.model or table.origin.model
    if model is None:
        raise UsageError(
            f"{table.name}: the column `{table.vector}` does not name the encoder of its vectors. "
            "Name its model: --model"
        )
    if stored is not None and model != stored.model:
        raise UsageError(
            f"{table.name}: the column `{table.vector}` was embedded with another encoder: --model {model}, "
            f"but {stored.model} in the table"
        )
    settings = EncoderSettings(
        model=model,
        weights=local_file(absolute(choice.weights) if choice.weights else table.origin.weights),
        from_pretrained=absolute(choice.from_pretrained) if choice.from_pretrained else table.origin.from_pretrained,
        device=choice.device,
    )
    dimension = resolve_config(settings).dimension
    if dimension != table.dimension:
        raise UsageError(
            f"{table.name}: the column `{table.vector}` has vectors of dimension {table.dimension}, but those of "
            f"--model {display_name(model, choice.weights)} have {dimension}"
        )
    if table.column is not None:
        settings = table.column.settings(settings)
    # The column's precision was chosen for speed; one query can have the most exact vector.
    return dataclasses.replace(settings, dtype="float32")


def same_encoder(one: PinnedTable, other: PinnedTable) -> bool:
    """True if the encoder of a table's column is that of another's, as far as the tables say.

    Of a column that names none, it is what the user said of this column.
    """
    if one.column is None or other.column is None:
        return one.column is other.column and (one.vector, one.dimension) == (other.vector, other.dimension)
    return (one.column.identity, one.origin) == (other.column.identity, other.origin)
