"""Errors of the clients of S3 and GCS, as fsspec lets them through: what they mean.

s3fs translates some errors to OSError, with botocore's own as the cause, and raises others as they are; gcsfs raises
its own, aiohttp's and google-auth's.
"""

from __future__ import annotations

import importlib

from aiohttp import ClientConnectorError, ClientError
from botocore import exceptions as boto


def optional_error(module: str, name: str) -> tuple[type[Exception], ...]:
    """An error class of a driver that may not be installed."""
    try:
        return (getattr(importlib.import_module(module), name),)
    except ImportError:
        return ()


CREDENTIAL_CODES = {
    "AccountProblem",
    "AuthorizationHeaderMalformed",
    "CredentialsNotSupported",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
CREDENTIAL_ERRORS: tuple[type[Exception], ...] = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.NoAuthTokenError,
    boto.ProfileNotFound,
    *optional_error("google.auth.exceptions", "GoogleAuthError"),
)
CLIENT_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    boto.BotoCoreError,
    ClientError,
    ValueError,
    RuntimeError,
    *optional_error("gcsfs.retry", "HttpError"),
    *CREDENTIAL_ERRORS,
)
UNREACHABLE = (boto.EndpointConnectionError, boto.SSLError, boto.ProxyConnectionError, ClientConnectorError)
BUSY_STATUSES = {429, 500, 502, 503, 504}


def is_credential_error(error: Exception) -> bool:
    """True if the store refused the credentials as such, or there are none: then no file can be read."""
    return isinstance(error, CREDENTIAL_ERRORS) or error_code(error) in CREDENTIAL_CODES or status_code(error) == 401


def is_denied(error: Exception) -> bool:
    """True if the credentials work, but don't give access to this file."""
    return isinstance(error, PermissionError) or status_code(error) == 403


def is_timeout(error: Exception) -> bool:
    """True if the store did not answer in time."""
    return isinstance(error, TimeoutError | boto.ReadTimeoutError | boto.ConnectTimeoutError)


def is_unreachable(error: Exception) -> bool:
    """True if no connection to the store can be made."""
    return isinstance(error, UNREACHABLE) or isinstance(error.__cause__, UNREACHABLE)


def is_transient(error: Exception) -> bool:
    """True if another attempt may succeed: there was no answer, or the store was busy."""
    status = status_code(error)
    return status is None or status in BUSY_STATUSES


def error_code(error: Exception) -> str | None:
    """The code by which S3 names an error, such as ExpiredToken."""
    response = getattr(error.__cause__ or error, "response", None)
    return response["Error"].get("Code") if isinstance(response, dict) else None


def status_code(error: Exception) -> int | None:
    """The HTTP status of the store's answer; None if there was no answer."""
    response = getattr(error.__cause__ or error, "response", None)
    if isinstance(response, dict):
        return response["ResponseMetadata"]["HTTPStatusCode"]
    if str(error).startswith("Forbidden: "):  # gcsfs gives no code with this one
        return 403
    code = str(getattr(error, "code", None))
    return int(code) if code.isdecimal() else None
