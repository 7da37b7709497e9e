"""Many images at the same time: threads for each host, retries, and hosts that are down."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.fetching.locations import FetchLimits
from pipelines.storage.errors import SourceError
from tests.images_over_http import serve_images
from tests.pipelines.fetching.asking import fetched, identified, reasons, rules

CERTIFICATE = Path(__file__).with_name("certificate.pem")
THREADS_PER_HOST = FetchLimits().threads_per_web_host


def test_an_image_that_many_records_share_is_fetched_once(server):
    uris = [f"{server.url}/good/{n % 2}.png" for n in range(10)]
    assert fetched(uris, rules(server.url)) == [server.image(f"/good/{n % 2}.png") for n in range(10)]
    assert server.total("GET") == 2


def test_a_retry_after_is_waited_for_once_by_all_threads_of_the_host(server):
    """40 images, 8 at a time, would take 10 seconds if each of them waited for two."""
    server.open_at = time.monotonic() + 1.5
    uris = [f"{server.url}/limited/{n}.png" for n in range(40)]
    began = time.monotonic()
    assert reasons(fetched(uris, rules(server.url))) == [None] * 40
    assert 1.5 <= time.monotonic() - began < 6
    assert server.total("GET") <= 40 + THREADS_PER_HOST


def test_a_retry_after_that_is_too_long_is_not_waited_for(server):
    """The host works otherwise, so that it costs only its own images."""
    uris = [f"{server.url}/good/1.png", f"{server.url}/busy-for-an-hour-once/1.png"]
    began = time.monotonic()
    _, busy = fetched(uris, rules(server.url))
    assert time.monotonic() - began < 10
    assert busy.reason == "fetch_failed"
    assert "429 Too Many Requests, and asks to be left alone for 3600 s" in busy.message


def test_a_pause_of_one_host_holds_up_no_other(server):
    with serve_images() as busy:
        busy.open_at = time.monotonic() + 3
        server.on_request = lambda: None if time.monotonic() < busy.open_at else pytest.fail("it came too late")
        uris = [f"{busy.url}/limited/{n}.png" for n in range(20)] + [f"{server.url}/good/{n}.png" for n in range(20)]
        assert reasons(fetched(uris, rules(busy.url, server.url, threads=4))) == [None] * 40


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
    assert reasons(fetched([f"{server.url}/good/0.png"], given)) == [None]
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


def test_an_answer_ends_the_count_of_failed_images(server):
    given = rules(server.url, seconds=1.0, attempts=1, failed_images=2)
    for batch in range(2):
        assert reasons(fetched([f"{server.url}/slow/{batch}.png"], given)) == ["fetch_timeout"]
        assert reasons(fetched([f"{server.url}/good/{batch}.png"], given)) == [None]


def test_one_silent_image_does_not_make_its_host_count_as_down(server):
    given = rules(server.url, seconds=1.0, attempts=1, failed_images=2)
    for _ in range(2):
        assert reasons(fetched([f"{server.url}/slow/1.png"], given)) == ["fetch_timeout"]
    assert reasons(fetched([f"{server.url}/good/1.png"], given)) == [None]


# Hosts that fail for every image


@contextmanager
def dead(kind: str) -> Iterator[str]:
    """The URL of a host of which no image can be had."""
    if kind == "refuses":
        with serve_images() as gone:
            url = gone.url
        yield url
    elif kind == "no such name":
        yield "https://img.invalid"
    elif kind == "untrusted":
        with serve_images(CERTIFICATE) as secure:
            yield secure.url
    elif kind == "no TLS":
        with serve_images() as plain:
            yield plain.url.replace("http:", "https:")
    elif kind == "busy":
        with serve_images() as busy:
            yield f"{busy.url}/busy/3600"
    elif kind == "always busy":
        with serve_images() as busy:
            yield f"{busy.url}/busy/1"
    else:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def patience(kind: str) -> float:
    """The time limit of an image: none waits for it but those of the host that is silent."""
    return 1.0 if kind == "silent" else 20.0


CURES = {
    "refuses": r"ConnectionRefusedError: .*\. Check that it is up, and that the workers reach it \(firewall",
    "no such name": r"gaierror: .*\. Check the host's name, and that the workers can look it up \(DNS",
    "untrusted": r"CERTIFICATE_VERIFY_FAILED.*\. Its certificate must be valid.*SSL_CERT_FILE",
    "no TLS": r"WRONG_VERSION_NUMBER.*\. Check that it speaks https",
    "busy": r"429 .* asks to be left alone for 3600 s\. Wait, or ask its owner to allow more requests",
    "always busy": r"429 .* asks to be left alone for 1 s\. Wait, or ask its owner to allow more requests",
    "silent": r"no answer, or not all of it, within 1 s\. Check that it is up.*or raise --fetch-timeout",
}


@pytest.mark.parametrize("ask", [fetched, identified])
@pytest.mark.parametrize("kind", CURES)
def test_a_host_that_fails_for_every_image_ends_the_run_after_a_few(kind, ask):
    with dead(kind) as url:
        given = rules(url, seconds=patience(kind), second_look_seconds=0.1)
        began = time.monotonic()
        with pytest.raises(SourceError, match=rf": it fails for every image, .*{CURES[kind]}.*run the same") as raised:
            ask([f"{url}/{n}.png" for n in range(1000)], given)
    assert str(raised.value).startswith("/".join(url.split("/")[:3]))
    assert time.monotonic() - began < 30


def test_few_requests_are_made_to_a_host_that_fails_for_every_image(server):
    with pytest.raises(SourceError):
        fetched([f"{server.url}/busy/3600/{n}.png" for n in range(1000)], rules(server.url, second_look_seconds=0.1))
    assert server.total("GET") <= 4 * THREADS_PER_HOST


@pytest.mark.parametrize("kind", CURES)
def test_a_dead_host_among_others_costs_only_its_own_images_however_they_are_ordered(server, kind):
    with dead(kind) as url:
        given = rules(url, server.url, seconds=patience(kind), second_look_seconds=30.0)
        uris = [f"{url}/{n}.png" for n in range(500)]
        began = time.monotonic()
        assert set(reasons(fetched(uris, given))) <= {"fetch_failed", "fetch_timeout"}, "the other was not asked yet"
        results = fetched([*uris, f"{server.url}/good/1.png"], given)
    assert reasons(results)[-1] is None
    assert None not in reasons(results)[:-1]
    assert time.monotonic() - began < 25


@pytest.mark.parametrize("before", ["good", "missing"])
def test_a_host_that_worked_before_costs_only_its_own_images(server, before):
    given = rules(server.url, second_look_seconds=30.0)
    fetched([f"{server.url}/{before}/1.png"], given)
    began = time.monotonic()
    results = fetched([f"{server.url}/busy/3600/{n}.png" for n in range(500)], given)
    assert set(reasons(results)) == {"fetch_failed"}
    assert "failed for 5 images in a row, the last time: the server answered 429" in results[-1].message
    assert "not asked again for 3600 s" in results[-1].message
    assert time.monotonic() - began < 10


def test_all_of_several_hosts_must_fail_to_end_the_run():
    with dead("refuses") as one, dead("untrusted") as other:
        given = rules(one, other, second_look_seconds=0.1)
        ones = [f"{one}/{n}.png" for n in range(20)]
        assert set(reasons(fetched(ones, given))) == {"fetch_failed"}
        with pytest.raises(SourceError, match="it fails for every image"):
            fetched([*ones, f"{other}/1.png"], given)


def test_a_host_that_is_away_for_a_moment_costs_nothing(server):
    """As at the start of a worker whose network is not up yet."""
    given = rules(server.url, seconds=0.5, attempts=1, second_look_seconds=1.0, failed_images=THREADS_PER_HOST)
    uris = [f"{server.url}/good/{n}.png" for n in range(THREADS_PER_HOST)]
    server.on_request = lambda: server.release.wait(1.0) if server.total("GET") <= THREADS_PER_HOST else None
    assert reasons(fetched(uris, given)) == [None] * THREADS_PER_HOST


def test_a_few_images_of_a_dead_host_do_not_end_the_run():
    with dead("refuses") as url:
        given = rules(url, second_look_seconds=30.0)
        assert reasons(fetched([f"{url}/{n}.png" for n in range(4)], given)) == ["fetch_failed"] * 4
