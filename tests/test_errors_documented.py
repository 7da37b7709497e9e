"""docs/operations.md lists every error that ends a command, by words of its message, and none that no longer exists."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pipelines.storage.errors import explained

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/operations.md"
SECTION = "## When it did not end well"
VARIES = "..."  # in the page: what differs from one message to the next
HOLE = "\0"  # in a message of the source: what is filled in
FEWEST_LETTERS = 12  # of the words by which a message is found; fewer would be found in others, too
NEVER_END_A_COMMAND = {"RecordError", "HeaderError"}  # they become rejects
# What depends on nothing but options or a request, whose messages say what to write instead; and other programs.
NOT_LISTED = (
    *("pipelines/*/config.py", "pipelines/options.py", "pipelines/search/query.py", "pipelines/tables/filter.py"),
    *("pipelines/serve/api.py", "pipelines/serve/access.py"),
    *("vista_core/assemble.py", "vista_core/prove.py", "vista_core/released.py", "vista_core/drop_in.py"),
    "vista_core/linear.py",
)
PASS_ON_OTHERS = {  # messages that are put together of those of other errors, or of a library
    "pipelines/embed/recall.py: '; '.join(map(str, failed))",
    "pipelines/fetching/store.py: f'{redacted(location.uri)}: {cause}. {credentials_hint(location.uri)}'",
    "pipelines/quality/judgements.py: f'{file.uri}: {error}'",
    "pipelines/quality/judgements.py: str(error).removeprefix('--source ')",
    "pipelines/search/searcher.py: f'{named}: {error.message}'",
    "pipelines/sources/images.py: f'{uri}: {error}. {credentials_hint(uri)}'",
    "pipelines/storage/files.py: '. '.join([f'--source {uri}: {cause}', *found.notes, "
    "'A glob needs quotes in the shell'])",
    "pipelines/storage/files.py: f'{uri}: {type(error).__name__}: {error}. {credentials_hint(uri)}'",
    "pipelines/storage/model_files.py: f'{option}: {type(error).__name__}: {error}. {credentials_hint(uri)}'",
    "pipelines/tables/indexes.py: '; '.join(problems)",
    "pipelines/tables/upkeep.py: f'{what}: {said}'",
}

TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("pipelines", "jobs", "vista_core")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
Names = dict[str, list[ast.expr]]


def ending() -> set[str]:
    """The names of all classes of errors that end a command: VistaError and its heirs."""
    classes = {node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found = {"VistaError"}
    while heirs := {name for name, node in classes.items() if found & {*map(ast.unparse, node.bases)}} - found:
        found |= heirs
    return found - NEVER_END_A_COMMAND


def within(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or module, without those of the functions in it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from within(node)


def named(scope: ast.AST) -> Names:
    """What names are set to in a function or module."""
    found: Names = {}
    for node in within(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def text_of(value: ast.expr, names: Names) -> str:
    """A text as it is written out, also where a name is set to it in one place, with holes for what varies."""
    match value:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part, names) for part in parts)
        case ast.FormattedValue(value=inner):
            return text_of(inner, names)
        case ast.BinOp(left=left, right=right):
            return text_of(left, names) + text_of(right, names)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="format")) if name in names:
            return re.sub(r"\{\w+\}", HOLE, text_of(names[name][0], names))
        case ast.Name(id=name) if len(set_to := names.get(name, [])) == 1 and isinstance(set_to[0], ast.JoinedStr):
            return text_of(set_to[0], {key: each for key, each in names.items() if key != name})
    return HOLE


def returned(tree: ast.AST) -> dict[str, list[str]]:
    """The texts that functions return, by their names."""
    return {
        made.name: [
            text_of(node.value, named(made)) for node in within(made) if isinstance(node, ast.Return) and node.value
        ]
        for made in ast.walk(tree)
        if isinstance(made, ast.FunctionDef)
    }


def raised() -> Iterator[tuple[str, str, str]]:
    """Each message of an error that is made in the source and ends a command, with its file and its expression."""
    kinds = ending()
    anywhere = {name: found for tree in TREES.values() for name, found in returned(tree).items()}
    for place, tree in TREES.items():
        if any(fnmatch(place, pattern) for pattern in NOT_LISTED):
            continue
        returns = anywhere | returned(tree)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for scope in (tree, *functions):
            for node in within(scope):
                match node:
                    case ast.Call(func=ast.Name(id=kind) | ast.Attribute(attr=kind), args=[value, *_]) if kind in kinds:
                        found = [text_of(value, named(tree) | named(scope))]
                        match value:
                            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if found == [HOLE]:
                                found = returns.get(name, found)
                        yield from ((place, ast.unparse(value), text) for text in found)


RAISED = list(raised())


def listed() -> list[str]:
    """The messages in the tables of the section, without what varies at their ends."""
    section = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    return [
        message
        for cell in cells
        for message in re.findall(r"`` (.+?) ``|`([^`]+)`", cell)
        for message in message
        if message
    ]


LISTED = listed()


def letters(text: str) -> int:
    """The letters of a text, without those of the options that it names."""
    return len(re.sub(r"--[a-z-]+|[^A-Za-z]", "", text))


def has_words(text: str) -> bool:
    """True if a message has words of its own, or names an option."""
    return re.search("[A-Za-z]", text) is not None


def is_found_by(text: str, message: str) -> bool:
    """True if the words of a listed message are in a text, in their order."""
    if letters(message) < FEWEST_LETTERS:
        return message == text.replace(HOLE, VARIES)
    words = [re.escape(part.strip()) for part in message.split(VARIES) if part.strip()]
    return re.search(".*?".join(words), text, re.DOTALL) is not None


def test_every_error_that_ends_a_command_is_listed():
    missing = [
        f"{place}: {text.replace(HOLE, VARIES)}"
        for place, _, text in RAISED
        if has_words(text) and not any(is_found_by(text, message) for message in LISTED)
    ]
    assert not missing, f"not in the tables of {PAGE.name}, {SECTION}:\n" + "\n".join(missing)


def test_a_message_without_words_of_its_own_is_known():
    assert {f"{place}: {expression}" for place, expression, text in RAISED if not has_words(text)} == PASS_ON_OTHERS


def test_what_is_listed_exists():
    nodes = (node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Constant))
    literals = "\n".join(node.value for node in nodes if isinstance(node.value, str))
    longest = [max((part.strip() for part in message.split(VARIES)), key=letters) for message in LISTED]
    assert not [part for part in longest if part not in literals], "no message of the source has these words"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("LanceError(IO): Generic S3 error: ExpiredToken"),
        OSError("LanceError(IO): Generic S3 error: error sending request"),
    ],
    ids=["full", "refused", "unreachable"],
)
def test_failures_of_stores_are_listed(error):
    assert any(is_found_by(explained(error), message) for message in LISTED)


def test_every_gate_is_explained():
    calls = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    first = [node.args[0] for node in calls if ast.unparse(node.func) == "Verdict" and node.args]
    gates = {node.value for node in first if isinstance(node, ast.Constant)}
    assert len(gates) >= 8
    assert not {gate for gate in gates if f"`{gate}`" not in PAGE.read_text(encoding="utf-8")}


def test_errors_and_messages_are_found():
    """The checks above would pass if they found nothing."""
    assert len(RAISED) > 200
    assert {"LeaseHeldError", "GateError", "DownloadError", "TrainingError"} <= ending()
    assert len(LISTED) > 100
    assert not is_found_by("a new error of \0", "a new error that nobody wrote down")
