"""Rows are read by their address in one version: the contract with Lance that `pipelines.search.rows` relies on."""

import lance
import numpy as np
import pyarrow as pa

from pipelines.search.pinned import Asked, open_table
from pipelines.search.rows import addresses_of, rows_at
from tests.pipelines.search.tables import vectors_array


def test_rows_are_read_by_their_address_in_the_order_asked_for(tmp_path):

    ids = [f"r{i}" for i in range(30)]
    vectors = vectors_array(np.zeros((30, 8), np.float16))
    uri = f"{tmp_path}/t.lance"
    dataset = lance.write_dataset(pa.table({"vector": vectors, "id": ids, "n": range(30)}), uri, max_rows_per_file=10)
    dataset.delete("n = 3 OR n = 12")
    table = open_table(str(tmp_path), "t", Asked())
    wanted = ["r25", "r0", "r13", "r4", "r29"]
    addresses = addresses_of(table, [*wanted, "r3", "nobody"])
    assert set(addresses) == set(wanted)
    order = [addresses[key] for key in wanted]
    assert rows_at(table, order)["id"].to_pylist() == wanted
    assert rows_at(table, order)["n"].to_pylist() == [25, 0, 13, 4, 29]
    assert len(rows_at(table, [])) == 0
