"""SQL filters that others type: one expression, and none that costs more than its rows.

Lance's parser and planner are native code, to which a short filter can do harm: 800 operators in a row overflow its
stack, which ends the process, and 20 calls of `coalesce` inside each other take a minute.
"""

from __future__ import annotations

import re
from typing import Final

from vista_core import UsageError

LONGEST: Final = 10_000  # characters
MOST_TERMS: Final = 200  # names, keywords and operators; not values
DEEPEST: Final = 10  # parentheses inside each other
# Values, quoted names and comments, in which nothing has a meaning, and what has one. `other` are strings that end
# elsewhere: E'it\'s', $$it's$$.
TOKENS = re.compile(
    r"""(?P<value>'(?:[^']|'')*'|\d[\w.]*|,|\s+)|(?P<comment>--[^\n]*|/\*.*?\*/)"""
    r"""|(?P<other>\$|\w*[\w&]')|(?P<quoted>")|(?P<term>`[^`]*`|\w+)|(?P<open>[(\[])|(?P<close>[)\]])|(?P<sign>.)""",
    re.DOTALL,
)


def enclosed(where: str | None) -> str | None:
    """A filter in parentheses; None if it is empty. Raises UsageError if it can't be one expression, or is too long.

    Lance reads a filter up to the end of its first expression and ignores what follows. In parentheses, which must not
    be closed before the end, nothing can follow.
    """
    if where is None or not where.strip():
        return None
    if len(where) > LONGEST:
        raise UsageError(f"--where has {len(where):,} characters; at most {LONGEST:,} are possible")
    terms = depth = 0
    for token in TOKENS.finditer(where):
        kind = token.lastgroup
        if kind == "other":
            raise UsageError(f"--where {where!r}: write strings as 'it''s', with nothing before the first quote")
        if kind == "quoted":  # a string for Lance, and the name of a column in standard SQL: it would find nothing
            raise UsageError(f"--where {where!r}: write columns as they are or as `name`, and strings as 'it'")
        terms += kind in ("term", "sign")
        depth += (kind == "open") - (kind == "close")
        if not 0 <= depth <= DEEPEST:
            break
    if depth > DEEPEST:
        raise UsageError(f"--where {where!r}: at most {DEEPEST} parentheses can be inside each other")
    if depth:
        raise UsageError(f"--where {where!r}: its parentheses don't match")
    if terms > MOST_TERMS:
        raise UsageError(f"--where has {terms} names and operators; at most {MOST_TERMS} are possible")
    return f"({where}\n)"  # on a line of its own, since the filter may end in a comment
