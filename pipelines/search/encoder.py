"""The encoder of the queries: the one that filled the column or, if that is not known, the one that is named."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.search.pinned import PinnedTable
from pipelines.storage.model_files import absolute_model, local_files
from pipelines.storage.uris import absolute
from pipelines.tables.vector_column import EncoderFiles
from vista_core import EncoderSettings, UsageError, VistaError
from vista_core.config import is_folder
from vista_core.hub import model_name, resolve_config

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

    Raises UsageError if the files in use now make another encoder than the column's, if they are gone, or if neither
    the column nor `choice` names a model.
    """
    from vista_core import Encoder  # imports torch

    choice = choice.of(table.vector)
    settings = query_settings(table, choice)
    with naming_the_folder(table, choice):
        encoder = Encoder.load(local_files(settings))
    stored = table.column.identity if table.column else None
    if stored and (differences := encoder.identity.differences(dataclasses.replace(stored, dtype="float32"))):
        options = "--model FOLDER" if is_folder(settings.model) else "--weights, --from-pretrained"
        raise UsageError(
            f"{table.name} was embedded with another encoder: {'; '.join(differences)}. "
            f"Name the files it was embedded with: {options}"
        )
    return encoder


def query_settings(table: PinnedTable, choice: EncoderChoice) -> EncoderSettings:
    """The settings that the column was filled with; `choice` overrides where the encoder's files are."""
    stored, files = table.column.identity if table.column else None, table.origin.files
    model = choice.model or table.origin.model
    if model is None:
        raise UsageError(
            f"{table.name}: the column `{table.vector}` does not name the encoder of its vectors. "
            "Name its model: --model"
        )
    if model == table.origin.model:
        model = files.model(model)
    elif is_folder(model):
        model, files = absolute_model(model), EncoderFiles()
    settings = EncoderSettings(
        model=model,
        weights=absolute(choice.weights) if choice.weights else files.weights,
        from_pretrained=absolute(choice.from_pretrained) if choice.from_pretrained else files.from_pretrained,
        device=choice.device,
    )
    with naming_the_folder(table, choice):
        here = local_files(settings, weights=False)
        name = model_name(here)
    if stored is not None and name != stored.model:
        raise UsageError(
            f"{table.name}: the column `{table.vector}` was embedded with another encoder: --model {name}, "
            f"but {stored.model} in the table"
        )
    dimension = resolve_config(here).dimension
    if dimension != table.dimension:
        raise UsageError(
            f"{table.name}: the column `{table.vector}` has vectors of dimension {table.dimension}, but those of "
            f"--model {name} have {dimension}"
        )
    if table.column is not None:
        settings = table.column.settings(settings)
    # The column's precision was chosen for speed; one query can have the most exact vector.
    return dataclasses.replace(settings, dtype="float32")


@contextlib.contextmanager
def naming_the_folder(table: PinnedTable, choice: EncoderChoice) -> Iterator[None]:
    """Errors of a model folder that only the table names, as a UsageError that says where it was, and the cure."""
    try:
        yield
    except VistaError as error:
        origin = table.origin
        if origin.model is None or origin.files.folder is None or choice.model not in (None, origin.model):
            raise
        column = f"`{table.vector}` of {table.name}"
        raise UsageError(origin.files.why_lost(column, origin.model, error)) from error


def same_encoder(one: PinnedTable, other: PinnedTable) -> bool:
    """True if the encoder of a table's column is that of another's, as far as the tables say.

    Of a column that names none, it is what the user said of this column.
    """
    if one.column is None or other.column is None:
        return one.column is other.column and (one.vector, one.dimension) == (other.vector, other.dimension)
    return (one.column.identity, one.origin) == (other.column.identity, other.origin)
