"""Upkeep that fails is said and left for a later run; a store that fails, or a lost lease, ends the run."""

import lance
import pytest

from pipelines.embed.finish import count_foreign, keep_up
from pipelines.progress import Stopwatch
from pipelines.tables.lease import LeaseLostError
from pipelines.tables.upkeep import postponing
from tests.tables import append_foreign, block, commit, new_committer, stats


def failing(error: Exception):
    """Upkeep that fails as an index of another kind may."""

    def upkeep(table: lance.LanceDataset) -> lance.LanceDataset:
        with postponing("the index 'theirs' was not updated"):
            raise error
        return table

    return upkeep


def test_upkeep_that_fails_is_reported_and_the_run_goes_on_with_the_latest_version(tmp_path, caplog):
    stopwatch = Stopwatch(0)
    committer = new_committer(tmp_path, listener=stopwatch)
    commit(committer, block({"a": "one"}), stats(1))
    append_foreign(committer, [{"id": "by hand"}])
    keep_up(committer, failing(RuntimeError("not implemented: Theirs")))
    assert stopwatch.postponed == ("the index 'theirs' was not updated: not implemented: Theirs",)
    assert f"{committer.base.uri}: {stopwatch.postponed[0]}. A later run tries again" in caplog.text
    assert committer.table.version == lance.dataset(committer.base.uri).version
    count_foreign(committer)
    assert committer.counts.foreign == 1


@pytest.mark.parametrize("error", [LeaseLostError("lost"), OSError("LanceError(IO): Generic S3 error: 503")], ids=repr)
def test_what_ends_a_run_ends_it_during_upkeep_too(tmp_path, error):
    with pytest.raises(type(error)) as raised:
        keep_up(new_committer(tmp_path), failing(error))
    assert raised.value is error
