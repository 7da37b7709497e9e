"""Images in object stores: S3 and GCS, through fsspec."""

from __future__ import annotations

from typing import Any

import fsspec

from pipelines.fetching.locations import FetchError, FetchRules, HostError, Location
from pipelines.reasons import FETCH_FAILED, FETCH_FORBIDDEN, FETCH_NOT_FOUND, FETCH_TIMEOUT
from pipelines.storage.client_errors import (
    CLIENT_ERRORS,
    is_credential_error,
    is_denied,
    is_timeout,
    is_transient,
    is_unreachable,
    status_code,
)
from pipelines.storage.errors import SourceError, credentials_hint
from pipelines.storage.uris import redacted, redacted_text

DRIVERS = {"s3": "s3fs", "gs": "gcsfs"}
HEAD_REFUSED = {400, 401, 403, 405, 501}  # S3 allows HEAD by other permissions than GET
RANGE_NOT_SATISFIABLE = 416
UNREACHABLE = "Check that the store is up, and that the workers reach it (AWS_ENDPOINT_URL, firewall, proxy)"


def open_store(scheme: str, rules: FetchRules) -> Store:
    """The client of a store. Raises SourceError if its driver is not installed."""
    try:
        fs = fsspec.filesystem(
            scheme, use_listings_cache=False, skip_instance_cache=True, **client_options(scheme, rules)
        )
    except ImportError as error:
        cause = f"{scheme}:// images cannot be fetched: {error}"
        raise SourceError(f"{cause}. Run: pip install {DRIVERS[scheme]}") from error
    fs.retries = 1  # the fetcher counts the attempts, each of bounded time
    return Store(fs, rules)


def client_options(scheme: str, rules: FetchRules) -> dict[str, Any]:
    """Options of the driver: its own attempts, connections and timeouts."""
    if scheme != "s3":
        return {}
    return {
        "config_kwargs": {
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": rules.limits.threads_per_bucket,
            "connect_timeout": min(rules.limits.connect_seconds, rules.timeout_seconds),
            "read_timeout": rules.timeout_seconds,
        }
    }


class Store:
    """Reads objects of a store; a transport."""

    def __init__(self, fs: Any, rules: FetchRules) -> None:
        self.fs, self.rules = fs, rules

    def version(self, location: Location) -> str | None:
        """The etag; None for a folder, and where HEAD is refused, since its answer has no body that says why."""
        try:
            info = self.fs.info(self.name(location), timeout=self.rules.timeout_seconds)
        except CLIENT_ERRORS as error:
            if status_code(error) in HEAD_REFUSED:
                return None
            raise self.failure(location, error) from error
        self.rules.check_size(info["size"])
        return info.get("ETag") or info.get("etag")

    def content(self, location: Location) -> bytes:
        """The object; of one that is too large, no more than is needed to know that."""
        end = self.rules.max_bytes + 1
        try:
            content = self.fs.cat_file(self.name(location), start=0, end=end, timeout=self.rules.timeout_seconds)
        except CLIENT_ERRORS as error:
            if status_code(error) == RANGE_NOT_SATISFIABLE:  # an empty object has no first byte
                return b""
            raise self.failure(location, error) from error
        self.rules.check_size(len(content))
        return content

    def name(self, location: Location) -> str:
        """The location as fsspec names it: bucket and key."""
        return f"{location.authority}{location.path}"

    def failure(self, location: Location, error: Exception) -> FetchError | SourceError:
        """What a client's error means: FetchError for this image alone, SourceError if the credentials don't work."""
        cause = redacted_text(f"{type(error).__name__}: {error}").rstrip(".: ")
        if is_credential_error(error):
            return SourceError(f"{redacted(location.uri)}: {cause}. {credentials_hint(location.uri)}")
        if isinstance(error, FileNotFoundError):
            return FetchError(FETCH_NOT_FOUND, f"there is no such object ({cause})")
        if is_denied(error):
            return FetchError(FETCH_FORBIDDEN, cause)
        if is_timeout(error):
            cause = f"no answer within {self.rules.timeout_seconds:g} s"
            return HostError(FETCH_TIMEOUT, cause, f"{UNREACHABLE}, or raise --fetch-timeout")
        if is_unreachable(error):
            return HostError(FETCH_FAILED, cause, UNREACHABLE)
        return FetchError(FETCH_FAILED, cause, retry=is_transient(error))
