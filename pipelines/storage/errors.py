"""Errors of disks and object stores: what they mean, in words, whatever library raised them.

fsspec, botocore, pyarrow and Lance each report a failing store in their own way, and some of them only in the text of
an OSError. All knowledge of these texts is here.
"""

from __future__ import annotations

import errno
import gzip
import re
import struct
import tarfile
import zlib

import pyarrow as pa
from botocore.exceptions import BotoCoreError

from pipelines.storage.local import UnreadableError
from vista_core import VistaError

# What the libraries raise that fetch the bytes of a file. OSError is in the other list, too: see `is_damage`.
STORE_ERRORS = (OSError, BotoCoreError)
# What parsers raise at damaged or hostile content: decoders index, allocate, recurse and convert by what a file says.
CONTENT_ERRORS = (
    *(pa.ArrowException, tarfile.TarError, zlib.error, struct.error, EOFError, OSError, MemoryError),
    *(ValueError, TypeError, LookupError, ArithmeticError, RecursionError),
)
READ_ERRORS = (*CONTENT_ERRORS, *STORE_ERRORS)

# pylance raises OSError and ValueError for every failure of a store; only the message tells what it was.
STORE_FAILED = re.compile(r"LanceError\(IO\)|Generic \S+ error|object store|os error \d+")
LANCE_FILE_UNREACHABLE = re.compile(r"Not found: |Generic \S+ error|The operation lacked")
LANCE_READ_BEYOND_END = re.compile(
    r"416 Range Not Satisfiable|Invalid range \d|failed to fill whole buffer|os error 22\b"
)
LANCE_NOT_FOUND = re.compile(r"not found: ", re.IGNORECASE)
RUST_LOCATION = re.compile(r", /\S+\.rs:\d+:\d+")
MARKUP = re.compile(r"<(?:\?xml|!DOCTYPE|html|Error)\b.*?(?:</Error>|</html>|$)", re.IGNORECASE)  # that servers answer
FOR_PEOPLE = re.compile(r"<(?:Code|Message)>([^<]*)")  # what S3 says in it
# What is wrong if a store can't be reached, as far as botocore's and Lance's messages tell it.
CAUSES = {
    r"WRONG_VERSION_NUMBER|InvalidContentType": "The server speaks plain http: AWS_ENDPOINT_URL must begin with http://",
    r"CERTIFICATE_VERIFY_FAILED": "If its certificate is to be trusted, name that of its authority in AWS_CA_BUNDLE",
    r"Could not connect|error sending request": (
        "Nothing answers there, or AWS_ENDPOINT_URL has http:// instead of https:// or the other way round"
    ),
    r"specified endpoint|the region '.*' is wrong|redirect without LOCATION": "The bucket is in another AWS_REGION",
    r"bucket does not exist|NoSuchBucket": "Check the name of the bucket",
}
REFUSED = re.compile(
    r"ExpiredToken|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|\b40[13]\b|credential|necessary privileges",
    re.IGNORECASE,
)
FULL = re.compile(r"No space left|os error 28|Disk quota exceeded")
# Ray Data appends advice on its own settings to what a stage raised.
RAY_ADVICE = "\nFailed to apply UDF transform"
LONGEST_MESSAGE = 600


class SourceError(VistaError):
    """A listed source file can no longer be read. What was committed stays; run again once it can be read."""


class SourceChangedError(VistaError):
    """A source file changed after it was listed; run again to read the new version."""


def is_damage(error: Exception) -> bool:
    """True if one of READ_ERRORS means damaged content, which a retry won't mend.

    pyarrow raises OSError for damage, too, but without an errno; so does gzip. s3fs raises PermissionError without one.
    A file of a disk that this user may not read counts as damaged.
    """
    if isinstance(error, OSError):
        return isinstance(error, gzip.BadGzipFile | UnreadableError) or (type(error) is OSError and error.errno is None)
    return not isinstance(error, STORE_ERRORS)


def said(damage: Exception) -> str:
    """What an error says, with its type unless it comes from a reader of files, whose texts explain themselves."""
    text = str(damage)
    if text and isinstance(damage, pa.ArrowException | tarfile.TarError | zlib.error | OSError | EOFError):
        return text
    return f"{type(damage).__name__}: {text}".removesuffix(": ")


def unreachable(error: BaseException, uri: str) -> str:
    """Why a store can't be read, in one line, and what to check."""
    text = without_rust_location(str(error)).rstrip(".") or type(error).__name__
    causes = [cause for pattern, cause in CAUSES.items() if re.search(pattern, text)]
    return ". ".join([text, *causes[:1], credentials_hint(uri)])


def credentials_hint(uri: str) -> str:
    """What to check when a URI can't be reached."""
    if not uri.startswith(("s3://", "s3a://")):
        return "Check the path"
    return (
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for other servers than AWS, AWS_ENDPOINT_URL"
    )


def without_rust_location(message: str) -> str:
    """What a library says on one line, without locations in Lance's source code and without XML and HTML."""
    line = RUST_LOCATION.sub("", " ".join(message.split()))
    return MARKUP.sub(lambda answer: ": ".join(FOR_PEOPLE.findall(answer[0])), line).strip()


def is_missing_dataset(error: BaseException) -> bool:
    """True if Lance says that no dataset is at a URI that can be reached."""
    return "was not found" in str(error)


def says_not_found(error: BaseException) -> bool:
    """True if Lance says that something, be it a bucket, is not there."""
    return LANCE_NOT_FOUND.search(str(error)) is not None


def lance_store_failed(error: BaseException) -> bool:
    """True if reading a Lance file failed because of the store; False if the file itself is damaged."""
    message = str(error)
    return LANCE_FILE_UNREACHABLE.search(message) is not None and not LANCE_READ_BEYOND_END.search(message)


def cause_of(error: BaseException) -> tuple[BaseException, str]:
    """The error that was raised in a Ray task or actor, or else `error` itself, and its message.

    Ray's RayTaskError has the original in `cause`; it is not imported here, since search runs without Ray.
    """
    inner = getattr(error, "cause", None)
    cause = inner if isinstance(inner, BaseException) else error
    return cause, str(cause).partition(RAY_ADVICE)[0]


def explained(error: BaseException) -> str | None:
    """The message for the user, with the cure; None for an unexpected error, for which a traceback says more."""
    cause, text = cause_of(error)
    if isinstance(cause, VistaError):
        return text
    if not isinstance(cause, OSError | ValueError):
        return None
    full = FULL.search(text) or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if not full and not STORE_FAILED.search(text):
        return None
    if full:
        said, cure = "no space is left where the tables are", "Free or add some"
    elif REFUSED.search(text):
        said, cure = "the object store refused the credentials", credentials_hint("s3://")
    else:
        said, cure = "the store of the tables failed", "Check that it can be reached"
    details = without_rust_location(text)[:LONGEST_MESSAGE]
    return f"{said}: {details}. {cure}, and run the same command again: what was committed stays"
