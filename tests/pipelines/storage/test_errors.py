"""What a user is told when a store fails under the job."""

import errno
import re

import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError

from pipelines.storage.errors import cause_of, explained
from vista_core import UsageError

ADVICE = "\nFailed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, configure"
EXPIRED = (
    "LanceError(IO): Generic S3 error: Error performing PUT http://s3/t.lance/_versions/7.manifest in 1ms - Server "
    "returned non-2xx status code: 403 Forbidden: <Error><Code>ExpiredToken</Code></Error>, /home/x/rust/lance.rs:12:3"
)
DENIED = (
    "External error: LanceError(IO): Generic N/A error: LanceError(IO): The operation lacked the necessary privileges "
    "to complete for path t.lance/data/1.lance"
)


def from_a_worker(error: Exception) -> BaseException:
    return RayTaskError("task", "Traceback ...", error).as_instanceof_cause()


@pytest.mark.parametrize("wrapped", [False, True], ids=["on the driver", "on a worker"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(EXPIRED), "the object store refused the credentials: .*ExpiredToken.* Check AWS_ACCESS_KEY_ID"),
        (ValueError(EXPIRED), "refused the credentials"),
        (pa.ArrowInvalid(DENIED), "refused the credentials"),
        (OSError("LanceError(IO): No space left on device (os error 28)"), "no space is left .* Free or add some"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
        (OSError("LanceError(IO): Generic S3 error: connection refused"), "the store of the tables failed"),
        (UsageError("--db: no such place" + ADVICE), "^--db: no such place$"),
    ],
)
def test_a_failure_is_said_with_its_cure(error, said, wrapped):
    message = explained(from_a_worker(error) if wrapped else error)
    assert re.search(said, message), message
    assert ".rs:" not in message
    if not isinstance(error, UsageError):
        assert message.endswith("run the same command again: what was committed stays")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("whatever"), KeyError("x"), ZeroDivisionError()])
def test_of_what_nobody_foresaw_a_traceback_tells_more(error):
    assert explained(error) is None
    assert cause_of(error)[0] is error
