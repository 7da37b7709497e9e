"""Each command that loses its table while it runs says so, whatever fails first, and so does its record."""

from pathlib import Path

import lance
import pytest

from pipelines.backfill.run import Setup as BackfillSetup
from pipelines.cluster.calls import in_this_process
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup as EmbedSetup
from pipelines.events import Event
from pipelines.index.run import Setup as IndexSetup
from pipelines.index.run import index_table
from pipelines.tables.lease import LeaseLostError, take
from pipelines.tables.recorded import recorded
from tests.pipelines.backfill.tables import backfill, make
from tests.pipelines.embed.on_warm_workers import embed
from tests.pipelines.index.tables import CHOICE, config, foreign_table
from tests.tables import NO_RUNS


class TakenOver:
    """A listener: at an event another run takes the table over, and something of this one fails because of that."""

    def __init__(self, uri: str, event: str) -> None:
        self.uri, self.event = uri, event

    def __call__(self, event: Event) -> None:
        if type(event).__name__ == self.event:
            take(lance.dataset(self.uri), NO_RUNS, by_force=True)
            raise OSError("Incompatible transaction")


def embedding(folder: Path) -> str:
    uri = f"{folder}/t.lance"
    source = folder / "texts.jsonl"
    source.write_text('{"id": "lamp-1", "text": "a brass desk lamp"}\n')
    embed(EmbedConfig(str(source), str(folder), "t"), EmbedSetup(listeners=[TakenOver(uri, "BundleCommitted")]))
    return uri


def filling(folder: Path) -> str:
    uri = make(folder)
    backfill(folder, BackfillSetup(listeners=[TakenOver(uri, "BundleCommitted")]))
    return uri


def indexing(folder: Path) -> str:
    uri = foreign_table(folder)
    index_table(config(folder), IndexSetup([TakenOver(uri, "IndexTrained")], in_this_process, CHOICE, queries=32))
    return uri


def switching(folder: Path) -> str:
    """What `switch`, `rollback` and `drop-column` hold the table with."""
    uri = foreign_table(folder)
    with recorded(lance.dataset(uri), {"switch": True}, by_force=False):
        TakenOver(uri, "str")("")
    return uri


@pytest.mark.parametrize("command", [embedding, filling, indexing, switching])
def test_it_says_that_it_lost_the_table(ray_cluster, tmp_path, command):
    with pytest.raises(LeaseLostError, match="was taken for dead and lost") as lost:
        command(tmp_path)
    assert isinstance(lost.value.__cause__, OSError)
    [record] = [path for path in tmp_path.iterdir() if path.name.endswith("_runs.lance")]
    [run] = lance.dataset(str(record)).to_table().to_pylist()
    assert run["status"] == "failed"
    assert run["error"].startswith("LeaseLostError: ")
