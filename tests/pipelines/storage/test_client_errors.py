"""What the errors of S3 and GCS clients mean."""

import pytest
from aiohttp import ClientPayloadError
from botocore import exceptions as boto

from pipelines.storage.client_errors import (
    CLIENT_ERRORS,
    error_code,
    is_credential_error,
    is_denied,
    is_timeout,
    is_transient,
    is_unreachable,
    status_code,
)

MEANINGS = (is_credential_error, is_denied, is_timeout, is_transient, is_unreachable)


def from_s3(code: str, status: int, translated: type[Exception] = OSError) -> Exception:
    """An error as s3fs raises it: translated, with botocore's as the cause."""
    error = translated(code)
    error.__cause__ = boto.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )
    return error


class HttpError(Exception):
    """As gcsfs raises it."""

    def __init__(self, message: str, code: int | str | None) -> None:
        super().__init__(message)
        self.code = code


@pytest.mark.parametrize(
    ("error", "status", "meanings"),
    [
        (from_s3("ExpiredToken", 400), 400, {is_credential_error}),
        (from_s3("InvalidAccessKeyId", 403, PermissionError), 403, {is_credential_error, is_denied}),
        (from_s3("Unauthorized", 401), 401, {is_credential_error}),
        (boto.NoCredentialsError(), None, {is_credential_error, is_transient}),
        (boto.ProfileNotFound(profile="x"), None, {is_credential_error, is_transient}),
        (from_s3("AccessDenied", 403, PermissionError), 403, {is_denied}),
        (from_s3("NoSuchKey", 404, FileNotFoundError), 404, set()),
        (from_s3("SlowDown", 503), 503, {is_transient}),
        (boto.ReadTimeoutError(endpoint_url="x"), None, {is_timeout, is_transient}),
        (boto.ConnectTimeoutError(endpoint_url="x"), None, {is_timeout, is_transient}),
        (boto.EndpointConnectionError(endpoint_url="x"), None, {is_transient, is_unreachable}),
        (TimeoutError(), None, {is_timeout, is_transient}),
        (ClientPayloadError("cut"), None, {is_transient}),
        (HttpError("Service Unavailable", "503"), 503, {is_transient}),
        (HttpError("Invalid Credentials", 401), 401, {is_credential_error}),
        (OSError("Forbidden: https://storage.googleapis.com/x\nno access"), 403, {is_denied}),
        (HttpError("nothing is known", None), None, {is_transient}),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception | set) else str(value),
)
def test_an_error_has_a_status_and_meanings(error, status, meanings):
    assert status_code(error) == status
    assert {meaning for meaning in MEANINGS if meaning(error)} == meanings
    assert isinstance(error, (*CLIENT_ERRORS, HttpError))


def test_an_error_of_s3_has_a_code():
    assert error_code(from_s3("NoSuchKey", 404)) == "NoSuchKey"
    assert error_code(boto.NoCredentialsError()) is None
    assert error_code(HttpError("Forbidden", 403)) is None
