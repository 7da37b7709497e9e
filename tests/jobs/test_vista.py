"""The console command `vista`, and the files that do the same for `ray job submit`."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs.vista import COMMANDS, load, main

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "embed": "embed_corpus.py",
    "backfill": "backfill.py",
    "search": "search.py",
    "serve": "serve.py",
    "index": "build_index.py",
    "rollback": "rollback.py",
    "switch": "switch.py",
    "drop-column": "drop_column.py",
    "evaluate": "evaluate.py",
    "compare": "compare.py",
    "finetune": "finetune.py",
}
REQUIRED = {
    "evaluate": "--output",
    "compare": "FIRST",
    "finetune": "--output",
}  # an option that the command can't do without; else --table

GIVEN = {"compare": ["a", "b"], "finetune": ["--data", "d", "--output", "o"]}


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def vista(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-c", "import sys; from jobs.vista import main; sys.exit(main())", *arguments)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed_with_a_line_each(arguments, capsys):
    assert main(arguments) == 0
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    for name, command in COMMANDS.items():
        assert [name, *command.summary.split()] in lines
    assert printed.err == ""


@pytest.mark.parametrize("name", ["embedd", "", "--text"])
def test_an_unknown_command_ends_with_2_and_the_list(name, capsys):
    assert main([name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"there is no command {name!r}" in printed.err
    assert all(each in printed.err for each in COMMANDS)


def test_every_command_has_a_file_for_ray_job_submit():
    files = {path.name for path in (ROOT / "jobs").glob("*.py")} - {
        "__init__.py",
        "vista.py",
        "commands.py",
        "parsing.py",
        "output.py",
    }
    assert files == set(FILES.values())
    assert FILES.keys() == COMMANDS.keys()


def test_pip_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert importlib.metadata.EntryPoint("vista", scripts["vista"], "console_scripts").load() is main


@pytest.mark.parametrize("name", COMMANDS)
def test_command_and_file_have_the_same_help(name, tmp_path):
    command = vista(name, "--help")
    file = run(str(ROOT / "jobs" / FILES[name]), "--help", folder=tmp_path)
    assert command.returncode == file.returncode == 0, command.stderr + file.stderr
    assert command.stdout.startswith(f"usage: vista {name} ")
    assert REQUIRED.get(name, "--table") in command.stdout
    assert command.stdout.splitlines()[1:] == file.stdout.splitlines()[1:]


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_usage_ends_with_2_and_names_the_option(name):
    given = GIVEN.get(name, ["--db", "d", "--table", "t"])
    missing, unknown = vista(name), vista(name, *given, "--sauce", "x")
    assert (missing.returncode, unknown.returncode) == (2, 2)
    assert REQUIRED.get(name, "--table") in missing.stderr
    assert "--sauce" in unknown.stderr
    assert "Traceback" not in missing.stderr + unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "--source", "s", "--db", "d", "--table", "a/b"], "--table must be a name"),
        (["embed", "--source", "s", "--db", "d", "--table", "t", "--sample", "7"], "--sample must be more than 0"),
        (["embed", "--config", "/no/such.toml"], "--config /no/such.toml"),
        (["search", "--db", "d", "--table", "t"], "nothing to search with"),
        (
            ["search", "--db", "/no/such/folder", "--table", "t", "--text", "x"],
            "there is no table t in /no/such/folder",
        ),
        (["rollback", "--db", "/no/such/folder", "--table", "t"], "there is no table t in /no/such/folder"),
        (["switch", "--db", "/no/such/folder", "--table", "t", "--column", "c"], "there is no table t in"),
        (["drop-column", "--db", "/no/such/folder", "--table", "t", "--column", "c"], "there is no table t in"),
    ],
)
def test_values_that_cannot_work_end_with_2_and_one_line(arguments, message):
    done = vista(*arguments)
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert f" ERROR jobs: {message}" in line


@pytest.mark.parametrize("name", ["search", "serve", "rollback", "switch", "drop-column"])
def test_commands_on_a_table_import_neither_ray_nor_the_embedding(name):
    program = "import sys; from jobs.vista import COMMANDS, load; [load(n) for n in sys.argv[1:]]; print(*sys.modules)"
    done = run("-c", program, COMMANDS[name].config, COMMANDS[name].function)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert COMMANDS[name].config.partition(":")[0] in modules
    assert not {module for module in modules if module.split(".")[0] == "ray" or module.startswith("pipelines.embed")}


def test_the_list_of_commands_imports_none_of_them():
    done = run("-c", "import sys; from jobs.vista import main; main([]); print(*sys.modules, file=sys.stderr)")
    modules = set(done.stderr.split())
    assert not {"ray", "lance", "torch", "pipelines.search", "pipelines.rollback", "pipelines.embed"} & modules


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_a_command_names_is_there(command):
    assert isinstance(load(command.config), type)
    assert callable(load(command.function))


def test_who_reads_a_help_may_stop_early():
    words = "import sys; from jobs.vista import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", words, "embed", "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        job.stdout.readline()
        job.stdout.close()
        said = job.stderr.read()
    assert (job.returncode, said) == (0, b"")
