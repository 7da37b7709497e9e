"""Where reports are written: beside the table by default, since whoever may read the table may read its report.

The driver's own disk would be the wrong place: on a cluster it goes with the node.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.storage.uris import absolute, filesystem
from pipelines.storage.walk import is_local
from vista_core import UsageError

KEPT: Final = 90  # pages of a table, of up to a megabyte each: three months of nights
NONE: Final = "none"
OF_A_RUN: Final = re.compile(r"\d{8}T\d{12}-[0-9a-f]{4}\.html")  # the name of a page that `Destination.of` chose
HTML: Final = "text/html; charset=utf-8"


def check_option(report: str | None) -> None:
    """Raise UsageError if --report is neither a page nor `none`: a run must not replace a file of another kind."""
    if report not in (None, NONE) and not str(report).endswith(".html"):
        raise UsageError(f"--report {report}: name a file that ends in .html, or `none`")


def absolute_option(report: str | None) -> str | None:
    """The option --report, with a path that is absolute."""
    return report if report is None or report == NONE else absolute(report)


def folder_of(db: str, table: str) -> str:
    """The folder with the reports of a table."""
    return f"{db}/{table}_reports"


@dataclass(frozen=True)
class Destination:
    """Where the report of a run goes."""

    uri: str
    folder: str | None = None  # in which earlier pages are removed; None for a file that the user named

    @classmethod
    def of(cls, report: str | None, reports: str, run: str) -> Destination | None:
        """By the option --report: the file that it names, none, or by default a page of `run` in a folder `reports`."""
        if report == NONE:
            return None
        return cls(f"{reports}/{run}.html", reports) if report is None else cls(report)

    def write(self, html: str) -> None:
        """Write the page, at once and in full. Raises what the store raises."""
        fs, path = filesystem(self.uri)
        if is_local(fs):
            write_local(Path(path), html)
        else:
            fs.pipe_file(path, html.encode(), **({"ContentType": HTML} if self.uri.startswith("s3") else {}))

    def remove_oldest(self) -> None:
        """Remove all pages of runs in the folder but the last KEPT; their names sort by the runs. Other files stay."""
        if self.folder is None:
            return
        fs, folder = filesystem(self.folder)
        pages = sorted(name for name in fs.ls(folder, detail=False) if OF_A_RUN.fullmatch(name.rpartition("/")[2]))
        for name in pages[:-KEPT]:
            with contextlib.suppress(FileNotFoundError):  # another run was faster
                fs.rm_file(name)


def write_local(path: Path, html: str) -> None:
    """Replace a file by the page: who opens it sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(html, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
