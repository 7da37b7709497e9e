"""What a job writes where: its summary to standard output, everything else to standard error."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from jobs import run_job
from pipelines.current_run import CURRENT
from pipelines.events import Reading
from pipelines.log_lines import logging_to_stderr
from pipelines.progress import RunProgress
from vista_core import UsageError, VistaError

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("pipelines.greetings")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@dataclass(frozen=True)
class Greeting:
    """Say hello."""

    name: str
    """Whom to greet."""


def greet(config: Greeting) -> str:
    LOG.debug("breathing in")
    LOG.info("greeting %s", config.name)
    LOG.warning("it is early")
    logging.getLogger("fsspec").info("of no interest")
    if config.name == "nobody":
        raise UsageError("--name nobody: there must be somebody")
    if config.name == "ghost":
        raise VistaError("ghosts don't answer")
    return f"hello {config.name}"


ENDINGS = [
    ("you", 0, "hello you\n", None),
    ("ghost", 1, "", "ghosts don't answer"),
    ("nobody", 2, "", "--name nobody: there must be somebody"),
]


@pytest.mark.parametrize(("name", "code", "out", "error"), ENDINGS)
def test_without_a_terminal_there_are_log_lines_and_the_summary_is_plain(name, code, out, error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["greet.py", "--name", name])
    assert run_job(Greeting, greet) == code
    printed = capsys.readouterr()
    assert printed.out == out
    expected = [f"{TIME} INFO pipelines.greetings: greeting {name}", f"{TIME} WARNING pipelines.greetings: it is early"]
    expected += [f"{TIME} ERROR jobs: {error}"] if error else []
    for line, pattern in zip(printed.err.splitlines(), expected, strict=True):
        assert re.fullmatch(pattern, line)


@pytest.mark.parametrize(("name", "code", "out", "error"), ENDINGS)
def test_on_a_terminal_there_are_plain_lines(name, code, out, error):
    controller, terminal = pty.openpty()
    program = f"import sys, tests.jobs.test_output as t; sys.exit(t.run_job(t.Greeting, t.greet, ['--name', '{name}']))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal, check=False
    )
    os.close(terminal)
    shown = os.read(controller, 10_000).decode().replace("\r", "")
    os.close(controller)
    assert (done.returncode, done.stdout.decode()) == (code, out)
    assert shown == f"greeting {name}\nit is early\n" + (f"error: {error}\n" if error else "")


EVIL = "\x1b[2J\x9b31m\u202egnp.exe\u2066\x07\x7f [red]x[/red] é"
SHOWN = r"\u001b[2J\u009b31m\u202egnp.exe\u2066\u0007\u007f [red]x[/red] é"


def greet_evil(config: Greeting) -> str:
    """Log, raise and return what a catalog may contain, with newlines where one value is one line."""
    LOG.info("greeting %s", f"{EVIL}\nforged line")
    LOG.warning(f"{EVIL}\nforged line")
    if config.name == "ghost":
        raise VistaError(f"{EVIL}\nforged line")
    return f"hello {EVIL}\nand {config.name}"


@pytest.mark.parametrize("name", ["you", "ghost"])
def test_data_reaches_no_terminal_as_control_characters(name, capsys):
    assert run_job(Greeting, greet_evil, ["--name", name]) == (name == "ghost")
    printed = capsys.readouterr()
    lines = [f"INFO pipelines.greetings: greeting {SHOWN}", f"WARNING pipelines.greetings: {SHOWN}"]
    lines += [f"ERROR jobs: {SHOWN}"] if name == "ghost" else []
    assert [line.partition(" ")[2] for line in printed.err.splitlines()] == [rf"{line}\nforged line" for line in lines]
    assert printed.out == ("" if name == "ghost" else f"hello {SHOWN}\nand you\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_shows_it(encoding):
    controller, terminal = pty.openpty()
    program = "import sys, tests.jobs.test_output as t; t.run_job(t.Greeting, t.greet_evil, ['--name', 'you'])"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=terminal, stderr=terminal, env=environment, check=True
    )
    os.close(terminal)
    shown = os.read(controller, 10_000).decode(encoding).replace("\r", "")
    os.close(controller)
    text = SHOWN.replace("é", r"\u00e9") if encoding == "ascii" else SHOWN
    assert shown == f"greeting {text}\\nforged line\n{text}\\nforged line\nhello {text}\nand you\n"


def test_beside_a_progress_bar_data_is_no_markup_either():
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with logging_to_stderr(), RunProgress(console=console) as progress:
        progress(Reading(1000, exact=True))
        LOG.warning("%s", EVIL)
    drawn = console.file.getvalue()
    assert SHOWN in drawn
    assert "\x1b[2J" not in drawn and "\x9b" not in drawn


def test_lines_are_json_on_request(capsys, monkeypatch):
    monkeypatch.setenv("VISTA_LOG", "json")
    monkeypatch.setattr(CURRENT, "id", "20260101T000000Z")
    with logging_to_stderr():
        LOG.warning("%s", EVIL)
        try:
            raise VistaError("full")
        except VistaError:
            LOG.exception("it failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["run"]) == ("WARNING", LOG.name, "20260101T000000Z")
    assert first["message"] == SHOWN and re.fullmatch(r"[-\d]+T[:\d]+\.\d{3}Z", first["time"])
    assert second["message"] == "it failed" and second["traceback"].endswith("VistaError: full")


def test_a_traceback_keeps_its_lines(capsys):
    with logging_to_stderr():
        try:
            raise VistaError(EVIL)
        except VistaError:
            LOG.exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == f"vista_core.errors.VistaError: {SHOWN}"


def test_an_unexpected_error_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_job(Greeting, lambda config: 1 / 0, ["--name", "you"])


def test_the_log_is_as_before_when_the_job_has_ended(capsys):
    before = list(logging.getLogger().handlers)
    run_job(Greeting, greet, ["--name", "you"])
    capsys.readouterr()
    assert logging.getLogger().handlers == before
    LOG.warning("nobody listens")
    assert capsys.readouterr().err == ""


def test_no_credentials_are_logged(capsys):
    def fail(config: Greeting) -> str:
        LOG.warning("asked %s", "https://me:s3cr3t@a.com/y?z=s3cr3t")
        raise VistaError("no answer of https://a.com/y?sig=s3cr3t")

    assert run_job(Greeting, fail, ["--name", "you"]) == 1
    said = capsys.readouterr().err
    assert "asked https://***@a.com/y?z=***" in said and "no answer of https://a.com/y?sig=***" in said
    assert "s3cr3t" not in said
