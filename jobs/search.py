"""Search a published table exactly, by text, image, or both. See --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs where vista isn't installed

from jobs import run_job
from pipelines.run_config import SearchConfig
from pipelines.search import search

if __name__ == "__main__":
    sys.exit(run_job(SearchConfig, search))
