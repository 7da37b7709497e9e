"""Servers that break the rules of HTTP. Each such answer costs its own image, in bounded time and memory."""

import gzip
import os
import subprocess
import sys
import time
import tracemalloc
import zlib
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from pipelines.fetching.fetcher import Fetcher
from pipelines.reasons import Reject
from pipelines.storage.errors import SourceError
from tests.hostile_server import Answer, serve_hostile
from tests.images_over_http import serve_images
from tests.pipelines.fetching.asking import fetched, identified, located, reasons, rules

ROOT = Path(__file__).resolve().parents[3]
IMAGE = b"an image" * 100
BLOCK = bytes(1 << 16)
BOMB = bytes(64 << 20)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"5\r\nhello\r\n"


def answer(*lines: bytes, body: bytes = b"", status: bytes = b"200 OK") -> Answer:
    """An answer with these header lines."""
    return Answer((b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", body]),))


def sized(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> Answer:
    """An answer that tells its length."""
    return answer(b"Content-Length: %d" % len(body), *lines, body=body, status=status)


def chunked(*parts: bytes, repeated: bytes = b"") -> Answer:
    """The head of an answer, and a little later its body."""
    return Answer((CHUNKED, *parts), repeated, pause=0.0 if repeated else 0.05)


def redirect(target: bytes) -> Answer:
    return sized(b"", b"Location: " + target, status=b"302 Found")


def raw_deflate(content: bytes) -> bytes:
    """Deflate without the header of zlib, which some servers leave out."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


GOOD = {
    "plain": sized(IMAGE),
    "chunked": chunked(b"320\r\n" + IMAGE, b"\r\n0\r\n\r\n"),
    "until-it-hangs-up": answer(body=IMAGE),
    "continued": Answer((b"HTTP/1.1 100 Continue\r\n\r\n" + sized(IMAGE).parts[0],)),
    "hinted": Answer((b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + sized(IMAGE).parts[0],)),
    "odd-cookies": sized(IMAGE, b"Set-Cookie: =; \xff\xfe; Max-Age=x; Expires=x", b"Set-Cookie: " + b"x=1;" * 5000),
    "odd-type": sized(IMAGE, b"Content-Type: ;;==; charset=\xff\xfe"),
    "odd-version": sized(IMAGE, b"ETag: \xff\xfe\x1b", b"Last-Modified: \xff"),
    "several-answers": Answer((sized(IMAGE).parts[0] + sized(b"another").parts[0],)),
}
BROKEN = {
    "chunk-negative": chunked(b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk-negative-at-once": Answer((CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",)),
    "chunk-negative-later": chunked(CHUNK, b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk-garbage": chunked(b"xyz\r\nhello\r\n0\r\n\r\n"),
    "chunk-huge": chunked(b"F" * 15 + b"\r\nhello"),
    "chunk-overflow": chunked(b"F" * 40 + b"\r\nhello"),
    "chunk-size-for-ever": chunked(repeated=b"1" * 4096),
    "chunk-without-end": chunked(b"5\r\nhelloXX0\r\n\r\n"),
    "trailers-for-ever": chunked(CHUNK + b"0\r\n", repeated=b"X: y\r\n" * 100),
    "trailer-with-nul": chunked(CHUNK + b"0\r\n", b"X\0: y\r\n\r\n"),
    "headers-for-ever": Answer((OK,), b"X: y\r\n" * 1000),
    "100000-headers": answer(*(b"X-%d: y" % n for n in range(100_000)), body=IMAGE),
    "header-for-ever": Answer((OK + b"X: ",), b"y" * (1 << 16)),
    "header-with-nul": sized(IMAGE, b"X: a\0b"),
    "header-without-colon": sized(IMAGE, b"no colon"),
    "no-status": Answer((b"Content-Length: 2\r\n\r\nhi",)),
    "http-0.9": Answer((IMAGE,)),
    "http-2": Answer((b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nhi",)),
    "status-99999": answer(status=b"99999 OK"),
    "status-negative": answer(status=b"-200 OK"),
    "status-for-ever": Answer((b"HTTP/1.1 200 ",), b"O" * (1 << 16)),
    "nothing": Answer((b"",)),
    "half-a-header": Answer((OK + b"X: ",)),
    "tls": Answer((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),)),
    "length-negative": answer(b"Content-Length: -1", body=IMAGE),
    "length-in-words": answer(b"Content-Length: two", body=IMAGE),
    "length-too-long": answer(b"Content-Length: 1000", body=IMAGE),
    "two-lengths": answer(b"Content-Length: 2", b"Content-Length: 800", body=IMAGE),
    "length-and-chunks": answer(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=CHUNK + b"0\r\n\r\n"),
    "not-gzip": sized(IMAGE, b"Content-Encoding: gzip"),
    "brotli": sized(bytes(100), b"Content-Encoding: br"),
    "zstd": sized(b"\x28\xb5\x2f\xfd" + bytes(100), b"Content-Encoding: zstd"),
    "upgrade": answer(b"Upgrade: h2c", b"Connection: Upgrade", status=b"101 Switching Protocols"),
    "part": sized(b"hi", b"Content-Range: bytes 0-1/100", status=b"206 Partial Content"),
    "parts": sized(b"--x", b"Content-Type: multipart/byteranges; boundary=x", status=b"206 Partial Content"),
    "unchanged": sized(b"", status=b"304 Not Modified"),
    "unchanged-with-body": sized(b"hello", status=b"304 Not Modified"),
    "none": answer(status=b"204 No Content"),
    "reset": sized(b"", status=b"205 Reset Content"),
    "choice": sized(b"", b"Location: /plain", status=b"300 Multiple Choices"),
    "busy": sized(b"", b"Retry-After: Mon, 01 Jan 0001 00:00:00 -2359", status=b"503 Busy"),
    "to-nowhere": sized(b"", status=b"302 Found"),
    "to-itself": redirect(b"/to-itself"),
    "to-a-longer-one": redirect(b"/" + b"x" * 100_000),
}
ENDLESS = {
    "continue-for-ever": Answer((b"",), b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "hints-for-ever": Answer((b"",), b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100),
    "chunk-extension-for-ever": chunked(b"5;", repeated=b"x" * 4096),
    "slow-header": Answer((OK + b"X: ",), b"y", pause=0.1),
    "slow-body": Answer((OK + b"Content-Length: 1000\r\n\r\n",), b"y", pause=0.1),
}
TOO_LARGE = {
    "body-for-ever": Answer((OK + b"\r\n",), BLOCK),
    "gzip-bomb": sized(gzip.compress(BOMB), b"Content-Encoding: gzip"),
    "zlib-bomb": sized(zlib.compress(BOMB), b"Content-Encoding: deflate"),
    "deflate-bomb": sized(raw_deflate(BOMB), b"Content-Encoding: deflate"),
}
INVALID = {
    "to-ftp": redirect(b"ftp://img.example.com/x"),
    "to-javascript": redirect(b"javascript:alert(1)"),
    "to-data": redirect(b"data:image/png;base64,xx"),
    "to-nul": redirect(b"/a%00b"),
    "to-escape": redirect(b"/\x1b[31mred"),
    "to-half-an-address": redirect(b"http://[::1"),
    "to-a-port-that-is-none": redirect(b"http://127.0.0.1:99999999/x"),
    "to-wide-letters": redirect("http://\uff45\uff58.com/".encode()),
}
NOT_ALLOWED = {
    "to-file": redirect(b"file:///etc/passwd"),
    "to-metadata": redirect(b"//169.254.169.254/latest/meta-data/"),
    "to-decimal": redirect(b"http://2130706433/"),
}
KINDS = [
    (GOOD, None),
    (BROKEN, "fetch_failed"),
    (ENDLESS, "fetch_timeout"),
    (TOO_LARGE, "fetch_too_large"),
    (INVALID, "uri_invalid"),
    (NOT_ALLOWED, "uri_not_allowed"),
]
ANSWERS = {name: each for answers, _ in KINDS for name, each in answers.items()}
ENDS = {name: reason for answers, reason in KINDS for name in answers}


def test_every_answer_costs_only_its_own_image_in_bounded_time_and_memory():
    slow, quick = list(ENDLESS), [name for name in ENDS if name not in ENDLESS]
    with serve_hostile(ANSWERS) as url:
        tracemalloc.start()
        try:
            began = time.monotonic()
            # Twice, since a request may get a kept connection that this server is closing (ConnectionResetError).
            results = fetched([f"{url}/{name}" for name in quick], rules(url, seconds=60.0, attempts=2))
            took = time.monotonic() - began
            given = rules(url, seconds=1.0, attempts=1)
            assert fetched([f"{url}/plain"], given) == [IMAGE], "so that the host counts as one that works"
            results += fetched([f"{url}/{name}" for name in slow], given)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert dict(zip(quick + slow, reasons(results), strict=True)) == ENDS
    assert [result for result in results if not isinstance(result, Reject)] == [IMAGE] * len(GOOD)
    assert took < 50, "none of those waited for the time limit"
    assert peak < 32 << 20, "half of one bomb, for client and server"


def test_every_answer_to_a_request_for_the_version_costs_only_its_own_image():
    """Few of them are right for HEAD, but each is a result."""
    with serve_hostile(ANSWERS) as url:
        given = rules(url, seconds=1.0, attempts=1, failed_images=1000)
        results = identified([f"{url}/{name}" for name in ENDS], given)
    assert len(results) == len(ENDS)
    assert {"fetch_failed", "fetch_timeout", "uri_invalid", "uri_not_allowed"} <= set(reasons(results))


def test_without_compiled_extensions_the_client_says_the_same():
    """aiohttp has a second parser, in Python, which raises other errors."""
    program = f"import {__name__} as t; t.print_reason('chunk-garbage')"
    environment = os.environ | {"AIOHTTP_NO_EXTENSIONS": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "fetch_failed", done.stderr


def print_reason(name: str) -> None:
    with serve_hostile(ANSWERS) as url:
        print(*reasons(fetched([f"{url}/{name}"], rules(url, attempts=1))))


def test_a_server_without_tls_behind_https_costs_only_its_own_image():
    with serve_images() as plain:
        url = plain.url.replace("http://", "https://")
        results = fetched([f"{url}/good/1.png", f"{plain.url}/good/1.png"], rules(url, plain.url, attempts=1))
    assert reasons(results) == ["fetch_failed", None]


class Raising:
    """A transport whose client library raises what nobody expects."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def version(self, location):
        raise self.error

    content = version


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), AssertionError(), RecursionError(), CancelledError(), KeyError(1)]
)
def test_whatever_a_client_library_raises_costs_only_its_own_image(error):
    given = rules("http://img.example.com")
    fetcher, location = Fetcher(given, {"http": Raising(error)}), located("http://img.example.com/1.png", given)
    for results in (fetcher.contents([location]), fetcher.identities([location])):
        assert results[location].reason == "fetch_failed"
        assert f"http://img.example.com/1.png: {type(error).__name__}: " in results[location].message


def test_an_error_that_concerns_every_image_ends_the_run():
    given = rules("http://img.example.com")
    fetcher = Fetcher(given, {"http": Raising(SourceError("the credentials have expired"))})
    with pytest.raises(SourceError):
        fetcher.contents([located("http://img.example.com/1.png", given)])
