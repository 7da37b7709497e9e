"""What ended a run, in words: of errors that come through Ray's wrapping, and of stores that fail under Lance."""

from __future__ import annotations

import errno
import re

from ray.exceptions import RayTaskError

from pipelines.sources.objects import credentials_hint
from vista_core import VistaError

# Ray Data appends advice on its own settings to what a stage raised.
RAY_ADVICE = "\nFailed to apply UDF transform"
# pylance raises OSError and ValueError for whatever befalls a store; only the message says what it was.
STORE_FAILED = re.compile(r"LanceError\(IO\)|Generic \S+ error|object store|os error \d+")
RUST_SOURCE = re.compile(r", /\S+\.rs:\d+:\d+")
REFUSED = re.compile(r"ExpiredToken|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|\b40[13]\b|credential", re.I)
FULL = re.compile(r"No space left|os error 28|Disk quota exceeded")
LONGEST = 600


def cause_of(error: BaseException) -> tuple[BaseException, str]:
    """The error that a task or actor raised, or else the error itself, and what it says."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return cause, str(cause).partition(RAY_ADVICE)[0]


def explained(error: BaseException) -> str | None:
    """What to tell the user, with the cure; None for an error that nobody foresaw, of which a traceback tells more."""
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
    details = RUST_SOURCE.sub("", " ".join(text.split()))[:LONGEST]
    return f"{said}: {details}. {cure}, and run the same command again: what was committed stays"
