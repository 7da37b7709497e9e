"""WebDataset samples: consecutive members of a tar that have one name, apart from its ending."""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from pipelines.reasons import (
    IMAGE_TOO_LARGE,
    IMAGE_UNSUPPORTED,
    JSON_UNPARSABLE,
    OBJECT_UNREADABLE,
    SEVERAL_MEMBERS,
    TEXT_NOT_UTF8,
    TEXT_TOO_LARGE,
    Reject,
)
from pipelines.sources.images import CONVERT, IMAGE_SUFFIXES, file_text
from pipelines.sources.json_types import exceeded, may_exceed
from pipelines.sources.limits import Limits
from pipelines.sources.tar import LINKS, Damage, Headers
from pipelines.storage.errors import READ_ERRORS
from vista_core.image_limits import OTHER_SUFFIXES

KEY, IMAGE, JSON = "__key__", "image", "json"
TEXTS = {"txt": ("txt", "text", "caption"), "cls": ("cls",)}  # columns, and the endings of their members, best first
METADATA = re.compile(
    r"__[^/]*__/|__meta__\.json$"
)  # names that `webdataset` and its older writers keep for themselves
PARSED = 8  # bytes of memory for a byte of JSON, at least
MEMBERS = (IMAGE, *TEXTS)  # columns that are members, not fields of the JSON member


@dataclass
class Sample:
    """The members with one key. Without a key, it stands for a damaged part of the tar."""

    key: str | None
    problems: list[Reject]  # why it can't be read; the first one counts
    contents: dict[str, bytes] = field(default_factory=dict)  # of members, by ending
    unused: set[str] = field(default_factory=set)  # endings that no column is made of
    members: int = 0
    size: int = 0  # bytes of all members that were read

    def add(self, ending: str, member: tarfile.TarInfo, stream: IO[bytes], limits: Limits) -> None:
        """Read a member, if a column is made of it and the sample stays within the limits."""
        self.members += 1
        if self.members > limits.sample_members:
            self.unused.clear()
            self.contents.clear()
            problem = SEVERAL_MEMBERS.reject(f"it has more than {limits.sample_members:,} members, which is the limit")
            self.problems[:] = [problem]
        elif not is_image(ending) and not is_text(ending):
            self.unused.add(ending)
        elif ending in self.contents:
            self.problems.append(SEVERAL_MEMBERS.reject(f"it has several .{ending}, one after the other"))
        elif member.type in LINKS:
            message = f"its .{ending} is a link: pack the file (tar -h --hard-dereference)"
            self.problems.append(OBJECT_UNREADABLE.reject(message))
        elif is_text(ending) and member.size > limits.member_text_bytes:
            message = f"its .{ending} has {member.size:,} bytes, at most {limits.member_text_bytes:,} are read"
            self.problems.append(TEXT_TOO_LARGE.reject(message))
        elif self.size + member.size > limits.webdataset_sample_bytes:
            most = limits.webdataset_sample_bytes >> 20
            message = f"its .{ending} has {member.size:,} bytes, at most {most} MiB of a sample are read"
            self.problems.append(IMAGE_TOO_LARGE.reject(message, stage="read"))
        else:
            self.contents[ending] = stream.read(member.size)
            self.size += member.size

    @property
    def weight(self) -> int:
        """About how many bytes of memory the columns of the sample take."""
        return self.size + PARSED * len(self.contents.get(JSON, b""))

    @property
    def endings(self) -> set[str]:
        """The endings of all members."""
        return {*self.contents, *self.unused}

    def unread(self) -> set[str]:
        """Endings of members of which no column is made, at least not in this sample, as it has a better one."""
        used = {endings[0] for endings in self.texts().values()}
        return self.unused | {ending for endings in self.texts().values() for ending in endings} - used

    def unreadable_images(self) -> list[str]:
        """Endings of members that are images in formats that are not read."""
        return sorted(ending for ending in self.unused if last_suffix(ending) in OTHER_SUFFIXES)

    def texts(self) -> dict[str, list[str]]:
        """For each text column that has a member: the endings of its members, best first."""
        found = {name: [ending for ending in endings if ending in self.contents] for name, endings in TEXTS.items()}
        return {name: endings for name, endings in found.items() if endings}

    def read(self, limits: Limits) -> dict[str, Any] | Reject:
        """The columns of the sample, with a list of images; or why it can't be read."""
        if self.problems:
            return self.problems[0]
        record: dict[str, Any] = {}
        if images := [content for ending, content in self.contents.items() if is_image(ending)]:
            record[IMAGE] = images
        elif others := self.unreadable_images():
            return IMAGE_UNSUPPORTED.reject(f"its image is .{others[0]}: {CONVERT}", stage="read")
        ending = JSON
        try:
            if JSON in self.contents:
                record |= json_fields(self.contents[JSON], limits)
            for name, (ending, *_) in self.texts().items():
                record[name] = file_text(self.contents[ending])
        except UnicodeDecodeError as error:
            return TEXT_NOT_UTF8.reject(f"its .{ending}: {error}")
        except RecursionError:
            return JSON_UNPARSABLE.reject("its .json is nested too deeply")
        except ValueError as error:
            return JSON_UNPARSABLE.reject(f"its .json: {error}")
        return record


def samples(stream: IO[bytes], limits: Limits) -> Iterator[Sample]:
    """The samples of a tar, and its damaged parts.

    Damage may hide the last members of the sample before it and the first ones of the sample after it. No sample says
    how many members it has, and an image's text alone would pass for a record. So both samples are rejected. If the
    sample before the damage continues after it, only members of that one were lost. Raises ReadError where the tar is
    cut off; the sample before that is left out.
    """
    beside_damage = OBJECT_UNREADABLE.reject("a part of it may be lost: the tar is damaged beside it")
    sample, suspect = None, False
    for item in Headers(stream, limits.name_bytes):
        if isinstance(item, Damage):
            message = f"the tar is damaged from byte {item.start:,} to byte {item.end:,}"
            yield Sample(None, [OBJECT_UNREADABLE.reject(message)])
            if sample:
                sample.problems.append(beside_damage)
            suspect = True
        elif names := key_and_ending(item.name):
            if not sample or sample.key != names[0]:
                if sample:
                    yield sample
                sample = Sample(names[0], [beside_damage] if suspect else [])
            suspect = False
            sample.add(names[1], item, stream, limits)
    if sample:
        yield sample


def groups(found: Iterator[Sample], limits: Limits) -> Iterator[list[Sample]]:
    """Samples in groups within the limits. If an error ends the samples, those before it are yielded first."""
    group: list[Sample] = []
    size = 0
    try:
        for sample in found:
            group.append(sample)
            size += sample.weight
            if len(group) == limits.batch_samples or size >= limits.batch_bytes:
                yield group
                group, size = [], 0
    except READ_ERRORS:
        if group:
            yield group
        raise
    if group:
        yield group


def key_and_ending(name: str) -> tuple[str, str] | None:
    """A member's key and ending, divided at the first dot of its last part, as `webdataset` does.

    None if it belongs to no sample, like `README`, hidden files, and metadata (`__meta__/a.json`, `__meta__.json`).
    """
    path = posixpath.normpath(name).lstrip("/")
    folder, slash, base = path.rpartition("/")
    stem, _, ending = base.partition(".")
    if not stem or not ending or METADATA.match(path):
        return None
    return folder + slash + stem, ending.lower()


def is_text(ending: str) -> bool:
    """True for an ending of texts that are read, and of JSON."""
    return ending == JSON or any(ending in endings for endings in TEXTS.values())


def is_image(ending: str) -> bool:
    """True for an ending of images, or one like `left.jpg` that ends with one."""
    return last_suffix(ending) in IMAGE_SUFFIXES


def last_suffix(ending: str) -> str:
    """The suffix of a name with this ending: what follows the last dot."""
    return f".{ending.rpartition('.')[2]}"


def json_fields(content: bytes, limits: Limits) -> dict[str, Any]:
    """The fields of a JSON object, without those named like a member's column. Raises ValueError if it has none."""
    fields = json.loads(content.decode("utf-8-sig"))
    if not isinstance(fields, dict):
        raise ValueError(f"not an object but a {type(fields).__name__}")
    if may_exceed(content, limits) and (excess := exceeded(fields, limits)):
        raise ValueError(excess)
    "".join(fields).encode()  # raises for half a surrogate pair, which can't be in a column's name
    return {name: value for name, value in fields.items() if name not in (KEY, *MEMBERS)}
