"""JSON values, and how they are fitted to the type of a column."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipelines.sources.lines import misfit
from pipelines.sources.types import is_list, is_text

LONGEST_NUMBER = 400  # digits of an integer; longer ones take quadratic time to parse
EXACT = 1 << 53  # up to which a double holds all integers
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")

# Makes a value fit: called with the value, its path for messages, and a list to which a message is added if it doesn't.
Fit = Callable[[Any, str, list[str]], Any]


class Repeated(dict):
    """An object that has a key several times; `names` are all of its keys."""

    names: list[str]


class TooLong(str):
    """The text of a number that neither an int of a few hundred digits nor a float holds."""

    __slots__ = ()


def number(text: str) -> float | TooLong:
    """A number with a fraction or exponent."""
    value = float(text)
    return value if math.isfinite(value) else TooLong(text)


def integer(text: str) -> int | TooLong:
    """A number without them."""
    return int(text) if len(text) <= LONGEST_NUMBER else TooLong(text)


def unique(pairs: list[tuple[str, Any]]) -> dict:
    """An object."""
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    repeated = Repeated(value)
    repeated.names = [name for name, _ in pairs]
    return repeated


DECODER = json.JSONDecoder(parse_float=number, parse_int=integer, object_pairs_hook=unique)


def shown(value: Any) -> str:
    """A value's JSON text."""
    return value if type(value) is TooLong else json.dumps(value, ensure_ascii=False)


def unfit(value: Any, path: str, problems: list[str], kind: pa.DataType | str) -> Any:
    """Null in place of a value that doesn't fit."""
    problems.append(misfit(path, shown(value), kind))
    return None


def fit_for(kind: pa.DataType) -> Fit:
    """How values are fitted to a type. Of lists and objects, the parts that don't fit become null."""
    if is_text(kind):
        return as_text
    if pa.types.is_integer(kind):
        return fit_integer(kind)
    if pa.types.is_floating(kind):
        return fit_float(kind)
    if pa.types.is_struct(kind):
        return fit_struct(kind)
    if is_list(kind):
        return fit_list(kind)
    return fit_boolean if pa.types.is_boolean(kind) else fit_other(kind)


def as_text(value: Any, path: str, problems: list[str]) -> str | None:
    """A string, or the JSON text of a number or boolean."""
    kind = type(value)
    if kind is str:
        if value.isascii() or is_unicode(value):
            return value
        problems.append(misfit(path, json.dumps(value), "text in UTF-8"))
        return None
    if value is None or kind is TooLong:
        return None if value is None else str(value)
    if kind in (int, float, bool):
        return json.dumps(value)
    return unfit(value, path, problems, "text")


def as_id(value: Any, path: str, problems: list[str]) -> str | None:
    """The text of an id, the same one for an integer however it is written."""
    if type(value) is float and value.is_integer():
        return str(int(value))
    return as_text(value, path, problems)


def is_unicode(text: str) -> bool:
    """False if the text has halves of surrogate pairs, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parsed_text(value: Any) -> Any:
    """The number that a string is the JSON text of, as tools write large integers; else the value itself."""
    if type(value) is str and len(value) <= LONGEST_NUMBER and (match := NUMBER.fullmatch(value)):
        return number(value) if match[2] or match[3] else int(value)
    return value


def fit_integer(kind: pa.DataType) -> Fit:
    """Integers of any spelling that the type holds."""
    bits = kind.bit_width
    low, high = (-(1 << bits - 1), 1 << bits - 1) if pa.types.is_signed_integer(kind) else (0, 1 << bits)

    def fit(value: Any, path: str, problems: list[str]) -> int | None:
        if value is None:
            return None
        found = parsed_text(value)
        if type(found) is float and found.is_integer():
            found = int(found)
        if type(found) is int and low <= found < high:
            return found
        return unfit(value, path, problems, kind)

    return fit


def fit_float(kind: pa.DataType) -> Fit:
    """Numbers. An integer that would be rounded doesn't fit."""
    largest = 3.4028235e38 if kind == pa.float32() else 65504.0 if kind == pa.float16() else math.inf
    exact = {16: 1 << 11, 32: 1 << 24}.get(kind.bit_width, EXACT)

    def fit(value: Any, path: str, problems: list[str]) -> float | None:
        if value is None:
            return None
        found = parsed_text(value)
        if type(found) is float and (abs(found) <= largest or not math.isfinite(found)):
            return found
        if type(found) is int and abs(found) <= largest and (abs(found) <= exact or is_exact(found, exact)):
            return float(found)
        return found if type(found) is float and math.isnan(found) else unfit(value, path, problems, kind)

    return fit


def is_exact(value: int, exact: int) -> bool:
    """True if a float whose mantissa holds integers up to `exact` holds an integer, too."""
    value = abs(value)
    return value.bit_length() <= 1023 and value % (1 << max(0, value.bit_length() - exact.bit_length() + 1)) == 0


def fit_boolean(value: Any, path: str, problems: list[str]) -> bool | None:
    """Booleans."""
    return value if value is None or type(value) is bool else unfit(value, path, problems, "bool")


def fit_other(kind: pa.DataType) -> Fit:
    """Dates and the like. Which strings and numbers are some, only pyarrow knows."""

    kinds = () if pa.types.is_null(kind) else (str,) if pa.types.is_timestamp(kind) else (str, int, float)

    def fit(value: Any, path: str, problems: list[str]) -> Any:
        fits = value is None or type(value) in kinds
        return value if fits else unfit(value, path, problems, kind)

    return fit


def fit_list(kind: pa.DataType) -> Fit:
    """Lists, with null in place of elements that don't fit."""
    fit_element = fit_for(kind.value_type)

    def fit(value: Any, path: str, problems: list[str]) -> list | None:
        if type(value) is list:
            place = f"an element of {path}"
            return [fit_element(element, place, problems) for element in value]
        return None if value is None else unfit(value, path, problems, "list")

    return fit


def fit_struct(kind: pa.DataType) -> Fit:
    """Objects, with null in place of fields that don't fit."""
    fits = {part.name: fit_for(part.type) for part in kind}

    def fit(value: Any, path: str, problems: list[str]) -> dict | None:
        if isinstance(value, dict):
            return {name: each(value.get(name), f"{path}.{name}", problems) for name, each in fits.items()}
        return None if value is None else unfit(value, path, problems, "struct")

    return fit


def repeats(value: Any, schema: pa.DataType) -> bool:
    """True if an object has a field of a struct several times, at any depth."""
    if isinstance(value, list) and is_list(schema):
        return any(repeats(element, schema.value_type) for element in value)
    if not isinstance(value, dict) or not pa.types.is_struct(schema):
        return False
    if isinstance(value, Repeated):
        known = [name for name in value.names if schema.get_field_index(name) >= 0]
        if len(known) > len(set(known)):
            return True
    return any(repeats(value[part.name], part.type) for part in schema if part.name in value and part.type.num_fields)
