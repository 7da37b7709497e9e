"""Train a model on queries with what they should find. See --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `ray job submit` runs the file, not the package

from jobs.vista import run_command

if __name__ == "__main__":
    sys.exit(run_command("finetune"))
