"""A web server with images, and fetchers that no other test has used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.fetching.fetcher import shared_fetcher
from tests.images_over_http import ImageServer, serve_images


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with serve_images() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_fetchers() -> Iterator[None]:
    """Each test has fetchers of its own, which know nothing of hosts yet."""
    yield
    shared_fetcher.cache_clear()
