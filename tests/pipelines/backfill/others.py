"""What other clients of a table do while a column of it is filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lance
import pyarrow.compute as pc

from pipelines.events import Event
from tests.pipelines.backfill.tables import COLUMN, products


def append(uri: str) -> None:
    first = 1000 * lance.dataset(uri).version  # ids stay unique if it is done again
    lance.write_dataset(products(range(first, first + 25)), uri, mode="append")


def delete(uri: str) -> None:
    lance.dataset(uri).delete("price % 7 = 3")


def delete_a_fragment(uri: str) -> None:
    lance.dataset(uri).delete("price < 20")


def change_texts(uri: str) -> None:
    lance.dataset(uri).update({"caption": "concat('changed ', caption)"}, where="price % 5 = 1")


def change_prices(uri: str) -> None:
    lance.dataset(uri).update({"price": "price + 100000"}, where="price % 5 = 2")


def compact(uri: str) -> None:
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1_000)


def rewrite_a_column(uri: str) -> None:
    """Exchange texts in place: Lance rewrites the column of the fragments, and moves no row."""
    table = lance.dataset(uri)
    rows = table.to_table(["sku", "caption"], filter="price % 11 = 4")
    rows = rows.set_column(1, "caption", pc.binary_join_element_wise("exchanged ", rows["caption"], ""))
    table.merge_insert("sku").when_matched_update_all().execute(rows)


def add_a_column(uri: str) -> None:
    table = lance.dataset(uri)
    if "more" not in table.schema.names:
        table.add_columns({"more": "price * 2"})


def build_indexes(uri: str) -> None:
    table = lance.dataset(uri)
    table.create_scalar_index("sku", "BTREE", replace=True)
    if table.count_rows(f"{COLUMN} IS NOT NULL") >= 10:
        lance.dataset(uri).create_index(COLUMN, "IVF_FLAT", num_partitions=1, metric="cosine", replace=True)


OPERATIONS: dict[str, Callable[[str], None]] = {
    each.__name__: each
    for each in (
        append,
        delete,
        delete_a_fragment,
        change_texts,
        change_prices,
        compact,
        rewrite_a_column,
        add_a_column,
        build_indexes,
    )
}


class Meddling:
    """A listener that does something to the table at the first event of a kind, and then calls `after`."""

    def __init__(
        self, uri: str, event: str, operations: Sequence[str], after: Callable[[], None] = lambda: None
    ) -> None:
        self.uri, self.event, self.after = uri, event, after
        self.left = list(operations)
        self.is_done = False

    def __call__(self, event: Event) -> None:
        if type(event).__name__ == self.event and not self.is_done:
            self.is_done = True
            for name in self.left:
                OPERATIONS[name](self.uri)
            self.after()


class Following:
    """A listener that does the next of some operations at each event of some kinds."""

    def __init__(self, uri: str, events: Sequence[str], operations: Sequence[str]) -> None:
        self.uri, self.events, self.left, self.done = uri, events, list(operations), list[str]()

    def __call__(self, event: Event) -> None:
        name = type(event).__name__
        if name in self.events and self.left:
            operation = self.left.pop(0)
            OPERATIONS[operation](self.uri)
            self.done.append(f"{operation} at {name}")
