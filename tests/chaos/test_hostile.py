"""All hostile inputs at once cost their own records: the rest is embedded, in bounded memory and time."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path

import lance
import psutil
import pytest

from tests.chaos.hostile import GOOD, Form, forms, http_answers
from tests.chaos.running import ROOT, environment, run, workers
from tests.hostile_server import serve_hostile

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]
MEMORY = 2 << 30  # of the largest worker
RATIO = 1.5  # of the time without the hostile inputs


class Peak:
    """Watches the memory of all Ray workers while the context lasts."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.largest = 0  # bytes of one worker, without what it shares with the object store
        self.watching = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        """Look ten times a second."""
        while not self.ended.wait(0.1):
            for pid in workers(""):
                try:
                    memory = psutil.Process(pid).memory_info()
                except psutil.Error:  # it has ended
                    continue
                self.largest = max(self.largest, memory.rss - memory.shared)

    def __enter__(self) -> Peak:
        self.watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.watching.join()


def embed(form: Form, folder: Path, address: str, server: str, table: str | None = None) -> float:
    """Run the job over one form, and return the seconds it took. It must end with exit code 0."""
    command = [sys.executable, str(ROOT / "jobs" / "embed_corpus.py"), "--source", str(folder / form.name)]
    command += ["--db", str(folder / "db"), "--table", table or form.name, "--max-reject-rate", "0.5"]
    command += ["--allow-prefix", f"{server}/"] if form.name == "http" else []
    began = time.monotonic()
    ended = run(command, environment(address))
    seconds = time.monotonic() - began
    print(f"{form.name}: {seconds:.1f} s\n{ended.output}")
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output and "\x1b" not in ended.output
    return seconds


def test_all_hostile_inputs_at_once(tmp_path: Path, ray_address: str):
    peak = Peak()
    seconds = Counter[str]()
    with serve_hostile(http_answers()) as server:
        all_forms = forms(server)
        for kind in ("clean", "hostile"):
            for form in all_forms:
                (tmp_path / kind / form.name).mkdir(parents=True)
                form.write(tmp_path / kind / form.name, kind == "hostile")
        embed(all_forms[-1], tmp_path / "clean", ray_address, server, "warm-up")  # starts the workers
        with peak:
            for form in all_forms:
                for kind in ("clean", "hostile"):
                    seconds[kind] += embed(form, tmp_path / kind, ray_address, server)
    for form in all_forms:
        check(form, str(tmp_path / "hostile" / "db"))
    print(f"seconds: {dict(seconds)}; largest worker: {peak.largest / 1e6:.0f} MB")
    assert peak.largest < MEMORY
    assert seconds["hostile"] <= RATIO * seconds["clean"]


def check(form: Form, db: str) -> None:
    """The good records are in the table, and of the hostile ones each has its reason."""
    table = lance.dataset(f"{db}/{form.name}.lance", version="published")
    ids = set(table.to_table(columns=["id"])["id"].to_pylist())
    rejects = lance.dataset(f"{db}/{form.name}_rejects.lance").to_table().to_pylist()
    found = Counter(each["reason"] for each in rejects)
    print(form.name, len(ids), dict(found))
    assert len({each for each in ids if form.is_good(each)}) == GOOD
    assert {each for each in ids if not form.is_good(each)} == form.accepted
    assert found == form.rejects
