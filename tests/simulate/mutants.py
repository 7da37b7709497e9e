"""Take the mechanisms out of the job one by one, and see that the simulation finds each: see --help.

    python -m tests.simulate.mutants

Each mutant is a copy of `pipelines` in which a few words are others. Its seeds are simulated until one fails.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """A mechanism that is taken out."""

    name: str
    file: str  # in `pipelines`
    old: str
    new: str

    def write(self, folder: Path) -> None:
        """Make a copy of the code without the mechanism."""
        for name in ("vista_core", "tests", "jobs"):
            (folder / name).symlink_to(ROOT / name)
        for path in (ROOT / "pipelines").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = folder / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
        changed = folder / "pipelines" / self.file
        text = changed.read_text()
        assert text.count(self.old) == 1, f"{self.file} does not have this once any more: {self.old}"
        changed.write_text(text.replace(self.old, self.new))


MUTANTS = (
    Mutant(
        "the lease is not looked for in the version that is built on",
        "tables/lease.py",
        "        if now is None or (now.run, now.ended) != (self.run, False):\n",
        "        if False:\n",
    ),
    Mutant(
        "a commit lands on whatever version is the latest",
        "tables/transactions.py",
        "    operation = lance.LanceOperation.Merge(fragments, table.lance_schema)\n",
        "    operation = lance.LanceOperation.Merge(fragments, table.lance_schema)\n"
        "    table = lance.dataset(table.uri)\n",
    ),
    Mutant(
        "a takeover commits no barrier",
        "tables/lease.py",
        "return (table if before is None or before.ended else commit_barrier(uri, lease)), lease",
        "return table, lease",
    ),
    Mutant(
        "a heartbeat is not watched for: a holder on another machine counts as dead",
        "tables/lease.py",
        "        if runs.last_heard(holder.run) != last:\n",
        "        if False:\n",
    ),
    Mutant(
        "nobody looks for another record with the id",
        "ingest/resolve.py",
        "    if holder is not None and listing_order(holder) <= listing_order(record.file):\n",
        "    if False:\n",
    ),
    Mutant(
        "replaced rows stay in the table",
        "ingest/fragments.py",
        "    leaving = [*resolution.replaced.values(), *resolution.removed.values()]\n",
        "    leaving = [*resolution.removed.values()]\n",
    ),
    Mutant(
        "rows of rejected records stay in the table",
        "ingest/fragments.py",
        "    leaving = [*resolution.replaced.values(), *resolution.removed.values()]\n",
        "    leaving = [*resolution.replaced.values()]\n",
    ),
    Mutant(
        "copied vectors are in the order in which they were found",
        "ingest/stored_values.py",
        "    stored = stored.take(pc.index_in(rows[ID], stored[ID]))\n    same =",
        "    stored = stored.take(pc.index_in(rows[ID], stored[ID])[::-1])\n    same =",
    ),
    Mutant(
        "a vector is copied whatever it was made of",
        "stages/select.py",
        "    same = pc.equal(records[FINGERPRINT], stored[column.fingerprint])\n",
        "    same = pc.is_valid(stored[column.fingerprint])\n",
    ),
    Mutant(
        "the manifest is written before the rows are committed",
        "ingest/commit.py",
        "                self.table = upsert(self.table, written.fragments, written.changed)\n",
        "                self.manifest.count(written.stats)\n                self.manifest.record()\n"
        "                self.table = upsert(self.table, written.fragments, written.changed)\n"
        "                self.manifest.stats.clear()\n",
    ),
    Mutant(
        "the manifest is believed without a look at the table",
        "ingest/manifest.py",
        "        if entry.held == held.get(file, RowChecksum()):\n",
        "        if True:\n",
    ),
    Mutant(
        "every commit is published",
        "embed/run.py",
        "    def judge_rejects() -> None:\n",
        "    def judge_rejects() -> None:\n        from pipelines.tables.publish import publish\n\n"
        "        publish(committer.table, committer.lease, committer.events)\n",
    ),
    Mutant(
        "a tag that moved after the lease was lost is not restored",
        "tables/publish.py",
        "    if after is not None and after.run != lease.run:\n",
        "    if False:\n",
    ),
    Mutant(
        "run ids are the time, whatever ids there are",
        "tables/run_ids.py",
        "    if earlier >= digits:\n",
        "    if False:\n",
    ),
    Mutant(
        "rejects of earlier runs stay",
        "ingest/commit.py",
        '                if run < last_read.get(file, ""):  # a later run has a greater id\n',
        "                if False:\n",
    ),
    Mutant(
        "rows whose record is gone are looked for in the latest version's addresses",
        "ingest/missing.py",
        "    accounted = committer.accounted | committer.retained\n",
        "    accounted = committer.retained\n",
    ),
    Mutant(
        "runs that died are not marked",
        "tables/runs.py",
        "        if runs.count_rows(abandoned):\n",
        "        if False:\n",
    ),
    Mutant(
        "upkeep goes on with the version of a run that took the table over",
        "ingest/commit.py",
        "        self.table = upkeep(self.table)\n        self.lease.check(self.table)\n",
        "        self.table = upkeep(self.table)\n",
    ),
    Mutant(
        "what fails after the lease was lost is not explained by that",
        "tables/lease.py",
        "                raise lost from error\n",
        "                del lost\n",
    ),
)


def main() -> int:
    """Simulate every mutant, and return the exit code: 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds each has to survive")
    parser.add_argument("--only", default="", help="only mutants whose name has this in it")
    options = parser.parse_args()
    survived = 0
    for mutant in MUTANTS:
        if options.only not in mutant.name:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="vista-mutant-") as folder:
            mutant.write(Path(folder))
            command = [sys.executable, "-m", "tests.simulate", "--seeds", str(options.seeds), "--stop"]
            ended = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": folder},
                capture_output=True,
                text=True,
                check=False,
            )
        found = re.search(r"BROKEN: (.*)(?:\n.*)*?\nseed (\d+) fails", ended.stdout)
        if not found:
            survived += 1
        what = f"seed {found[2]}: {found[1][:140]}" if found else f"SURVIVED: {(ended.stdout + ended.stderr)[-300:]}"
        print(f"{mutant.name} ({time.monotonic() - began:.0f} s)\n    {what}", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
