"""The errors that this package raises, with their exit codes.

    VistaError
    ├── UsageError         2  the command or call is wrong: the message names the option and what to give
    │   └── DownloadError  1  a file is neither here nor reachable: the message names it and the option for a local copy
    ├── CheckpointError    1  a weights file is damaged, or is another model's
    └── RecordError           one record is bad: it becomes a rejected row with a reason; other rows are unaffected

The first three end a run; a RecordError never does.
"""

from typing import Literal, get_args

RejectReason = Literal[
    "empty_record",
    "text_not_utf8",
    "text_too_large",
    "image_unreadable",
    "image_undecodable",
    "image_truncated",
    "image_too_large",
    "image_too_elongated",
    "image_unsupported",
]
REJECT_REASONS: tuple[str, ...] = get_args(RejectReason)


class VistaError(Exception):
    """Base class of all errors that this package raises on purpose."""

    exit_code = 1


class UsageError(VistaError):
    """A wrong option or argument; the message says what to change."""

    exit_code = 2


class DownloadError(UsageError):
    """A file of the model is not on this machine and could not be downloaded."""

    exit_code = 1


class CheckpointError(VistaError):
    """A weights file can't be read, or doesn't fit the model."""


class RecordError(VistaError):
    """One bad record: `reason` is one of REJECT_REASONS, `message` is for people, `index` its position in the call."""

    def __init__(self, reason: RejectReason, message: str, index: int | None = None) -> None:
        super().__init__(reason, message, index)
        self.reason: RejectReason = reason
        self.message = message
        self.index = index

    def __str__(self) -> str:
        position = "" if self.index is None else f"record {self.index}: "
        return f"{position}{self.reason}: {self.message}"
