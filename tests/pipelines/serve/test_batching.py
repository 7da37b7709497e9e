"""Queries are encoded together while the encoder is busy, and are refused when there are too many."""

import asyncio
import threading

import pyarrow as pa
import pytest

from pipelines.search import Query
from pipelines.serve.batching import Batcher
from pipelines.serve.config import ServeLimits
from pipelines.serve.metrics import Metrics
from pipelines.serve.overload import OverloadError
from vista_core import UsageError

SECONDS = 30


class Searches:
    """A searcher whose encoder waits for `gate`, and says when it began."""

    def __init__(self) -> None:
        self.gate, self.began = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        self.gate.set()

    def vectors(self, queries):
        self.batches.append([query.text for query in queries])
        self.began.set()
        assert self.gate.wait(SECONDS)
        if any(query.text == "break" for query in queries):
            raise RuntimeError("the device is gone")
        return [UsageError("bad") if query.text == "bad" else query.text for query in queries]

    def answer(self, query, vector):
        return vector if isinstance(vector, UsageError) else pa.table({"id": [vector or query.text]})


def with_batcher(test, **limits):
    """Run a coroutine function with a Batcher that runs."""

    async def main():
        batcher = Batcher(ServeLimits(**limits), Metrics())
        running = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(test(batcher), SECONDS)
        finally:
            running.cancel()
            batcher.close()

    return asyncio.run(main())


async def until_busy(searches: Searches) -> None:
    """Wait until the encoder has a batch."""
    await asyncio.get_running_loop().run_in_executor(None, searches.began.wait, SECONDS)


def test_queries_that_come_while_the_encoder_is_busy_go_to_it_together():
    searches = Searches()

    async def test(batcher):
        searches.gate.clear()
        first = asyncio.create_task(batcher.answer(searches, Query("first")))
        await until_busy(searches)
        others = [asyncio.create_task(batcher.answer(searches, Query(str(number)))) for number in range(7)]
        await asyncio.sleep(0)
        searches.gate.set()
        found = await asyncio.gather(first, *others)
        assert [each["id"][0].as_py() for each in found] == ["first", *map(str, range(7))]
        assert searches.batches == [["first"], ["0", "1", "2", "3"], ["4", "5", "6"]]

    with_batcher(test, batch=4)


def test_a_batch_is_of_one_version():
    one, other = Searches(), Searches()

    async def test(batcher):
        one.gate.clear()
        tasks = [asyncio.create_task(batcher.answer(one, Query("busy")))]
        await until_busy(one)
        tasks += [asyncio.create_task(batcher.answer(which, Query(name))) for which, name in ((one, "a"), (other, "b"))]
        tasks.append(asyncio.create_task(batcher.answer(one, Query("c"))))
        await asyncio.sleep(0)
        one.gate.set()
        await asyncio.gather(*tasks)
        assert (one.batches, other.batches) == ([["busy"], ["a", "c"]], [["b"]])

    with_batcher(test)


def test_who_comes_to_a_full_queue_is_told_so_at_once_and_there_is_room_again_later():
    searches = Searches()

    async def test(batcher):
        searches.gate.clear()
        waiting = [asyncio.create_task(batcher.answer(searches, Query(str(number)))) for number in range(3)]
        await until_busy(searches)
        with pytest.raises(OverloadError, match="too many queries"):
            await batcher.answer(searches, Query("one more"))
        searches.gate.set()
        await asyncio.gather(*waiting)
        await batcher.answer(searches, Query("now"))

    with_batcher(test, queue=3)


def test_a_query_that_waits_too_long_is_refused_and_makes_room():
    searches = Searches()

    async def test(batcher):
        searches.gate.clear()
        busy = asyncio.create_task(batcher.answer(searches, Query("busy")))
        await until_busy(searches)
        with pytest.raises(OverloadError, match="in time"):
            await batcher.answer(searches, Query("late"))
        with pytest.raises(OverloadError, match="in time"):
            await busy
        searches.gate.set()
        await batcher.answer(searches, Query("now"))
        assert searches.batches == [["busy"], ["now"]], "the late one is encoded for nobody"
        await asyncio.sleep(0)
        assert batcher.admitted == 0

    with_batcher(test, queue=3, wait_seconds=1.0)


def test_a_query_that_cannot_be_encoded_costs_no_other_its_results():
    searches = Searches()

    async def test(batcher):
        found = await asyncio.gather(
            *(batcher.answer(searches, Query(text)) for text in ("good", "bad")), return_exceptions=True
        )
        assert found[0]["id"][0].as_py() == "good"
        assert isinstance(found[1], UsageError)

    with_batcher(test)


def test_an_encoder_that_fails_costs_its_batch_alone():
    searches = Searches()

    async def test(batcher):
        with pytest.raises(RuntimeError, match="the device is gone"):
            await batcher.answer(searches, Query("break"))
        await batcher.answer(searches, Query("good"))
        await asyncio.sleep(0)
        assert batcher.admitted == 0

    with_batcher(test)


def test_a_search_for_words_does_not_wait_for_the_encoder():
    searches = Searches()

    async def test(batcher):
        searches.gate.clear()
        busy = asyncio.create_task(batcher.answer(searches, Query("busy")))
        await until_busy(searches)
        await batcher.answer(searches, Query("words", mode="text"))
        searches.gate.set()
        await busy

    with_batcher(test)


def test_an_overloaded_server_answers_503_and_says_when_to_come_again(db):
    from pipelines.serve.config import ServeConfig
    from tests.pipelines.serve.client import running
    from tests.pipelines.serve.shapes import TABLE, VERSION

    limits = ServeLimits(queue=0, thumbnail_queue=0, retry_after=7)
    with running(ServeConfig(db, TABLE, port=0, device="cpu"), limits) as client:
        for answer in (client.search(text="x"), client.get(f"/api/image?id=circle-yellow-on-blue&version={VERSION}")):
            assert (answer.status, answer.headers["retry-after"]) == (503, "7")
        assert "vista_overloads_total 2.0" in client.get("/metrics").body.decode()
        assert client.get("/healthz").status == 200
