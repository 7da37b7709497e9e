"""What is searched for: a query, and the rules that it must keep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from pipelines.options import AT_LEAST_0, AT_LEAST_1, check_options
from vista_core import UsageError
from vista_core.preprocessor import ImageSource

Mode = Literal["vector", "text", "hybrid"]
MODES: Final[tuple[str, ...]] = get_args(Mode)
MOST_RESULTS: Final = 10_000  # k and offset together
LONGEST_FILTER: Final = 10_000  # characters
# Literals, quoted names and comments of SQL, in which parentheses mean nothing; then the parentheses.
SQL_TOKENS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|/\*.*?\*/|[()]""", re.DOTALL)


@dataclass(frozen=True)
class Query:
    """One query. Raises UsageError, which names the option, if it can't be one.

    With `like`, the id of a row, its vector is the query ("more like this"); with `like` and `text` its image together
    with the text ("this, but ..."). That row is not among the results.
    """

    text: str | None = None
    image: ImageSource | None = None
    like: str | int | None = None
    k: Annotated[int, AT_LEAST_1] = 10
    offset: Annotated[int, AT_LEAST_0] = 0
    where: str | None = None
    mode: Mode = "vector"
    exact: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for what can't be searched for."""
        check_options(self)
        if self.mode not in MODES:
            raise UsageError(f"--mode {self.mode!r} is none of {', '.join(MODES)}")
        if self.k + self.offset > MOST_RESULTS:
            raise UsageError(f"--k {self.k}: at most {MOST_RESULTS:,} results can be looked through")
        if self.like is not None and (self.image is not None or self.mode != "vector"):
            raise UsageError("a search for rows like another one takes no image, and no mode but `vector`")
        if self.text is None and self.image is None and self.like is None:
            raise UsageError("nothing to search with: give --text, --image, or both")
        if self.mode != "vector" and not (self.text or "").strip():
            raise UsageError(f"--mode {self.mode} searches for words: give --text")
        if self.mode == "text" and self.image is not None:
            raise UsageError("--mode text searches for words alone: leave out --image, or use --mode hybrid")

    @property
    def depth(self) -> int:
        """How many rows have to be ranked: those that are skipped, the results, and the row that is left out."""
        return self.offset + self.k + (self.like is not None)

    @property
    def needs_encoder(self) -> bool:
        """True if its vector is not stored in the table."""
        return self.mode != "text" and (self.like is None or bool(self.text))


def enclosed(where: str | None) -> str | None:
    """A SQL filter in parentheses; None if it is empty. Raises UsageError if it can't be one expression.

    Lance reads a filter up to the end of its first expression and ignores what follows. In parentheses, which must not
    be closed before the end, nothing can follow.
    """
    if where is None or not where.strip():
        return None
    if len(where) > LONGEST_FILTER:
        raise UsageError(f"--where has {len(where):,} characters; at most {LONGEST_FILTER:,} are possible")
    depth = 0
    for token in SQL_TOKENS.findall(where):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth < 0:
            break
    if depth:
        raise UsageError(f"--where {where!r}: its parentheses don't match")
    return f"({where}\n)"  # on a line of its own, since the filter may end in a comment
