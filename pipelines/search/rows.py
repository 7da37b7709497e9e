"""The rows of results: found by their address in one version of a table, or by their id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.records import ID
from pipelines.search.pinned import PinnedTable
from pipelines.tables.dataset import quoted
from vista_core import UsageError

ROW = "_rowid"  # Lance's name of a row's address


def rows_at(table: PinnedTable, addresses: Sequence[int]) -> pa.Table:
    """The rows at some addresses, in this order: `id` and the columns of results, by their names there."""
    columns = table.columns
    found = take(table, addresses, [*([table.id] if table.id else []), *columns.values()])
    key = found[table.id] if table.id else pa.array([str(address) for address in addresses], pa.string())
    values = [key, *(found[name] for name in columns.values())]
    return pa.table(values, names=[ID, *columns])


def take(table: PinnedTable, addresses: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Some columns of the rows at some addresses, in this order."""
    # Lance's public `take` has row numbers instead, and a filter on the address takes six times as long.
    return table.dataset._take_rows(list(addresses), list(dict.fromkeys(names)))


def address_of(table: PinnedTable, key: str | int) -> int:
    """The address of the row with an id. Raises UsageError if there is none."""
    found = addresses_of(table, [key])
    if not found:
        raise UsageError(f"{table.name} has no row with the id {key!r}")
    return found[key]


def addresses_of(table: PinnedTable, keys: Sequence[str | int]) -> dict[str | int, int]:
    """The address of each row that has one of some ids, by id; of several rows with one id, that of the first."""
    if not keys:
        return {}
    name = ROW if table.id is None else table.id
    as_text = table.id is not None and pa.types.is_string(table.dataset.schema.field(name).type)
    wanted = {str(key): key for key in keys}
    literals = [quoted(key) if as_text else key for key in wanted if as_text or is_number(key)]
    if not literals:
        return {}
    where = f"`{name}` IN ({', '.join(literals)})" if name != ROW else f"{ROW} IN ({', '.join(literals)})"
    found = table.dataset.to_table([] if name == ROW else [name], where, with_row_id=True)
    pairs = sorted(zip(found[ROW].to_pylist(), found[name].to_pylist(), strict=True), reverse=True)
    return {wanted[str(key)]: address for address, key in pairs if str(key) in wanted}


def is_number(text: str) -> bool:
    """True for what is written as a whole number, so that a filter can have it."""
    return text.isascii() and text.removeprefix("-").isdigit()


def vector_at(table: PinnedTable, address: int) -> np.ndarray:
    """The vector of a row, float32 [D]. Raises UsageError if it has none."""
    [vector] = take(table, [address], [table.vector])[table.vector].to_pylist()
    if vector is None:
        raise UsageError(f"{table.name}: that row has no vector, so nothing can be found by it")
    return np.array(vector, np.float32)
