"""A headless Chromium, Debian's package, and axe-core, which finds what people with disabilities can't use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
AXE = "axe-core@4.14.1"
IN_CI = bool(os.environ.get("CI"))


def absent(what: str) -> None:
    """Skip what needs a program that is not here; where everything is to be tested it must be here."""
    pytest.fail(what) if IN_CI else pytest.skip(what)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that is closed with the context."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        absent("no Chromium was found: `apt-get install chromium`, as .ci/run does")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def axe_source(folder: Path) -> str:
    """The source of axe-core, which is downloaded, since its licence (MPL-2.0) is another than this repository's."""
    npm = shutil.which("npm")
    if npm is None:
        absent("npm, which fetches axe-core, was not found")
    done = subprocess.run([npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, timeout=120)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        absent(f"axe-core could not be fetched: {done.stderr.strip()}")
    with tarfile.open(archives[0]) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()
