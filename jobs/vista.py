"""The console command `vista`: a subcommand for each entry of COMMANDS, with the options of the file of its job."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from jobs import run
from pipelines.options import parse
from pipelines.terminal import show


@dataclass(frozen=True)
class Command:
    """A command, by the names of what it consists of, so that it is imported only when it is called."""

    config: str  # `module:class` of its options
    function: str  # `module:function` that takes them
    summary: str


COMMANDS = {
    "embed": Command(
        "pipelines.embed.config:EmbedConfig", "pipelines.embed.run:embed", "embed what is new or changed in a source"
    ),
    "search": Command("pipelines.search.config:SearchConfig", "pipelines.search.run:search", "search a table"),
    "index": Command("pipelines.index.config:IndexConfig", "pipelines.index.run:index_table", "build measured indexes"),
    "rollback": Command(
        "pipelines.rollback:RollbackConfig", "pipelines.rollback:roll_back_table", "publish an earlier version again"
    ),
}


def run_command(name: str, arguments: list[str] | None = None, program: str | None = None) -> int:
    """Run a command with `arguments` (default: the command line), and return the exit code."""
    command = COMMANDS[name]
    return run(lambda: show(str(load(command.function)(parse(load(command.config), arguments, program))), sys.stdout))


def load(name: str) -> Any:
    """Import what a `module:attribute` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main(arguments: list[str] | None = None) -> int:
    """Run `vista COMMAND OPTIONS`, and return the exit code."""
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        return run_command(name, options, f"vista {name}")
    lines = [f"  {each:10} {command.summary}" for each, command in COMMANDS.items()]
    usage = "\n".join(["usage: vista COMMAND [OPTIONS]", "", *lines, "", "vista COMMAND --help explains the options."])
    if name in ("-h", "--help"):
        print(usage)
        return 0
    print(f"there is no command {name!r}\n\n{usage}", file=sys.stderr)
    return 2
