"""The console command `vista`: a subcommand for each entry of COMMANDS, with the options of the file of its job."""

from __future__ import annotations

import sys
from pkgutil import resolve_name as load

from jobs import run
from jobs.commands import COMMANDS
from jobs.parsing import parsed
from pipelines.notify import notify
from pipelines.terminal import show


def run_command(name: str, arguments: list[str] | None = None, program: str | None = None) -> int:
    """Run a command with `arguments` (default: the command line), and return the exit code."""
    command = COMMANDS[name]
    return run(lambda: show(str(load(command.function)(parsed(load(command.config), arguments, program))), sys.stdout))


def main(arguments: list[str] | None = None) -> int:
    """Run `vista COMMAND OPTIONS`, and return the exit code."""
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        return run_command(name, options, f"vista {name}")
    lines = [f"  {each:11} {command.summary}" for each, command in COMMANDS.items()]
    usage = "\n".join(["usage: vista COMMAND [OPTIONS]", "", *lines, "", "vista COMMAND --help explains the options."])
    if name in ("-h", "--help"):
        show(usage, sys.stdout)
        return 0
    message = f"there is no command {name!r}"
    print(f"{message}\n\n{usage}", file=sys.stderr)
    notify(2, message)
    return 2
