"""Every reason for which a record can be rejected: the stage that finds it, and what follows for its row and its file.

`python -m pipelines.reasons` prints the table of docs/rejects.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["read", "select", "fetch", "decode", "encode", "write"]
LONGEST_MESSAGE = 500


@dataclass(frozen=True)
class Reject:
    """Why a record became a row of `NAME_rejects` instead of one of the table."""

    stage: str
    reason: str
    message: str


@dataclass(frozen=True)
class Reason:
    """A reason, and its consequences.

    `retryable`: a later run may accept the record although its file is unchanged, so that file is read again.
    `removes_row`: the row that the table has of an earlier, good version of the record leaves the table (unless
    `--keep-stale`). False where nothing is known of the record's content, since the fault is that of a store or server.
    `harmless`: nothing is lost, so the record doesn't count towards `--max-reject-rate`.
    """

    name: str
    stage: Stage
    meaning: str
    retryable: bool = False
    removes_row: bool = True
    harmless: bool = False

    def reject(self, message: str, stage: Stage | None = None) -> Reject:
        """A record that is rejected for this reason, by default in the stage that usually finds it."""
        return Reject(stage or self.stage, self.name, message[:LONGEST_MESSAGE])


OBJECT_UNREADABLE = Reason(
    "object_unreadable",
    "read",
    "A part of the file is damaged, the file or folder can't be opened, or it is a link out of the source.",
    True,
    removes_row=False,
)
LINE_UNPARSABLE = Reason("line_unparsable", "read", "A line is not valid JSON, or has the wrong number of CSV fields.")
JSON_UNPARSABLE = Reason(
    "json_unparsable", "read", "The `.json` of a WebDataset sample is not a JSON object that can be read."
)
TEXT_NOT_UTF8 = Reason("text_not_utf8", "read", "A string is not valid UTF-8.")
TEXT_TOO_LARGE = Reason(
    "text_too_large",
    "read",
    "A text or a whole row is larger than is read, or a text has no space in a million characters; see Limits.",
)
COLUMN_TYPE = Reason(
    "column_type",
    "read",
    "The text or image is no text or image; with `--strict-columns`: a value doesn't fit its column.",
)
IMAGE_BASE64_INVALID = Reason(
    "image_base64_invalid", "read", "The image is text, base64 or a `data:` URI, that is damaged or cut off."
)
SEVERAL_IMAGES = Reason(
    "several_images", "read", "A WebDataset sample has several images, the first samples one; or a list has over 1,000."
)
SEVERAL_MEMBERS = Reason(
    "several_members", "read", "A WebDataset sample has two members with the same ending, or over 1,000."
)
ID_INVALID = Reason(
    "id_invalid", "read", "The id is a fraction, or a float beyond 2^53, which stands for several whole numbers."
)
MISSING_ID = Reason("missing_id", "select", "The id is null or empty.")
EMPTY_RECORD = Reason("empty_record", "select", "The record has neither text nor image.")
DUPLICATE_ID = Reason(
    "duplicate_id", "select", "Another record of the table has the same id; the first in listing order keeps it.", True
)
REPEATED_CONTENT = Reason(
    "repeated_content",
    "select",
    "Records have no ids, and another one has the same content: one row stands for both. Doesn't count towards "
    "`--max-reject-rate`.",
    True,
    harmless=True,
)
IMAGE_NOT_STORED = Reason(
    "image_not_stored",
    "select",
    "A backfill: the row was embedded with an image that the table doesn't hold, since it was made without "
    "`--store-images`.",
)
URI_INVALID = Reason("uri_invalid", "fetch", "The image's URI is malformed or ambiguous.", retryable=True)
URI_NOT_ALLOWED = Reason(
    "uri_not_allowed",
    "fetch",
    "The image is outside the source and every `--allow-prefix`, or its server's address is not public.",
    True,
    removes_row=False,
)
FETCH_NOT_FOUND = Reason("fetch_not_found", "fetch", "Nothing is at the image's URI.", retryable=True)
FETCH_FORBIDDEN = Reason("fetch_forbidden", "fetch", "The server or store denies access.", True, removes_row=False)
FETCH_TIMEOUT = Reason(
    "fetch_timeout", "fetch", "The image did not arrive within `--fetch-timeout`.", True, removes_row=False
)
FETCH_TOO_LARGE = Reason("fetch_too_large", "fetch", "The image is larger than `--max-image-mb`.", retryable=True)
FETCH_FAILED = Reason("fetch_failed", "fetch", "The server or store failed.", retryable=True, removes_row=False)
IMAGE_UNREADABLE = Reason("image_unreadable", "decode", "The image file can't be opened.")
IMAGE_UNDECODABLE = Reason("image_undecodable", "decode", "The bytes are not an image that can be decoded.")
IMAGE_TRUNCATED = Reason("image_truncated", "decode", "The image is cut off.")
IMAGE_TOO_LARGE = Reason("image_too_large", "decode", "The image has too many pixels, or its file too many bytes.")
IMAGE_TOO_ELONGATED = Reason("image_too_elongated", "decode", "The image is too elongated to be resized.")
IMAGE_UNSUPPORTED = Reason(
    "image_unsupported",
    "decode",
    "The image has a format or pixel format that is not read, or is cut into too many pieces.",
)
DECODER_CRASHED = Reason(
    "decoder_crashed", "decode", "Decoding the record ends the process: a library crashes, or takes more than 4 GiB."
)
DECODER_TIMEOUT = Reason("decoder_timeout", "decode", "Decoding the record takes longer than two minutes.")
BAD_VECTOR = Reason("bad_vector", "encode", "The vector is not finite or not of norm 1.", retryable=True)

REASONS = {reason.name: reason for reason in tuple(globals().values()) if isinstance(reason, Reason)}


def markdown_table() -> str:
    """All reasons as the table of docs/rejects.md."""
    rows = [
        f"| `{each.name}` | {each.stage} | {each.meaning} | {'yes' if each.retryable else 'no'} "
        f"| {'leaves' if each.removes_row else 'stays'} |"
        for each in REASONS.values()
    ]
    head = ["| reason | stage | meaning | tried again each run | earlier row |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    print(markdown_table())
