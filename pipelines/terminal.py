"""Text for people: what a terminal would obey, or hide, is written as an escape.

Texts, names and ids of a catalog are data. On a terminal their control characters could clear the screen, forge lines,
or reverse what is read. Tables keep them as they are.
"""

from __future__ import annotations

import os
import re
from typing import TextIO

# Control characters (C0, DEL, C1), line separators, those that change the direction of text (but not the marks and
# joiners that ordinary text needs), invisible ones, tags, and surrogates, which no encoding has.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def one_line(text: str) -> str:
    """`text` on one line, with escapes as JSON has them: `\\n`, `\\u001b`."""
    return UNSAFE.sub(lambda match: escape(match[0]), text)


def show(text: str, stream: TextIO) -> None:
    """Print text for people, or JSON lines; what is unsafe, or not in the stream's encoding, as escapes."""
    try:
        print(printable_lines(text, stream.encoding or "utf-8"), file=stream, flush=True)
    except BrokenPipeError:  # who reads has enough, as `head` does
        discard(stream)


def discard(stream: TextIO) -> None:
    """Write no more to a stream that nobody reads: Python would try to when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable_lines(text: str, encoding: str) -> str:
    """`text`, whose line ends stay, with escapes for what is unsafe or not in the encoding. JSON keeps its meaning."""
    safe = "\n".join(map(one_line, text.split("\n")))
    if is_encodable(safe, encoding):
        return safe
    return "".join(each if is_encodable(each, encoding) else escape(each) for each in safe)


def escape(character: str) -> str:
    """A character as JSON escapes it."""
    units = character.encode("utf-16-be", "surrogatepass")
    codes = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    return SHORT.get(character, codes)


def is_encodable(text: str, encoding: str) -> bool:
    """True if the encoding has every character of `text`."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
