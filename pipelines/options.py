"""Options of the commands: read from the command line and a TOML file, and checked against their constraints.

Each command has its options in a frozen dataclass. The constraints are metadata of its fields, such as
`limit: Annotated[int | None, AT_LEAST_1] = None`, and `check_options` applies them.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from vista_core import UsageError

Config = TypeVar("Config")
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Constraint:
    """What an option's value must be. `words` complete the message `--option must be ..., not VALUE`."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, option: str, value: Any) -> None:
        """Raise UsageError, which names the option, if `value` does not satisfy the constraint."""
        if not self.holds(value):
            raise UsageError(f"{option} must be {self.words}, not {value!r}")


def is_name(value: str) -> bool:
    """True if `value` can precede `_rejects`, be the name of a folder, and precede `#` and a URI."""
    return value != "" and not value.startswith(".") and all(c.isascii() and (c.isalnum() or c in "_-.") for c in value)


SHARE = Constraint("between 0 and 1", lambda value: 0 <= value <= 1)
SHARE_ABOVE_0 = Constraint("more than 0 and at most 1", lambda value: 0 < value <= 1)
AT_LEAST_0 = Constraint("0 or more", lambda value: value >= 0)
AT_LEAST_1 = Constraint("1 or more", lambda value: value >= 1)
ABOVE_0 = Constraint("more than 0", lambda value: value > 0)
NAME = Constraint("a name of letters, digits, '_', '-' and '.', which does not start with '.'", is_name)


def check_options(config: Any) -> None:
    """Check the fields of a config dataclass against the constraints in their types; None is not checked.

    Raises UsageError, which names the first option that violates one.
    """
    for field, constraints in constraints_of(type(config)).items():
        value = getattr(config, field)
        for constraint in constraints if value is not None else ():
            constraint.check(option_name(field), value)


def constraints_of(kind: type) -> dict[str, list[Constraint]]:
    """The constraints of each field that has some."""
    hints = get_type_hints(kind, include_extras=True)
    metadata = {name: get_args(hint)[1:] for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: [each for each in values if isinstance(each, Constraint)] for name, values in metadata.items()}


def option_name(field: str) -> str:
    """The option that sets a field: `--max-image-mb` for `max_image_mb`."""
    return f"--{field.replace('_', '-')}"


def parse(kind: type[Config], arguments: list[str] | None = None, program: str | None = None) -> Config:
    """Read a config of type `kind` from `arguments` (default: the command line) and the files that --config names.

    Raises UsageError for a bad file or value. For bad syntax, tyro prints what is wrong and exits with 2.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path, action="append", default=[])
    given, typed = files.parse_known_args(arguments)
    # The last of several equal options counts, so typed options override those of a file.
    options = [option for path in given.config for option in options_of_file(kind, path)] + typed
    description = f"{inspect.getdoc(kind)}\n\n--config FILE reads options from a TOML file; typed options override it."
    return tyro.cli(kind, prog=program, args=options, description=description, config=(tyro.conf.FlagCreatePairsOff,))


def options_of_file(kind: Any, path: Path) -> list[str]:
    """A TOML file as command-line arguments. Names may have `-` or `_`; an option that `kind` lacks is an error."""
    try:
        options = {name.replace("-", "_"): value for name, value in tomllib.loads(path.read_text()).items()}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    known = sorted(field.name for field in dataclasses.fields(kind))
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(f"--config {path}: no such option: {', '.join(unknown)}; known: {', '.join(known)}")
    arguments = []
    for name, value in options.items():
        option = option_name(name)
        if value is True:
            arguments.append(option)
        elif value is not False:
            arguments += [f"{option}={each}" for each in (value if isinstance(value, list) else [value])]
    return arguments
