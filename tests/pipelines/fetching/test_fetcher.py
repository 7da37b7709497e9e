"""Many images at the same time: threads for each host, retries, and hosts that are down."""

import threading

from pipelines.fetching.locations import FetchLimits
from tests.images_over_http import serve_images
from tests.pipelines.fetching.asking import fetched, reasons, rules

THREADS_PER_HOST = FetchLimits().threads_per_web_host


def test_an_image_that_many_records_share_is_fetched_once(server):
    uris = [f"{server.url}/good/{n % 2}.png" for n in range(10)]
    assert fetched(uris, rules(server.url)) == [server.image(f"/good/{n % 2}.png") for n in range(10)]
    assert server.total("GET") == 2


def test_the_retry_after_of_a_server_is_respected_up_to_a_limit(server):
    path = "/busy-for-an-hour-once/1.png"
    assert fetched([server.url + path], rules(server.url, longest_retry_after=1.0)) == [server.image(path)]
    first, second = server.times[path]
    assert 1.0 <= second - first < 10


def test_a_slow_host_holds_up_no_other_and_uses_no_more_threads_than_its_own(server):
    number, gate = 40, threading.Event()

    def count() -> None:
        if server.total("GET") == number:
            gate.set()

    with serve_images() as slow:
        slow.on_request = gate.wait  # until all images of the other host have been requested
        server.on_request = count
        uris = [f"{host.url}/good/{n}.png" for host in (slow, server) for n in range(number)]
        assert reasons(fetched(uris, rules(slow.url, server.url))) == [None] * len(uris)
        assert 1 < slow.peak <= THREADS_PER_HOST
        assert slow.total("GET") == number, "each was requested only once"


def test_the_number_of_requests_at_the_same_time_is_limited(server):
    uris = [f"{server.url}/good/{n}.png" for n in range(40)]
    assert reasons(fetched(uris, rules(server.url, threads=2))) == [None] * 40
    assert server.peak <= 2


def test_a_host_that_never_answers_counts_as_down_after_a_few_images(server):
    given = rules(server.url, seconds=0.3, down_seconds=2.0)
    results = fetched([f"{server.url}/slow/{n}.png" for n in range(200)], given)
    assert set(reasons(results)) == {"fetch_timeout"}
    assert server.total("GET") <= 3 * THREADS_PER_HOST
    assert sum(f"{server.url} did not answer in time for 5 images in a row" in r.message for r in results) > 180
    server.release.set()
    tries = [fetched([f"{server.url}/good/1.png"], given)]
    assert "counts as down" in tries[0][0].message, "though it would answer by now"
    while reasons(tries[-1]) != [None]:  # until it is asked again
        tries.append(fetched([f"{server.url}/good/1.png"], given))
    assert server.gets("/good/1.png") == 1


def test_an_answer_ends_the_count_of_silent_images(server):
    given = rules(server.url, seconds=1.0, attempts=1, silent_images=2)
    for batch in range(2):
        assert reasons(fetched([f"{server.url}/slow/{batch}.png"], given)) == ["fetch_timeout"]
        assert reasons(fetched([f"{server.url}/good/{batch}.png"], given)) == [None]


def test_one_silent_image_does_not_make_its_host_count_as_down(server):
    given = rules(server.url, seconds=1.0, attempts=1, silent_images=2)
    for _ in range(2):
        assert reasons(fetched([f"{server.url}/slow/1.png"], given)) == ["fetch_timeout"]
    assert reasons(fetched([f"{server.url}/good/1.png"], given)) == [None]
