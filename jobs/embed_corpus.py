"""Embed the records of a catalog that are new or changed, and publish the table. See --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `ray job submit` runs the file, not the package

from jobs import run_job
from pipelines.embed import embed
from pipelines.run_config import EmbedConfig

if __name__ == "__main__":
    sys.exit(run_job(EmbedConfig, embed))
