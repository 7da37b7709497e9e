"""Finding the files that a folder or glob names, on disks and in stores.

fsspec's own `find` and `glob` silently leave out the subfolders that can't be listed, and with them their files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.utils import glob_translate

from pipelines.storage.local import Folders, leads_out, with_cure
from pipelines.storage.uris import before_magic

# What programs keep beside data. Names that begin with a dot are hidden, too.
BOOKKEEPING = re.compile(
    r"_SUCCESS|_metadata|_common_metadata|_temporary|_spark_metadata|_(?:committed|started)_.*"  # Spark
    r"|_delta_log|_delta_index|_change_data|_symlink_format_manifest"  # Delta Lake
    r"|_impala_insert_staging|_distcp_logs.*|__MACOSX|Icon\r"
    r"|(?i:thumbs\.db|ehthumbs\.db|desktop\.ini|\$recycle\.bin|system volume information)"  # Windows
    r"|@eaDir|#recycle|lost\+found|#.*#"  # disk stations, file systems, Emacs
)
LOGS = ("_delta_log", ".hoodie", "metadata")  # folders that make the one that they are in a table
IN_LOG = re.compile(rf"(.*?/({'|'.join(map(re.escape, LOGS))}))/")
HIDDEN_START, HIDDEN_END = (".", "~$"), "_$folder$"  # of names: of locks of Microsoft Office, of Hadoop's folders in S3
# The ends of names of files that are being written or downloaded, and of copies that editors keep.
UNFINISHED = (
    *("~", "._copying_", ".tmp", ".temp", ".swp", ".swo", ".part", ".partial", ".filepart"),
    *(".crdownload", ".opdownload", ".download", ".incomplete", ".aria2"),
)
TABLE = ".lance"  # ends the names of the folders in which LanceDB has its tables
IN_A_TABLE = re.compile(r".+?(?:\.lance(?=/)|(?=/_versions/))", re.DOTALL)
NAMES_SHOWN = 3
FLAT = {"s3", "s3a", "gs", "gcs"}  # stores that list everything below a prefix at once, page by page


@dataclass
class Found:
    """What is below a folder."""

    root: str
    files: dict[str, dict] = field(default_factory=dict)  # fsspec's info by path; for a link, that of its target
    unlisted: dict[str, str] = field(default_factory=dict)  # folders that could not be listed, with the cause
    left_out: dict[str, str] = field(default_factory=dict)  # links to folders that must not be followed, with the cause
    logs: set[str] = field(default_factory=set)  # folders that are perhaps the log of a table
    tables: set[str] = field(default_factory=set)  # the folders of Lance tables below `root`
    unfinished: set[str] = field(default_factory=set)

    def keep_data(self, path: str) -> None:
        """Leave out folders, Lance tables below the root, and what programs keep beside data, but not `path` itself."""
        start = len(self.root.rstrip("/")) + 1
        self.tables |= {name[:start] + table[0] for name in self.files if (table := IN_A_TABLE.match(name, start))}
        inside = tuple(f"{table}/" for table in self.tables)
        data = {
            name: info
            for name, info in self.files.items()
            if not is_folder(info) and not name.startswith(inside) and (name == path or not hidden(name, self.root))
        }
        self.unfinished = {name for name in data if name.lower().endswith(UNFINISHED) and name != path}
        self.files = {name: info for name, info in data.items() if name not in self.unfinished}

    @property
    def notes(self) -> list[str]:
        """What is there beside files, in words."""
        parts = {
            "Lance table(s), to be named one by one": self.tables,
            "file(s) that are unfinished, temporary or an editor's copy": self.unfinished,
        }
        return [f"{len(names):,} {what}: {some(names)}" for what, names in parts.items() if names]


def some(names: set[str]) -> str:
    """The first of some names."""
    return ", ".join(sorted(names)[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def find(fs: Any, path: str, folders: Folders) -> Found:
    """The files that `path` names: a folder, one file, or a glob. Links lead into `folders`, or are not followed.

    A folder of a disk that can't be listed is noted. Raises the error of `path` itself, and those of a store.
    """
    if fsspec.core.has_magic(path):
        root = before_magic(path)
        try:
            found = walk(fs, root, path, folders)
        except FileNotFoundError:
            found = Found(root)
        matches = re.compile(glob_translate(path)).match
        found.files = {name: info for name, info in found.files.items() if matches(name)}
        if found.files or found.unlisted:
            return found
    # A plain path, a name with brackets, or a missing bucket, which a glob does not report.
    if is_flat(fs):
        root = path if fs.isdir(path) else path.rpartition("/")[0]
        return flat(root, fs.find(path, detail=True))
    try:
        info = fs.info(path)
    except FileNotFoundError:
        return Found(path)
    return walk(fs, path, None, folders) if is_folder(info) else Found(path.rpartition("/")[0], {path: info})


def walk(fs: Any, root: str, pattern: str | None, folders: Folders) -> Found:
    """What is below `root`, in the folders in which a file could match `pattern`.

    Links to folders are followed last, and only to what was not found under its own name.
    """
    if is_flat(fs) and (pattern is None or "**" in pattern):
        return flat(root, fs.find(root, detail=True))
    found = Found(root)
    waiting, linked, seen = [root], list[str](), set[str]()
    while waiting or linked:
        linked.sort()
        folder = waiting.pop() if waiting else linked.pop(0)
        real = os.path.realpath(folder) if is_local(fs) else folder
        if real in seen:
            continue
        seen.add(real)
        for info in entries(fs, folder, found):
            name = info["name"].rstrip("/")
            if is_folder(info) and name.rpartition("/")[2] in LOGS:
                found.logs.add(name)
            if not is_folder(info):
                found.files[info["name"]] = info
            elif name != folder and name.endswith(TABLE):
                found.tables.add(name)
            elif name != folder and not hidden(name, root) and may_lead_to(pattern, name):
                refusal = leads_out(name, folders) if info.get("islink") else ""
                if refusal:
                    found.left_out[name] = refusal
                else:
                    (linked if info.get("islink") else waiting).append(name)
    return found


def flat(root: str, files: dict[str, dict]) -> Found:
    """What a store lists at once."""
    return Found(root, files, logs={match[1] for match in map(IN_LOG.match, files) if match})


def entries(fs: Any, folder: str, found: Found) -> Iterator[dict]:
    """What is in a folder; links have the info of their target, if there is one."""
    try:
        listed = fs.ls(folder, detail=True)
    except OSError as error:
        if folder == found.root or not is_local(fs):
            raise
        found.unlisted[folder] = f"the folder can't be listed: {with_cure(error)}"
        return
    for info in listed:
        yield target(fs, info) if info.get("islink") else info


def target(fs: Any, link: dict) -> dict:
    """The target of a symbolic link, which fsspec gives for a single link but not in a listing."""
    try:
        return fs.info(link["name"])
    except OSError:
        return link  # the reader will say that it can't be read


def may_lead_to(pattern: str | None, folder: str) -> bool:
    """True if a file below `folder` could match the glob."""
    if pattern is None:
        return True
    parts, depth = pattern.split("/"), folder.count("/") + 1
    if "**" in parts[:depth]:
        return True
    return depth < len(parts) and re.match(glob_translate("/".join(parts[:depth])), folder) is not None


def hidden(name: str, root: str) -> bool:
    """True for dot files and what others write beside data, but not for `_DSC0001.jpg`, a camera's name."""
    parts = name.removeprefix(root).strip("/").split("/")
    return any(
        part.startswith(HIDDEN_START) or part.endswith(HIDDEN_END) or BOOKKEEPING.fullmatch(part) for part in parts
    )


def is_folder(info: dict) -> bool:
    """True if fsspec's info is that of a folder."""
    return info["type"] == "directory"


def is_local(fs: Any) -> bool:
    """True for the disks of this machine."""
    return "file" in protocols(fs)


def is_flat(fs: Any) -> bool:
    """True for a store without folders."""
    return not FLAT.isdisjoint(protocols(fs))


def protocols(fs: Any) -> tuple[str, ...]:
    """The schemes of a file system's URIs."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
