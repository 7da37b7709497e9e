"""Which columns of a source serve as a record's id, text and image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa

from pipelines.sources.types import is_bytes, is_list, is_number, is_text
from vista_core import UsageError
from vista_core.image_limits import is_image_start

# Usual column names in tar shards, Hugging Face datasets and shop catalogs, the most likely first.
ID_NAMES = ("__key__", "id", "_id", "key", "uid", "uuid", "item_id", "product_id", "asin", "sku")
TEXT_NAMES = ("txt", "text", "caption", "title", "description", "name", "alt", "prompt", "cls")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "photo", "picture", "images")
# Columns of strings that hold an image's path or URI. Not `url`, which is as often that of the page with the image.
URI_NAMES = (
    *("image", "img", "image_uri", "image_url", "image_path", "image_file", "img_url", "photo", "picture", "file_name"),
    *("images", "image_uris", "image_urls", "image_paths"),
)

Modality = Literal["text", "image"]
Look = Callable[[Sequence[str]], pa.Table]  # some of a source's first rows, in these columns


def no_rows(names: Sequence[str]) -> pa.Table:
    """A `Look` at a source without rows."""
    return pa.table({})


class Roles(NamedTuple):
    """The columns that serve as something."""

    id: str | None
    text: tuple[str, ...]
    image: str | None


def find_roles(schema: pa.Schema, named: Roles, look: Look, uri: str, only: Modality | None = None) -> Roles:
    """The columns that the user `named`, and those that are found by their usual names and types.

    With `only`, there is no column for the other modality. Raises UsageError if a named column is missing or
    unsuitable, if a column with the name of an id can't serve as one, or if there is nothing to embed.
    """
    taken = {named.id, *named.text, named.image}
    free = pa.schema([field for field in schema if field.name not in taken])
    key = pick(schema, "--id-column", named.id, is_key) or usual_id(free)
    texts = tuple(name for each in named.text if (name := pick(schema, "--text-column", each, is_text_part)))
    if not texts and only != "image" and (found := usual_text(free, look)):
        texts = (found,)
    image = pick(schema, "--image-column", named.image, is_image)
    if image is None and only != "text":
        image = usual_image(free, texts, look)
    if not texts and image is None:
        raise UsageError(
            f"--source {uri}: no column of text or images found among {describe_columns(schema)}. "
            "Name them with --text-column and --image-column"
        )
    return Roles(key, texts, image)


def pick(schema: pa.Schema, option: str, named: str | None, fits: Callable[[pa.DataType], bool]) -> str | None:
    """The column that the user named, if any. Raises UsageError if it is missing or has an unsuitable type."""
    if named is None:
        return None
    if named not in schema.names:
        raise UsageError(f"{option} {named}: no such column; there are {describe_columns(schema)}")
    if not fits(schema.field(named).type):
        raise UsageError(f"{option} {named}: a column of type {schema.field(named).type} can't serve as this")
    return named


def usual(schema: pa.Schema, names: Sequence[str], fits: Callable[[pa.DataType], bool]) -> str | None:
    """The first of `names` that is a column of a suitable type."""
    return next((name for name in names if name in schema.names and fits(schema.field(name).type)), None)


def usual_id(schema: pa.Schema) -> str | None:
    """The id column. Raises UsageError if a column is named like one and can't serve as one.

    Hashes of the content in place of ids would be another catalog, and nobody would notice.
    """
    if found := usual(schema, ID_NAMES, is_key):
        return found
    if unfit := usual(schema, ID_NAMES, lambda kind: True):
        raise UsageError(
            f"column {unfit!r} is named like an id, but a column of type {schema.field(unfit).type} can't serve as "
            "one. Name the id with --id-column; if records have none, rename this column"
        )
    return None


def usual_text(schema: pa.Schema, look: Look) -> str | None:
    """The text column: strings with a usual name, else bytes with a usual name that are text (as Spark writes it)."""
    if found := usual(schema, TEXT_NAMES, is_text):
        return found
    if (found := usual(schema, TEXT_NAMES, is_bytes)) is None:
        return None
    seen = values(look([found]), found)
    return found if 2 * sum(map(is_utf8, seen)) > len(seen) else None


def usual_image(schema: pa.Schema, texts: Sequence[str], look: Look) -> str | None:
    """The image column: bytes with a usual name, else the only bytes that are images, else usual paths or URIs."""
    schema = pa.schema([field for field in schema if field.name not in texts])
    if found := usual(schema, IMAGE_NAMES, has_bytes):
        return found
    candidates = [field.name for field in schema if has_bytes(field.type)]
    if candidates:
        rows = look(candidates)
        seen = {name: values(rows, name) for name in candidates}
        candidates = [name for name in candidates if not seen[name] or any(map(is_image_start, seen[name]))]
    if len(candidates) > 1:
        raise UsageError(
            f"the columns {', '.join(candidates)} have images. Name one with --image-column; the others pass through"
        )
    return candidates[0] if candidates else usual(schema, URI_NAMES, lambda kind: is_text(element(kind)))


def values(rows: pa.Table, name: str) -> list[bytes]:
    """The values of a column of bytes, structs of bytes, or lists of either."""
    found: list[bytes] = []
    for value in rows[name].to_pylist() if name in rows.column_names else ():
        for part in value if isinstance(value, list) else [value]:
            content = part.get("bytes") if isinstance(part, dict) else part
            if content is not None:
                found.append(content)
    return found


def is_utf8(content: bytes) -> bool:
    """True for text."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return not is_image_start(content)


def element(kind: pa.DataType) -> pa.DataType:
    """The element type of a list, or the type itself."""
    return kind.value_type if is_list(kind) else kind


def describe_columns(schema: pa.Schema) -> str:
    """Names and types, for an error message."""
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"


def is_key(kind: pa.DataType) -> bool:
    """True for what can be written as an id: strings, numbers and bytes; also for a column without any value yet."""
    return is_text(kind) or is_number(kind) or is_bytes(kind) or pa.types.is_fixed_size_binary(kind) or is_null(kind)


def is_null(kind: pa.DataType) -> bool:
    """True for a column of nulls."""
    return bool(pa.types.is_null(kind))


def is_text_part(kind: pa.DataType) -> bool:
    """True for what can be a text, or a part of it: strings, numbers, and bytes of text."""
    return is_text(kind) or is_number(kind) or is_bytes(kind) or is_null(kind)


def has_bytes(kind: pa.DataType) -> bool:
    """True for bytes, a struct with a field `bytes`, or a list of either."""
    kind = element(kind)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)
    return is_bytes(kind)


def is_image(kind: pa.DataType) -> bool:
    """True for image bytes, paths or URIs of images, or a list of either; also without any value yet."""
    return has_bytes(kind) or is_text(element(kind)) or is_null(kind)
